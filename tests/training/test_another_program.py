"""Another program or run of the same shapes is not taken for the one in a file, and other data are warned of."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

import pyro_vae
from pyro_vae import VAE, ContinuousBernoulli
from pyro_vae.nn.mlp import MLP
from pyro_vae.runtime.tensor_files import read_tensors, write_tensors
from tests.support.programs import weights

X = torch.bernoulli(torch.full((40, 4), 0.5), generator=torch.Generator().manual_seed(0))
STEPS = partial(torch.optim.lr_scheduler.StepLR, step_size=100)


def vae(activation="tanh", **options):
    torch.manual_seed(0)
    return VAE((4,), 2, (8,), activation=activation, **options)


def grey():
    return vae(likelihood=ContinuousBernoulli(MLP((2,), (4,), (8,), "tanh"), (4,)))


def train(program, folder, data=X, **options):
    defaults = {"num_epochs": 2, "batch_size": 20, "seed": 0, "progress": False, "checkpoint": folder}
    return pyro_vae.fit(program.model, program.guide, data, **defaults | options)


@pytest.mark.parametrize(
    ("other", "found"),
    [(partial(vae, "relu"), "found ReLU, its recipe has Tanh"), (grey, "found ContinuousBernoulli")],
    ids=["activation", "likelihood"],
)
class TestOtherPrograms:
    def test_loading_names_the_part_that_differs(self, other, found, tmp_path):
        pyro_vae.save(vae(), tmp_path)
        program = other()
        before = weights(program)
        for given in (program, (program.model, program.guide)):
            with pytest.raises(ValueError, match=rf"holds another program: part 'model\.likelihood.*{found}"):
                pyro_vae.load(tmp_path, given)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(program).items())
        pyro_vae.load(tmp_path, program, verify=False)
        assert all(torch.equal(tensor, weights(program)[name]) for name, tensor in weights(vae()).items())

    def test_resuming_names_it_and_changes_nothing(self, other, found, tmp_path):
        train(vae(), tmp_path)
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match=f"holds another program: .*{found}"):
            train(other(), tmp_path, num_epochs=3, resume=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_the_same_program_said_in_other_words_is_the_same(tmp_path):
    pyro_vae.save(vae(), tmp_path)
    same = vae(likelihood=pyro_vae.Bernoulli(MLP((2,), (4,), (8,), "tanh"), (4,)))
    assert same.recipe != vae().recipe
    pyro_vae.load(tmp_path, same)


def test_other_data_are_warned_of_and_validation_data_are_neither_added_nor_left_out(tmp_path):
    program = vae()
    train(program, tmp_path, valid=X[:10])
    with pytest.warns(UserWarning, match="^valid: found other rows than those of the run in"):
        train(program, tmp_path, valid=X[10:20], num_epochs=3, resume=True)
    with pytest.warns(UserWarning, match="^data: found other rows"):
        train(program, tmp_path, 1 - X, valid=X[10:20], num_epochs=4, resume=True)
    with pytest.raises(ValueError, match="^valid: found none, expected some as in the run"):
        train(program, tmp_path, 1 - X, num_epochs=5, resume=True)


def test_a_scheduler_goes_on_from_the_rate_of_the_beginning(tmp_path):
    train(vae(), tmp_path, scheduler=STEPS, lr=1e-3)
    with pytest.raises(ValueError, match=r"^lr: found 0\.1, expected 0\.001 as in the run"):
        train(vae(), tmp_path, scheduler=STEPS, lr=0.1, num_epochs=3, resume=True)
    assert len(train(vae(), tmp_path, scheduler=STEPS, lr=1e-3, num_epochs=3, resume=True).records) == 3


def test_moments_of_adam_stay_where_no_scheduler_moves_them(tmp_path):
    adam = partial(torch.optim.Adam, betas=(0.5, 0.9))
    train(vae(), tmp_path)
    with pytest.raises(ValueError, match=r"betas\[0\]: found 0\.9, expected 0\.5"):
        train(vae(), tmp_path, optimizer=adam, num_epochs=3, resume=True)


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """It tells nothing of its program, its data or its rate."""
    train(vae(), tmp_path, scheduler=STEPS, valid=X[:10])
    path = tmp_path / "last.safetensors"
    tensors, metadata = read_tensors(path)
    run = json.loads(metadata["run"])
    for name in ("program", "data", "valid", "lr"):
        del run["facts"][name]
    write_tensors(path, tensors, {"run": json.dumps(run)})
    assert len(train(vae(), tmp_path, scheduler=STEPS, valid=X[:10], num_epochs=3, resume=True).records) == 3
