"""A report in a headless browser: it asks for nothing, it decodes what the program decodes, and it can be dragged."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae
from pyro_vae.data.loading import Splits
from pyro_vae.data.split import Split
from pyro_vae.reporting import report
from pyro_vae.reporting.assets import COMMAND, runtime
from tests.support.browser import CHROMIUM, DRIVER, Browser

READY = "return latentExplorer.ready.then(() => 'ready', String)"
SHAPE, LATENT_DIM = (8, 8), 5

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 cannot write ONNX"),
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="there is no chromium with its chromedriver here"),
    pytest.mark.skipif(runtime() is None, reason=f"there is no ONNX Runtime for browsers here: {COMMAND}"),
]


@pytest.fixture(scope="module")
def program() -> pyro_vae.VAE:
    torch.manual_seed(0)
    return pyro_vae.VAE(SHAPE, LATENT_DIM, (20,))


@pytest.fixture(scope="module")
def path(program, tmp_path_factory) -> Path:
    x = torch.bernoulli(torch.full((60, *SHAPE), 0.3))
    splits = Splits(*(Split(x, labels=torch.arange(60) % 10) for _ in range(3)), name="<noise>")
    place = tmp_path_factory.mktemp("report") / "report.html"
    assert "Explorer" not in report(program, splits, place, num_particles=30, progress=False).left_out
    return place


@pytest.fixture(scope="module")
def chromium():
    with Browser() as browser:
        yield browser


@pytest.fixture
def opened(chromium, path):
    """The page, opened anew, its decoder at work."""
    chromium.open("about:blank")
    for log in ("performance", "browser"):
        chromium.log(log)
    chromium.open(path.as_uri())
    assert chromium.run(READY) == "ready"
    return chromium


def canvas(browser) -> np.ndarray:
    """What the explorer shows, ``(H, W)`` in [0, 1], once the last wish was decoded."""
    browser.run("return new Promise((done) => setTimeout(done, 200))")
    text = browser.run("return document.querySelector('#explorer canvas').toDataURL('image/png')")
    image = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("L")
    return np.asarray(image) / 255


def decoded(browser, z: torch.Tensor) -> np.ndarray:
    mean = browser.run("return latentExplorer.decode(arguments[0]).then((mean) => Array.from(mean))", z.tolist())
    return np.array(mean).reshape(SHAPE)


def mean_of(program: pyro_vae.VAE, z: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return program.likelihood(z).mean.numpy()


def sliders(browser) -> torch.Tensor:
    """The latents as the sliders show them."""
    script = "return [...document.querySelectorAll('#explorer [data-unit]')].map((s) => [s.dataset.unit, s.value])"
    shown = {int(unit): float(value) for unit, value in browser.run(script)}
    return torch.tensor([shown[unit] for unit in range(LATENT_DIM)])


def middle_of(browser, selector: str) -> tuple[float, float]:
    """Where an element is in the window, after the page was scrolled to it."""
    script = """const found = document.querySelector(arguments[0]); found.scrollIntoView({block: "center"});
    const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]"""
    return tuple(browser.run(script, selector))


def test_it_asks_for_nothing_and_complains_of_nothing(opened, path):
    asked = opened.requests()
    assert asked[0] == path.as_uri()  # so the log does show what is asked for
    assert [url for url in asked[1:] if not url.startswith(("blob:", "data:"))] == []
    assert opened.log("browser") == []


def test_it_cannot_ask_for_anything(opened):
    """Its policy forbids it, whatever stands in it."""
    assert opened.run("return fetch('https://example.org').then(() => 'asked', () => 'refused')") == "refused"
    assert any("Content Security Policy" in entry["message"] for entry in opened.log("browser"))


def test_it_decodes_what_the_program_decodes(opened, program):
    z = 2 * torch.randn(30, LATENT_DIM, generator=torch.Generator().manual_seed(1))
    difference = max(np.abs(decoded(opened, each) - mean_of(program, each)).max() for each in z)
    print(f"largest difference to torch {difference:.1e}")
    assert difference < 1e-3


def test_a_drag_changes_the_picture_to_that_of_the_program(opened, program):
    before, at = canvas(opened), sliders(opened)
    x, y = middle_of(opened, "#cross")
    opened.drag([(x, y), *((x + 4 * i, y - 3 * i) for i in range(1, 25))])
    after, z = canvas(opened), sliders(opened)
    assert np.abs(after - before).max() > 0.01 and not torch.equal(z, at)
    assert np.abs(after - mean_of(program, z)).max() < 1e-3 + 1 / 510 + 0.01  # sliders have steps of a hundredth
    moved = middle_of(opened, "#cross")
    assert moved == pytest.approx((x + 96, y - 72), abs=2) or opened.run("return scrollY") > 0
    times = opened.run("return latentExplorer.times")
    print(f"decoded and drawn in {np.median(times):.1f} ms, the median of {len(times)}")  # pytest -rP shows it
    assert len(times) > 5


def test_a_finger_drags_the_cross_and_scrolls_elsewhere(opened):
    def touch(kind, *points):
        opened.do("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=[{"x": x, "y": y} for x, y in points])

    def swipe(x, y):
        touch("Start", (x, y))
        for i in range(1, 9):
            touch("Move", (x + 5 * i, y - 10 * i))
        touch("End")
        canvas(opened)

    opened.do("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        x, y = middle_of(opened, "#cross")
        at, scrolled = sliders(opened), opened.run("return scrollY")
        swipe(x, y)
        moved = sliders(opened)
        assert not torch.equal(moved, at) and opened.run("return scrollY") == scrolled
        swipe(x - 120, y)
        assert torch.equal(sliders(opened), moved) and opened.run("return scrollY") > scrolled
    finally:
        opened.do("Emulation.setTouchEmulationEnabled", enabled=False)


def test_a_slider_and_the_keyboard_move_it_too(opened, program):
    opened.run(
        "const s = document.querySelector('[data-unit=\"2\"]'); s.value = 1.5; s.dispatchEvent(new Event('input'))"
    )
    shown, z = canvas(opened), sliders(opened)
    assert z[2] == 1.5 and np.abs(shown - mean_of(program, z)).max() < 1e-3 + 1 / 510 + 0.01
    place = "return document.getElementById('cross').getAttribute('transform')"
    before = opened.run(place)
    opened.run("document.getElementById('cross').focus()")
    opened.do("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert opened.run(place) != before
    opened.run("document.getElementById('middle').click()")
    assert abs(sliders(opened)[2]) < 1


def test_a_point_says_what_it_is(opened):
    opened.mouse("Moved", *middle_of(opened, "#latents use"))
    tip = "const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.innerText"
    text = opened.run(tip)
    assert "datum" in text and "class" in text and "log p(x)" in text
    style = opened.run("return getComputedStyle(document.querySelector('#tip div')).backgroundImage")
    assert style.startswith('url("data:image/png')
    opened.mouse("Moved", 2, 2)
    assert opened.run(tip) == ""


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen(opened, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.do("Emulation.setDeviceMetricsOverride", **metrics)
    try:
        assert opened.run("return document.documentElement.scrollWidth") <= width
    finally:
        opened.do("Emulation.clearDeviceMetricsOverride")
