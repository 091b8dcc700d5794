"""save and load: what comes back is what was saved, and what does not fit is said."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae import log_weights, training
from tests.support.programs import (
    IMAGE,
    LIKELIHOODS,
    NETWORKS,
    PAIRS,
    HierarchyGuide,
    HierarchyModel,
    TutorialGuide,
    TutorialModel,
    bits,
    packaged,
    perturbed,
    same,
    vae,
    weights,
)

X = bits(6)
WEIGHTS = "checkpoint.safetensors"


def scores(model, guide, dtype=torch.float32):
    torch.manual_seed(3)
    return log_weights(model, guide, X.to(dtype), num_particles=2)


class TestRoundTrip:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_packaged_program_comes_back_from_the_folder_alone(self, likelihood, network, dtype, tmp_path):
        program = perturbed(packaged(likelihood, network).to(dtype))
        pyro_vae.save(program, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "program.json"}
        copy = pyro_vae.load(tmp_path)
        assert type(copy) is pyro_vae.VAE and copy.recipe == program.recipe
        assert {p.dtype for p in copy.parameters()} == {dtype}
        assert same(weights(copy), weights(program))
        assert torch.equal(scores(copy.model, copy.guide, dtype), scores(program.model, program.guide, dtype))

    @pytest.mark.parametrize(
        "arguments",
        [
            {
                "data_shape": IMAGE,
                "latent_dim": 3,
                "hidden_dims": [4, 5],
                "likelihood": "gaussian",
                "activation": "relu",
            },
            {
                "data_shape": [4, 4],
                "latent_dim": 2,
                "hidden_dims": (),
                "posterior": pyro_vae.DiagonalNormal(pyro_vae.ImageEncoder(IMAGE, (2, 2), (3,)), low=0.1),
            },
            {
                "data_shape": IMAGE,
                "latent_dim": 2,
                "likelihood": pyro_vae.Gaussian(pyro_vae.MLP(2, IMAGE, (3,)), IMAGE, scale="shared", initial_scale=0.3),
            },
        ],
    )
    def test_sizes_and_parts_are_both_remembered(self, arguments, tmp_path):
        program = perturbed(pyro_vae.VAE(**arguments))
        pyro_vae.save(program, tmp_path)
        copy = pyro_vae.load(tmp_path)
        assert str(copy) == str(program)
        assert torch.equal(scores(copy.model, copy.guide), scores(program.model, program.guide))

    def test_a_users_pair_with_batch_statistics(self, tmp_path):
        model, guide = perturbed(TutorialModel()), perturbed(TutorialGuide())
        model.decoder[1].num_batches_tracked += 7
        pyro_vae.save((model, guide), tmp_path)
        copy = (TutorialModel(), TutorialGuide())
        assert pyro_vae.load(tmp_path, copy) is copy
        assert copy[0].decoder[1].num_batches_tracked == 7
        assert not torch.equal(copy[0].decoder[1].running_mean, torch.zeros(6))
        assert same(weights(*copy), weights(model, guide))

    def test_any_module(self, tmp_path):
        module = perturbed(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        pyro_vae.save(module, tmp_path)
        copy = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        assert pyro_vae.load(tmp_path, copy) is copy and same(weights(copy), weights(module))

    def test_parts_that_model_and_guide_share(self, tmp_path):
        model, guide = HierarchyModel(), HierarchyGuide()
        guide.shared = model.down
        pyro_vae.save((perturbed(model), guide), tmp_path)
        other = (HierarchyModel(), HierarchyGuide())
        other[1].shared = other[0].down
        pyro_vae.load(tmp_path, other)
        assert same(weights(*other), weights(model, guide))

    @pytest.mark.parametrize("given", ["nothing", "program", "halves"])
    def test_what_fit_wrote_is_read_the_same_way(self, given, tmp_path):
        program, other = vae(), vae()
        training.fit(program.model, program.guide, X, batch_size=3, num_epochs=2, checkpoint=tmp_path, progress=False)
        if given == "nothing":
            other = pyro_vae.load(tmp_path)
        else:
            pyro_vae.load(tmp_path, other if given == "program" else (other.model, other.guide))
        assert same(weights(other), weights(program))

    def test_a_cuda_program_is_read_on_the_cpu(self, device, tmp_path):
        program = vae().to(device)
        pyro_vae.save(program, tmp_path)
        copy = pyro_vae.load(tmp_path)
        assert {p.device.type for p in copy.parameters()} == {"cpu"}
        assert same(weights(copy), weights(program.cpu()))

    @pytest.mark.parametrize("name", PAIRS)
    def test_saving_changes_nothing(self, name, tmp_path):
        model, guide = PAIRS[name]()
        before = weights(model, guide)
        pyro_vae.save((model, guide), tmp_path)
        pyro_vae.save((model, guide), tmp_path)
        assert same(weights(model, guide), before)


class UsersPrior(pyro_vae.StandardNormal):
    pass


class UsersVAE(pyro_vae.VAE):
    """A subclass from outside the package: nobody else can rebuild it."""


class TestWithoutRecipe:
    @pytest.mark.parametrize(
        ("program", "own"),
        [
            (UsersVAE(IMAGE, 2, (5,)), "UsersVAE"),
            ((TutorialModel(), TutorialGuide()), None),
            ((vae().model, TutorialGuide()), None),
            (nn.Linear(2, 2), None),
            (
                pyro_vae.VAE(
                    prior=UsersPrior(2),
                    likelihood=pyro_vae.Bernoulli(nn.Linear(2, 4), (4,)),
                    posterior=pyro_vae.DiagonalNormal(pyro_vae.MLP(4, (2, 2), ())),
                ),
                "Linear, UsersPrior",
            ),
        ],
        ids=["a user's subclass", "a user's pair", "a mixed pair", "a module", "a user's part"],
    )
    def test_the_program_must_be_given(self, program, own, tmp_path):
        message = f"^save: found parts that are not of this package, {own}: .*, load\\(folder, program\\)$"
        with nullcontext() if own is None else pytest.warns(UserWarning, match=message) as told:
            pyro_vae.save(program, tmp_path)
        assert own is None or [warning.filename for warning in told] == [__file__]
        assert json.loads((tmp_path / "program.json").read_text())["recipe"] is None
        message = (
            r"program.json: found no recipe \(the program is not a packaged one\), expected load\(folder, program\)"
        )
        with pytest.raises(ValueError, match=message):
            pyro_vae.load(tmp_path)
        pyro_vae.load(tmp_path, program)

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_run_says_so_once_when_it_begins(self, resume, tmp_path):
        program = UsersVAE((6,), 2, (5,))

        def fit(num_epochs, resume=False):
            x, options = torch.ones(4, 6), {"batch_size": 2, "checkpoint": tmp_path, "progress": False}
            pyro_vae.fit(program.model, program.guide, x, num_epochs=num_epochs, resume=resume, **options)

        with pytest.warns(UserWarning, match="^save: found parts that are not of this package, UsersVAE: ") as told:
            fit(3)
        assert [warning.filename for warning in told] == [__file__]
        if resume:
            fit(4, resume=True)

    @pytest.mark.parametrize(
        ("program", "found"),
        [
            (None, r"\(NoneType\)"),
            ("vae", r"\(str\)"),
            ((vae(), None), r"\(VAE, NoneType\)"),
            ([1, 2, 3], r"\(int, int, int\)"),
        ],
    )
    def test_what_is_no_program_is_refused(self, program, found, tmp_path):
        with pytest.raises(TypeError, match=f"^program: found {found}, expected a module or a pair"):
            pyro_vae.save(program, tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestMismatch:
    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                lambda: pyro_vae.VAE(IMAGE, 3, (5,)),
                r"leaf 'guide\.posterior\.network\.output\.bias': found \(4,\), expected \(6,\)",
            ),
            (
                lambda: pyro_vae.VAE(IMAGE, 2, (5, 5)),
                r"leaf 'guide\.posterior\.network\.hidden\.2\.bias': found nothing, expected \(5,\)",
            ),
            (
                lambda: pyro_vae.VAE(IMAGE, 2, ()),
                r"leaf 'guide\.posterior\.network\.hidden\.0\.bias': found \(5,\), expected nothing",
            ),
            (lambda: nn.Linear(1, 1), r"leaf 'bias': found nothing, expected \(1,\)"),
        ],
    )
    def test_the_leaf_and_both_shapes_are_named_and_nothing_is_copied(self, other, message, tmp_path):
        pyro_vae.save(perturbed(vae()), tmp_path)
        program = other()
        before = weights(program)
        with pytest.raises(ValueError, match=f"{WEIGHTS}: {message}"):
            pyro_vae.load(tmp_path, program)
        assert same(weights(program), before)
