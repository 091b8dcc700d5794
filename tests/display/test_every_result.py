"""Every result: a few lines of text, escaped HTML, a frame of as many rows as it has values, and a figure."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.figure import Figure

import pyro_vae
from pyro_vae.data.loading import Splits
from pyro_vae.data.split import Split
from pyro_vae.display import with_error
from tests.support.figures import legend, rendered, texts

NUM_DATA = 12


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    vae = pyro_vae.VAE(data_shape=(4, 4), latent_dim=3, hidden_dims=(8,))
    pair, x = (vae.model, vae.guide), torch.bernoulli(torch.full((NUM_DATA, 4, 4), 0.5))
    splits = Splits(Split(x), Split(x[:4]), Split(x[:5]), "bits & <b>", ("a", "b"))
    first, second = (pyro_vae.log_likelihood(*pair, x, 30, seed=seed) for seed in (0, 1))
    quick = {"num_particles": 30, "num_refined": 0, "annealed": False, "progress": False}
    return {
        "fit": pyro_vae.fit(*pair, splits, num_epochs=2, batch_size=4, progress=False, seed=0, compile=False),
        "log_likelihood": first,
        "diagnose": pyro_vae.diagnose(*pair, x),
        "evaluate": pyro_vae.evaluate(*pair, x, **quick),
        "compare": pyro_vae.compare(first, second),
        "score": pyro_vae.score(*pair, x, 30, seed=0),
        "ais": pyro_vae.ais(*pair, x, 4, 3, seed=0, compile=False),
        "sandwich": pyro_vae.sandwich(*pair, 5, 4, 3, seed=0, compile=False),
        "load": splits,
    }


ROWS = {
    "fit": 2, "log_likelihood": NUM_DATA, "diagnose": 3, "evaluate": 4, "compare": NUM_DATA, "score": NUM_DATA,
    "ais": NUM_DATA, "sandwich": 5, "load": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_forms(results, name):
    result = results[name]
    assert repr(result) == str(result) and len(str(result).splitlines()) <= 12 and "tensor(" not in str(result)
    assert max(map(len, str(result).splitlines())) < 200
    text = result._repr_html_()
    assert text.startswith("<table") and "<b>" not in text and text.count("<tr>") >= 2
    frame = result.to_frame()
    assert len(frame) == ROWS[name] and not frame.map(lambda value: isinstance(value, torch.Tensor)).any(axis=None)
    figure = result.plot()
    assert isinstance(figure, Figure)
    rendered(figure)
    inside, page = figure.get_tightbbox(), figure.get_size_inches()
    assert inside.x0 >= 0 and inside.y0 >= 0 and inside.x1 <= page[0] and inside.y1 <= page[1]


def test_what_refinement_and_imputation_found_is_no_wall_of_tensors():
    vae = pyro_vae.VAE(data_shape=(4, 4), latent_dim=3, hidden_dims=(8,))
    x = torch.bernoulli(torch.full((5, 4, 4), 0.5))
    refined = pyro_vae.refine(vae.model, vae.guide, x, 2, seed=0)
    gap = with_error(refined.gap(), refined.gap_error()).split(" ± ")
    assert repr(refined).splitlines()[-1].split() == ["amortisation", "gap", *gap]
    assert refined.to_frame()["gain"].mean() == pytest.approx(refined.gap())
    programs = pyro_vae.observed_only(vae.model, vae.guide)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0, 0] = False
    imputed = pyro_vae.impute(*programs, x, mask, 30, num_samples=2, seed=0)
    assert "5 of 80" in repr(imputed) and "tensor(" not in repr(imputed) and "<table" in imputed._repr_html_()
    assert imputed.to_frame()["khat"].tolist() == pytest.approx(imputed.khat.tolist(), nan_ok=True)


def test_frames_hold_the_numbers_themselves(results):
    score, diagnosis, evaluation = results["log_likelihood"], results["diagnose"], results["evaluate"]
    torch.testing.assert_close(torch.tensor(score.to_frame()["values"].to_numpy()), score.values)
    assert "acceptance" in results["ais"].to_frame() and "acceptance" not in score.to_frame()
    units = diagnosis.to_frame()
    assert units["kl"].sum() == pytest.approx(diagnosis.kl["z"])
    assert units["is_active"].sum() == diagnosis.active_units["z"] and units["unit"].tolist() == [0, 1, 2]
    assert evaluation.to_frame().set_index("name")["mean"]["elbo"] == evaluation["elbo"].mean
    assert results["fit"].to_frame()["valid_bound"].tolist() == [r["valid_bound"] for r in results["fit"].records]
    gaps = results["sandwich"].to_frame()
    assert (gaps["upper"] - gaps["lower"]).mean() == pytest.approx(results["sandwich"].gap)


def test_the_figures_draw_the_numbers_themselves(results):
    score, khat = results["log_likelihood"], results["log_likelihood"].khat
    histogram, beside = score.plot().axes
    assert sum(bar.get_height() for bar in histogram.patches) == NUM_DATA
    assert legend(histogram) == [f"mean: {score.mean():.2f}".replace("-", "−")]
    assert sum(len(points.get_offsets()) for points in beside.collections) == int(khat.isfinite().sum())
    comparison = results["compare"]
    bars = comparison.plot().axes[0].patches
    heights = {side: sum(bar.get_height() for bar in bars if bool(bar.get_hatch()) == side) for side in (True, False)}
    assert heights[True] == comparison.num_second_better and sum(heights.values()) == NUM_DATA
    assert all(bar.get_x() + bar.get_width() <= 1e-12 for bar in bars if bar.get_hatch() and bar.get_height())
    evaluation = results["evaluate"]
    bounds, kl = evaluation.plot().axes
    last = "log p(x), K = 30" + " †" * bool(evaluation["log_p"].num_heavy)
    assert texts(bounds.get_yticklabels()) == ["ELBO", "IWAE bound, K = 50", last]
    (dots, *_), *_ = [each.lines for each in bounds.containers[1:]]
    assert dots.get_xdata().tolist() == [evaluation[name].mean for name in ("elbo", "iwae", "log_p")]
    assert texts(kl.get_yticklabels()) == ["KL of z"]


def test_a_history_says_how_it_ended():
    record = {"epoch": 1, "step": 3, "train_bound": -5.0, "valid_bound": None, "valid_loss": None, "fallback": "no C"}
    history = pyro_vae.History([record], interrupted=True)
    assert str(history).splitlines()[-2:] == ["Interrupted.", "Not compiled: no C"]
    assert str(pyro_vae.History()).strip() == "History of no epoch" and len(pyro_vae.History().to_frame()) == 0


def test_units_whose_activity_is_not_known_are_not_called_inactive(results):
    diagnosis = results["diagnose"]
    unknown = vars(diagnosis) | {"activity": {}, "active_units": {}, "units": {}}
    frame = pyro_vae.Diagnosis(**unknown).to_frame()
    assert frame["is_active"].isna().all() and frame["activity"].isna().all() and not frame["kl"].isna().any()
    assert math.isfinite(frame["kl"].sum())
