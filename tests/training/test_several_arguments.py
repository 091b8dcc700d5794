"""fit on batches of several entries: the weights are those of programs that unpack the same data from one tensor."""

from __future__ import annotations

from contextlib import nullcontext

import pyro
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyro_vae
from pyro_vae import ELBO, IWAE
from pyro_vae.data.batch import Arguments
from pyro_vae.errors import failing_on
from tests.support.pairwise import in_turn
from tests.support.programs import traced
from tests.support.several import NAMES, OfTwo, Rows, case, loader
from tests.support.tutorials import SSVAE


def train(name, form, **options):
    (model, guide), data = case(name, form)
    options = {"num_epochs": 3, "batch_size": 3, "lr": 0.01, "seed": 2, "progress": False} | options
    history = pyro_vae.fit(model, guide, data, **options)
    return history, {name: value.detach().clone() for name, value in model.owner.named_parameters()}


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


FORMS = {"tuples": "packed in a loader", "dicts": "packed in a loader", "a tuple": "packed", "a dict": "packed"}


@pytest.mark.parametrize(("form", "name"), in_turn(FORMS, NAMES))
def test_the_weights_are_those_of_packed_data(name, form):
    packed = FORMS[form]
    history, found = train(name, form, objective=IWAE(2))
    other, expected = train(name, packed, objective=IWAE(2))
    assert equal(found, expected)
    assert history.records[-1]["train_bound"] == other.records[-1]["train_bound"]


@pytest.mark.parametrize("objective", [pyro.infer.Trace_ELBO(), pyro.infer.RenyiELBO(num_particles=2)])
@pytest.mark.parametrize("form", ["tuples", "dicts"])
def test_the_objectives_of_pyro(form, objective):
    assert equal(
        train("CVAE", form, objective=objective)[1], train("CVAE", "packed in a loader", objective=objective)[1]
    )


@pytest.mark.parametrize("name", NAMES)
def test_bounds_and_likelihoods_are_those_of_packed_data(name):
    found = {}
    for form in ("packed in a loader", "tuples", "dicts", "packed", "a tuple", "a dict"):
        (model, guide), data = case(name, form)
        shuffles = pytest.warns(UserWarning, match="^x: found a DataLoader that draws its order at random")
        with shuffles if isinstance(data, DataLoader) else nullcontext():
            estimate = pyro_vae.log_likelihood(model, guide, data, 30, batch_size=3, chunk_size=20, seed=1)
        bounds = [
            pyro_vae.evaluation.mean_bound(model, guide, data, objective, batch_size=3, seed=1)
            for objective in (ELBO(), pyro.infer.Trace_ELBO())
        ]
        found[form] = (*estimate, torch.tensor(bounds))
    for form, results in found.items():
        expected = found["packed in a loader" if form in ("packed in a loader", "tuples", "dicts") else "packed"]
        assert all(map(torch.equal, results, expected)), form


def test_bits_per_dimension_are_of_the_entries_that_sites_observe():
    def dims(name):
        (model, guide), data = case(name, "a tuple")
        return pyro_vae.log_likelihood(model, guide, data, 5, seed=1).num_dims

    (_, _), (mini_batch, _, mask, lengths) = case("DMM", "a tuple")
    assert dims("M2 labelled") == 6 + 3  # pixels, and a one-hot label
    assert dims("CVAE") == 3  # the hidden half of the pixels
    assert dims("DMM") == (mask[..., None] & torch.ones_like(mini_batch).bool()).sum().item() / 6
    assert dims("DMM") == 3 * lengths.double().mean().item()


def hold_compiled_against_eager(name, form):
    _, expected = train(name, form, objective=IWAE(2))
    history, found = train(name, form, objective=IWAE(2), compile=True)
    assert "fallback" not in history.records[-1]
    for parameter, value in found.items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "form"),
    [("M2 labelled", "tuples"), ("M2 labelled", "a dict"), pytest.param("DMM", "dicts", marks=pytest.mark.cross)],
)
def test_compiled(name, form, monkeypatch):
    """Traced, no more: TorchInductor takes up to half a minute."""
    monkeypatch.setattr("pyro_vae.compilation.compiled.inductor", traced)
    hold_compiled_against_eager(name, form)


@pytest.mark.cross
def test_compiled_by_inductor():
    """Any two of the three meet elsewhere: TorchInductor and ``fit``, TorchInductor and several arguments."""
    hold_compiled_against_eager("M2 labelled", "a dict")


@pytest.mark.parametrize(("form", "name"), in_turn(FORMS, NAMES))
def test_a_run_resumes_to_the_same_weights(name, form, tmp_path):
    _, expected = train(name, form)
    train(name, form, num_epochs=1, checkpoint=tmp_path)
    _, found = train(name, form, checkpoint=tmp_path, resume=True)
    assert equal(found, expected)


@pytest.mark.parametrize("names", [(), ("xs", "ys")], ids=["tuples", "dicts"])
def test_workers_that_are_kept_resume_to_the_same_weights(names, tmp_path):
    _, (xs, ys) = case("M2 labelled", "a tuple")

    def run(**options):
        torch.manual_seed(0)
        owner = SSVAE()
        owner.encoder_y.requires_grad_(False)
        data = DataLoader(Rows((xs, ys), names), 3, shuffle=True, num_workers=1, persistent_workers=True)
        options = {"num_epochs": 2, "seed": 2, "progress": False} | options
        pyro_vae.fit(OfTwo(owner, "model"), OfTwo(owner, "guide"), data, **options)
        return dict(owner.named_parameters())

    expected = run()
    run(num_epochs=1, checkpoint=tmp_path)
    assert equal(run(checkpoint=tmp_path, resume=True), expected)


class Once(IterableDataset):
    """A stream of pairs that has been read when it has been read."""

    def __init__(self, *entries):
        self.rows = zip(*entries, strict=True)

    def __iter__(self):
        return self.rows


def test_all_of_a_stream_is_trained_on():
    (model, guide), (xs, ys) = case("M2 labelled", "a tuple")
    options = {"num_epochs": 1, "batch_size": 4, "seed": 2, "progress": False}
    history = pyro_vae.fit(model, guide, Once(xs, ys), **options)
    (other, other_guide), _ = case("M2 labelled", "a tuple")
    pyro_vae.fit(other, other_guide, DataLoader(TensorDataset(xs, ys), batch_size=4), **options)
    assert history.records[0]["step"] == 2
    assert equal(dict(model.owner.named_parameters()), dict(other.owner.named_parameters()))


def test_validation_data_are_passed_on_too():
    (model, guide), data = case("CVAE", "a tuple")
    history = pyro_vae.fit(model, guide, data, valid=data, num_epochs=1, batch_size=3, seed=0, progress=False)
    expected = pyro_vae.evaluation.mean_bound(model, guide, data, ELBO(), batch_size=3, seed=0)
    assert history.records[0]["valid_bound"] == expected


@pytest.mark.parametrize("program", [pyro_vae.ConditionalVAE, pyro_vae.M2])
def test_packaged_programs_take_data_and_labels(program):
    """Both read from a split, by two names, and as one packed tensor."""
    digits, found = pyro_vae.data.load("digits", binarize="static").train, []
    forms = (
        lambda pair: (digits, digits.labels),
        lambda pair: {"y": digits.labels, "x": digits},
        lambda pair: pair.pack(digits[:], digits.labels),
    )
    for form in forms:
        torch.manual_seed(0)
        pair = program((8, 8), num_classes=10, latent_dim=2, hidden_dims=(4,))
        if program is pyro_vae.M2:
            pair.guide.classifier.requires_grad_(False)  # of which known labels give no gradient
        pyro_vae.fit(pair.model, pair.guide, form(pair), num_epochs=1, seed=2, progress=False)
        found.append(dict(pair.named_parameters()))
    assert equal(found[0], found[2]) and equal(found[1], found[2])


def test_labels_that_programs_do_not_take_are_not_dropped_in_silence():
    digits = pyro_vae.data.load("digits").train
    vae = pyro_vae.VAE((8, 8), 2, (4,))
    options = {"num_epochs": 1, "seed": 2, "progress": False}
    with pytest.warns(
        UserWarning, match=r"^data: found batches of 2 entries, expected one\. model\(x\) and guide\(x\)"
    ):
        pyro_vae.fit(vae.model, vae.guide, TensorDataset(digits[:], digits.labels), **options)
    (model, guide), (*entries, _) = case("DMM", "a tuple")
    with pytest.raises(ValueError, match=r"^data: found batches of 3 entries, expected .*: model\(mini_batch, back"):
        pyro_vae.fit(model, guide, loader(TensorDataset(*entries)), **options)


def test_programs_that_fail_on_them_name_all_shapes():
    (_, guide), (xs, ys) = case("M2 labelled", "a tuple")
    message = r"^x: found data of shapes \(6, 6\), ys=\(6, 2\), on which the programs fail: "
    with pytest.raises(ValueError, match=message), failing_on("x", Arguments(xs, ys=ys[:, :2])):
        guide.eval()(xs, ys[:, :2])


def test_the_step_and_site_of_a_value_that_is_not_finite():
    (model, guide), data = case("CVAE", "tuples")
    with pytest.raises(FloatingPointError, match=r"^epoch 1, step 2: found the bound nan; .* of site '.' in the "):
        pyro_vae.fit(model, guide, data, lr=1e38, num_epochs=1, seed=2, progress=False)
