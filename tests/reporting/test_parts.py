"""The parts of a report against what is known: planes, marks, pictures, charts and the decoder in the page."""

from __future__ import annotations

import base64
import gzip
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae
from pyro_vae.display import rounded, with_error
from pyro_vae.evaluation.evaluating import evaluate
from pyro_vae.reporting import explorer as explorers
from pyro_vae.reporting.charts import bound_by_epoch, spread
from pyro_vae.reporting.decoders import latents_of, top_of
from pyro_vae.reporting.embedding import write_embedding
from pyro_vae.reporting.findings import Findings
from pyro_vae.reporting.marks import mark
from pyro_vae.reporting.own_pairs import reconstructed, sampled
from pyro_vae.reporting.page import render
from pyro_vae.reporting.pictures import mosaic, pixels, png, sprite, thumbnails
from pyro_vae.reporting.planes import plane_of
from pyro_vae.reporting.sections import extremes, layers, reliability
from pyro_vae.reporting.subject import LeftOut, subject_of
from pyro_vae.runtime.state import seeded


def test_a_plane_of_points_that_lie_on_one_keeps_all_of_them():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(50, 2, generator=generator).double() * torch.tensor([3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q[:, :2]  # (5, 2)
    means = flat @ basis.T + torch.arange(5)
    plane = plane_of(means, "z")
    torch.testing.assert_close(plane.origin + plane.places @ plane.axes, means)
    torch.testing.assert_close(torch.cdist(plane.places, plane.places), torch.cdist(flat, flat), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2).double())
    assert "which hold 100 % of their variance" in plane.sentence
    assert plane.places[:, 0].var() > plane.places[:, 1].var()


def test_two_units_are_a_plane_as_they_are():
    means = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 0.0]])
    plane = plane_of(means, "z")
    assert torch.equal(plane.places, means.double()) and plane.names == ("z[0]", "z[1]")
    with pytest.raises(ValueError, match=r"z: found posterior means \(3, 1\), expected \(N, D\) with D of 2 or more"):
        plane_of(means[:, :1], "z")


def test_twenty_classes_have_twenty_marks_in_two_ways():
    marks = [mark(index) for index in range(20)]
    assert len({(each.path, each.filled) for each in marks}) == 20  # without the colour
    assert len({(each.color, each.filled) for each in marks}) == 20


def test_pictures_keep_every_pixel():
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    read = np.array(Image.open(io.BytesIO(png(mosaic(pixels(images), 5, gap=0)))))
    expected = (images * 255).round().byte().permute(2, 0, 3, 1).reshape(4, 30, 3).numpy()
    np.testing.assert_array_equal(read, expected)


def test_thumbnails_are_means_and_a_sheet_holds_as_many_as_fit():
    images = np.random.default_rng(0).integers(0, 256, (64, 100, 60, 1)).astype(np.uint8)
    small = thumbnails(images)
    assert small.shape == (64, 33, 20, 1)
    assert abs(int(small[3, 0, 0, 0]) - images[3, :3, :3, 0].mean()) <= 0.5
    file, number = sprite(small, 12_000)
    assert number == 16 and len(file) <= 12_000 and Image.open(io.BytesIO(file)).size == (80, 132)


def test_curves_say_what_they_show():
    records = [{"epoch": i, "train_bound": -100.0 + i, "valid_bound": None} for i in range(1, 4)]
    chart = bound_by_epoch(records)
    assert 'aria-label="Bound by epoch: training from -99.00 to -97.00 nats per datum."' in chart.svg
    assert "currentColor" in chart.svg and "<style" not in chart.svg and "metadata" not in chart.svg
    with pytest.raises(ValueError, match="records: found no finite bound in 1 epochs"):
        bound_by_epoch([{"epoch": 1, "train_bound": float("nan")}])


def test_a_histogram_counts_what_lies_above_the_threshold():
    values = torch.tensor([0.1, 0.2, 0.69, 0.7, 0.71, 0.9, float("nan")])
    assert "2 of 6 above 0.7" in spread(values, "khat", "k", "", 0.7).svg
    assert "from 3 to 3" in spread(torch.full((4,), 3.0), "x", "x", "").svg
    values = torch.tensor([0.1, 0.2, float("inf"), float("inf"), float("nan")])  # infinite where one weight is all
    chart = spread(values, "khat", "k", "", 0.7)
    assert "2 of 4 above 0.7" in chart.svg and chart.caption == " 2 of them are infinite, and stand at the end."
    assert "1 of 1 above 0.7" in spread(values[3:], "khat", "k", "", 0.7).svg


def test_curves_hold_the_highest_epoch_be_it_the_first():
    records = [{"epoch": i, "train_bound": -100.0 * i, "valid_bound": None} for i in range(1, 9)]  # it diverges
    chart = bound_by_epoch(records)
    assert "training from -100.00 to -800.00" in chart.svg and "steep" in chart.caption
    line = re.search(r'd="([^"]*)" clip-path[^>]*stroke: #3f90da', chart.svg)[1]
    heights = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", line)]
    top = float(re.search(r'viewBox="0 0 \S+ (\S+)"', chart.svg)[1])
    assert len(heights) == 8 and min(heights) > 0 and max(heights) < top
    assert "steep" not in bound_by_epoch(records[:5]).caption


def test_extremes_are_the_highest_and_the_lowest():
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((40, 3, 4), 0.5))
    found = Findings(subject_of(pyro_vae.VAE((3, 4), 2, (6,)), x, 40), 30, False)
    values = found.evaluation.log_likelihood.values
    best, worst = (
        [int(re.sub(r"\D", "", each["lines"][1])) for each in group["data"]] for group in extremes(found)["groups"]
    )
    assert best == values.argsort(descending=True)[:8].tolist() and worst == values.argsort()[:8].tolist()
    score = evaluate(*_pair(found), x, num_particles=30, num_refined=0, annealed=False, progress=False)
    assert torch.equal(score.log_likelihood.values, values)
    error = found.evaluation.log_likelihood.std_error
    error[best[0]], values[best[0]] = 210.0, 1234.5
    error[worst[0]], values[worst[0]] = 0.0, -1234.5
    shown = [group["data"][0]["lines"][0] for group in extremes(found)["groups"]]
    assert shown == [with_error(1234.5, 210.0), with_error(-1234.5, 0.0)] == ["1230 ± 210", "-1234.500 ± 0"]
    (row,) = layers(found)["table"]["rows"]
    assert tuple(row[1:3]) == rounded(found.diagnosis.kl["z"], found.diagnosis.kl_error["z"])


def test_an_infinite_khat_is_marked():
    torch.manual_seed(0)
    found = Findings(subject_of(pyro_vae.VAE((3,), 2, (6,)), torch.ones(4, 3), 4), 30, False)
    found.evaluation.log_likelihood.khat[:] = torch.tensor([float("inf"), 0.1, 0.2, float("nan")])
    lines = {each["lines"][1]: each["lines"][2:] for group in extremes(found)["groups"] for each in group["data"]}
    assert lines == {"datum 0": ["k̂ inf †"], "datum 1": ["k̂ 0.10"], "datum 2": ["k̂ 0.20"], "datum 3": []}
    shown = reliability(found)
    assert "1 of 3 above 0.7" in shown["charts"][1].svg
    assert shown["sentences"] == ["Pareto k̂ is not known for 1 of 4 data."]


def _pair(found):
    return found.subject.model, found.subject.guide


ONNX = pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 cannot write ONNX")


def unpacked(text: str, num_bytes: int) -> bytes:
    """What the script of the page does to the text of a file."""
    planes = gzip.decompress(base64.b85decode(text.replace(".", "<")))
    return np.frombuffer(planes, np.uint8).reshape(4, -1).T.tobytes()[:num_bytes]


@ONNX
@pytest.mark.parametrize("name", ["vae", "hvae", "conditional"])
def test_the_decoder_in_the_page_is_that_of_the_program(name, stand_ins, tmp_path, page):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    program = {
        "vae": lambda: pyro_vae.VAE((3, 4), 5, (6,)),
        "hvae": lambda: pyro_vae.HVAE((3, 4), (5, 4), (6,)),
        "conditional": lambda: pyro_vae.ConditionalVAE((3, 4), 3, 5, (6,)),
    }[name]()
    top = top_of(program)
    z = torch.randn(20, 4 if name == "hvae" else 5)
    labels = torch.arange(20) % 3
    made = explorers.explorer_of(top, latents_of(top, z, labels), 10**6)
    assert made.significand == 24 and made.difference < 1e-6
    (tmp_path / "page").write_text(render("", "", [], made, "0"))
    text = page(tmp_path / "page").contents["decoder"]
    session = onnxruntime.InferenceSession(unpacked(text, made.num_model))
    given = latents_of(top, z, labels)
    (found,) = session.run(None, {"z": given.numpy()})
    with torch.no_grad():
        if name == "hvae":
            z = program.transitions[0](z).mean
        expected = program.likelihood(given if name == "conditional" else z).mean
    np.testing.assert_allclose(found, expected, atol=1e-6)


@ONNX
def test_weights_are_rounded_until_they_fit(stand_ins, monkeypatch, tmp_path):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    top = top_of(pyro_vae.VAE((8, 8), 5, (60,)))
    z = torch.randn(20, 5)
    monkeypatch.setattr(explorers, "write_network", once(explorers.write_network, tmp_path / "decoder.onnx"))
    exact = explorers.explorer_of(top, z, 10**6)
    assert b"pyro_vae/" not in _model(exact) and b".py" not in _model(
        exact
    )  # such as the path of a file that the exporter writes down
    smaller = explorers.explorer_of(top, z, exact.num_bytes - 2000)
    assert smaller.significand < 24 and smaller.num_bytes <= exact.num_bytes - 2000
    assert 0 < smaller.difference <= explorers.TOLERANCE
    with pytest.raises(LeftOut, match=r"the decoder is too large for the page: with what runs it, it takes 0\.0 MB"):
        explorers.explorer_of(top, z, 1000)
    models = [
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(_model(each)).graph.initializer}
        for each in (exact, smaller)
    ]
    for name, weights in models[0].items():
        if weights.dtype == np.float32:
            np.testing.assert_allclose(models[1][name], weights, rtol=2.0**-smaller.significand)
    monkeypatch.setattr(explorers, "TOLERANCE", 0.0)
    with pytest.raises(
        LeftOut, match=r"its weights had to be rounded to \d+ bits, and its pictures differ from the prog"
    ):
        explorers.explorer_of(top, z, exact.num_bytes - 2000)


def once(write, path):
    """Write one network once, which takes a second, however often it is asked for."""

    def written(*args):
        return path if path.exists() else write(*args).rename(path)

    return written


def _model(made: explorers.Explorer) -> bytes:
    return unpacked(base64.b85encode(made.model).decode(), made.num_model)


def test_own_pairs_reconstruct_and_sample_as_a_program_does():
    torch.manual_seed(0)
    vae = pyro_vae.VAE((3, 4), 2, (6,))
    x = torch.bernoulli(torch.full((5, 3, 4), 0.5))
    torch.testing.assert_close(reconstructed(vae.model, vae.guide, x), vae.reconstruct(x))
    with seeded(3, x.device):
        found = sampled(vae.model, vae.guide, x)
    with seeded(3, x.device):
        torch.testing.assert_close(found, vae.sample(5, mean=True))
    with pytest.raises(LeftOut, match="the programs take several arguments"):
        sampled(vae.model, vae.guide, (x, x))


def test_a_table_of_the_map(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((12, 3, 4), 0.5))
    split = pyro_vae.data.Split(x, labels=torch.arange(12) % 2)
    found = Findings(subject_of(pyro_vae.VAE((3, 4), 2, (6,)), split, 12), 30, False)
    write_embedding(found, tmp_path / "map.parquet")
    rows = parquet.read_table(tmp_path / "map.parquet").to_pylist()
    assert [set(row) for row in rows] == [{"x", "y", "log_p", "log_p_error", "khat", "label", "image"}] * 12
    means = found.subject.program.encode(x)
    np.testing.assert_allclose([[row["x"], row["y"]] for row in rows], means, rtol=1e-5)
    np.testing.assert_allclose([row["log_p"] for row in rows], found.evaluation.log_likelihood.values)
    assert [row["label"] for row in rows] == ["0", "1"] * 6
    for row, image in zip(rows, x, strict=True):
        read = np.array(Image.open(io.BytesIO(row["image"]["bytes"])))
        assert row["image"]["path"] is None and np.array_equal(read.astype(float), image.numpy())
