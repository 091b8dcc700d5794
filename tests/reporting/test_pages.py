"""A report stands alone, says what it lacks, and lets nothing through that was written by others."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data.loading import Splits
from pyro_vae.data.split import Split
from pyro_vae.reporting import report, writing
from pyro_vae.reporting.subject import LeftOut
from tests.support.programs import TutorialGuide, TutorialModel

IMAGE = (4, 5)
RECORDS = [{"epoch": i, "train_bound": -9.0 - 1 / i, "valid_bound": -9.5 - 1 / i} for i in (1, 2, 3)]
TITLES = [
    "At a glance", "Learning curves", "Evaluation", "Reconstructions", "Samples", "Map of the latents",
    "Best and worst test data", "What the latents hold", "How far log p(x) can be trusted", "How it was made",
]  # fmt: skip


def bits(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 2, shape)).float()


def conditional():
    program = pyro_vae.ConditionalVAE(IMAGE, 3, 2, (8,))
    return program, (bits(30, *IMAGE), torch.arange(30) % 3)


def own_pair():
    return (TutorialModel(16), TutorialGuide(16)), bits(30, 4, 4)


# The programs and data, the parts that they cannot have, and why.
SUBJECTS = {
    "vae": (lambda: (pyro_vae.VAE(IMAGE, 3, (8,)), bits(30, *IMAGE)), {}),
    "hvae": (lambda: (pyro_vae.HVAE(IMAGE, (4, 3), (8,)), bits(30, *IMAGE)), {}),
    "conditional": (conditional, {}),
    "own pair": (
        own_pair,
        {"Explorer": "of a model and a guide of your own, it is not known what the decoder is"},
    ),
    "no images": (
        lambda: (pyro_vae.VAE((7,), 3, (8,)), bits(30, 7)),
        dict.fromkeys(("Reconstructions", "Samples", "Explorer"), "the data are no images: a datum has the shape (7,)"),
    ),
    "holes": (
        lambda: (pyro_vae.VAE((7,), 3, (8,)), pyro_vae.pack(bits(30, 7), bits(30, 7))),
        dict.fromkeys(("Reconstructions", "Samples", "Explorer"), "the data are no images: a datum has the shape (7,)"),
    ),
    "one unit": (
        lambda: (pyro_vae.VAE(IMAGE, 1, (8,)), bits(30, *IMAGE)),
        dict.fromkeys(("Map of the latents", "Explorer"), "z is a single number, which leaves no plane"),
    ),
    "codes": (
        lambda: (pyro_vae.VQVAE((8, 8)), bits(6, 8, 8)),
        {"Explorer": "the latents of VQVAE are no single vector"},
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_part_is_there_or_says_why_not(name, quick, tmp_path, page):
    torch.manual_seed(0)
    make, lacking = SUBJECTS[name]
    made = report(*make(), tmp_path / "report.html", num_particles=30, progress=False, history=RECORDS)
    assert made.path == tmp_path / "report.html" and made.num_bytes == made.path.stat().st_size < 1_000_000
    assert made.left_out.keys() == lacking.keys()
    found = page(made.path)
    for part, reason in lacking.items():
        assert made.left_out[part].startswith(reason) and reason in found.text
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", found.source)
    assert headings == TITLES
    assert [link["href"][1:] for link in found.all("a")] == [each["id"] for each in found.all("section")]
    assert found.text.count("Left out:") == len(lacking.keys() - {"Explorer"})
    assert ("decoder" in found.contents) == ("Explorer" not in lacking)


def test_a_page_needs_nothing_else(quick, tmp_path, page):
    program, x = SUBJECTS["vae"][0]()
    report(program, x, tmp_path / "report.html", num_particles=30, progress=False, history=RECORDS)
    found = page(tmp_path / "report.html")
    assert not re.search(r"https?://|//cdn|@import", found.source)
    for tag, attributes in found.elements:
        for name in ("src", "href", "xlink:href", "data", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
        assert tag not in ("iframe", "object", "embed", "base", "form")
        if tag == "link":
            raise AssertionError("a page links to no style sheet")
    policies = [each for each in found.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0]["content"].startswith("default-src 'none'; img-src data:")
    assert "MIT License" in found.source and "Microsoft" in found.source


def test_a_page_can_be_read_by_everyone(quick, tmp_path, page):
    program, x = SUBJECTS["hvae"][0]()
    splits = Splits(*(Split(x, labels=torch.arange(30) % 10) for _ in range(3)), name="own")
    report(program, splits, tmp_path / "report.html", num_particles=30, progress=False, history=RECORDS)
    found = page(tmp_path / "report.html")
    assert found.all("html")[0]["lang"] == "en" and found.all("title")
    ids = [attributes["id"] for _, attributes in found.elements if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    references = re.findall(r'(?:href="|aria-labelledby="|url\()#?([\w-]+)', found.source.partition("<script")[0])
    assert len(references) > 20 and set(references) <= set(ids)
    assert all(image.get("alt") for image in found.all("img")) and len(found.all("img")) >= 4
    plots = [each for each in found.all("svg") if each.get("class") == "plot"]
    assert len(plots) == 5 and all(each["role"] == "img" and re.search(r"\d", each["aria-label"]) for each in plots)
    assert "prefers-color-scheme: dark" in found.source and 'name="viewport"' in found.source
    shapes = {each["id"]: each["d"] for each in found.all("path") if str(each.get("id")).startswith("mark")}
    assert len(set(shapes.values())) == 10  # ten classes are told apart without their colours


def test_what_others_wrote_is_text(quick, tmp_path, page):
    evil = "</script></style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    program, x = SUBJECTS["vae"][0]()
    labels = torch.arange(30) % 2
    splits = Splits(*(Split(x, labels=labels) for _ in range(3)), name=evil, classes=(evil, "other"))
    arguments = {"num_particles": 30, "progress": False, "history": RECORDS}
    report(program, x, tmp_path / "plain.html", **arguments)
    report(program, splits, tmp_path / "evil.html", facts={evil: evil}, command=evil, **arguments)
    plain, found = page(tmp_path / "plain.html"), page(tmp_path / "evil.html")
    assert len(found.all("script")) == len(plain.all("script")) and len(found.all("style")) == 1
    assert not [each for _, each in found.elements for name in each if name.startswith("on")]
    assert all(each["src"].startswith("data:") for each in found.all("img"))
    assert evil in found.text and "alert(1)" not in "".join(found.contents.get(name, "") for name in ("decoder",))
    assert "\\u003cscript\\u003ealert(1)" in found.contents["map-data"]


def test_without_what_runs_the_decoder_the_page_says_how_to_get_it(no_assets, tmp_path, page):
    program, x = SUBJECTS["vae"][0]()
    made = report(program, x, tmp_path / "report.html", num_particles=30, progress=False)
    reason = "onnxruntime-web@1.22.0, which runs the decoder in the page, is not here: python -m pyro_vae.reporting."
    assert made.left_out["Explorer"].startswith(reason)
    found = page(made.path)
    assert f"No explorer: {reason}" in found.text and found.all("svg") and "decoder" not in found.contents


def test_a_part_that_fails_takes_no_other_along(quick, monkeypatch, tmp_path, page):
    def fail(*_, **__):
        raise RuntimeError("the second sun\nand much more")

    program, x = SUBJECTS["vae"][0]()
    monkeypatch.setattr(type(program), "sample", fail)
    made = report(program, x, tmp_path / "report.html", num_particles=30, progress=False, history=RECORDS)
    assert made.left_out == {"Samples": "the second sun"}
    assert "Left out: the second sun" in page(made.path).text


def test_one_seed_is_one_page(quick, tmp_path):
    torch.manual_seed(0)
    program, x = SUBJECTS["vae"][0]()
    split = Split(x * 0.4 + 0.3, binarize="dynamic")  # which draws at each use
    before = torch.get_rng_state()
    for name in "ab":
        report(program, split, tmp_path / name, num_particles=30, progress=False, history=RECORDS, seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.equal(before, torch.get_rng_state()) and program.training


def test_the_decoder_has_what_the_rest_of_the_page_leaves(quick, monkeypatch, tmp_path):
    given = []

    def refuse(top, z, most_bytes):
        given.append(most_bytes)
        raise LeftOut("too large")

    monkeypatch.setattr(writing, "explorer_of", refuse)
    program, x = SUBJECTS["vae"][0]()
    made = report(program, x, tmp_path / "report.html", num_particles=30, progress=False, history=RECORDS)
    assert made.left_out == {"Explorer": "too large."}
    assert made.num_bytes > 50_000 and abs(made.num_bytes + given[0] - 5_000_000) < 20_000


@pytest.mark.parametrize(
    ("programs", "data", "error", "message"),
    [
        (torch.nn.Linear(2, 2), bits(9, 2), TypeError, "programs: found Linear, expected a program or a pair"),
        (pyro_vae.VAE((2,), 2, (3,)), bits(1, 2), ValueError, "data: found 1 datum, expected 2 or more"),
        (pyro_vae.VAE((2,), 2, (3,)), [[0.0, 1.0]], TypeError, "data: found list, expected what pyro_vae.data.load"),
    ],
)
def test_what_is_refused(programs, data, error, message, tmp_path):
    with pytest.raises(error, match=f"^{message}"):
        report(programs, data, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
