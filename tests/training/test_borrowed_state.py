"""fit and the state of the process: seeds, flags, modes, precision and the parameter store, all given back."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import nn

import pyro_vae
from pyro_vae import ELBO, IWAE, training
from tests.support.programs import PAIRS, TutorialModel, bits, fit, named, same, vae, weights

X = bits(24)


class TestGlobalState:
    def test_a_seed_gives_the_same_run_and_leaves_the_generators_alone(self):
        start, state = vae().state_dict(), torch.get_rng_state()
        after = []
        for draws in range(2):
            program = vae()
            program.load_state_dict(start)
            torch.manual_seed(draws)  # whatever the global generator has drawn
            before = torch.get_rng_state()
            history = fit(program, pyro_vae.data.load(X, binarize="dynamic"), seed=4)
            assert torch.equal(torch.get_rng_state(), before)
            bounds = [(record["train_bound"], record["valid_bound"]) for record in history.records]
            after.append((weights(program), bounds))
        assert same(after[0][0], after[1][0]) and after[0][1] == after[1][1]
        program.load_state_dict(start)
        fit(program, pyro_vae.data.load(X, binarize="dynamic"), seed=5)
        assert not same(weights(program), after[0][0])
        torch.set_rng_state(state)

    def test_without_a_seed_the_run_draws_on_from_the_global_generator(self):
        start, after = vae().state_dict(), []
        for seed in (1, 1, 2):
            program = vae()
            program.load_state_dict(start)
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            fit(program, seed=None)
            assert not torch.equal(torch.get_rng_state(), before)
            after.append(weights(program))
        assert same(after[0], after[1]) and not same(after[0], after[2])

    @pytest.mark.parametrize("fails", [False, True])
    def test_modes_flags_and_precision_are_given_back_also_after_an_exception(self, fails):
        program = pyro_vae.VAE(
            prior=pyro_vae.StandardNormal(2),
            likelihood=pyro_vae.Bernoulli(pyro_vae.MLP(2, (4, 4), (5,)), (4, 4)),
            posterior=pyro_vae.DiagonalNormal(nn.Sequential(nn.Dropout(0.5), pyro_vae.MLP((4, 4), (2, 2), (5,)))),
        )
        program.model.eval()
        program.guide.train()
        modes = [module.training for module in program.modules()]
        inside = []

        def callback(record):
            modes_inside = {module.training for half in (program.model, program.guide) for module in half.modules()}
            validation = pyro.infer.util.is_validation_enabled()
            inside.append((modes_inside, validation, torch.get_float32_matmul_precision()))
            if fails:
                raise KeyError("the user's own")

        def run():
            fit(program, callbacks=[callback], precision="medium", num_epochs=1)

        pyro.enable_validation(True)
        if fails:
            with pytest.raises(KeyError, match="the user's own"):
                run()
        else:
            run()
        assert inside == [({True}, False, "medium")]
        assert [module.training for module in program.modules()] == modes
        assert pyro.infer.util.is_validation_enabled()
        assert torch.get_float32_matmul_precision() == "highest"

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(num_particles=2), Trace_ELBO(), TraceGraph_ELBO()], ids=named)
    def test_the_parameter_store_is_neither_read_nor_written(self, objective):
        # A stranger's parameter under the very name that the guide's has, and of another shape.
        store = pyro.get_param_store()
        pyro.param("posterior.network.output.bias", torch.zeros(3))
        fit(vae(), objective=objective, valid=X)
        assert list(store.keys()) == ["posterior.network.output.bias"]
        assert torch.equal(pyro.param("posterior.network.output.bias"), torch.zeros(3))

    def test_batch_statistics_move_in_training_alone(self):
        model, guide = PAIRS["tutorial"]()
        norm = model.decoder[1]
        assert isinstance(model, TutorialModel) and isinstance(norm, nn.BatchNorm1d)
        training.fit(model, guide, X, valid=X, num_epochs=2, batch_size=6, progress=False)
        assert norm.num_batches_tracked.item() == 8  # neither the check before nor validation counts
