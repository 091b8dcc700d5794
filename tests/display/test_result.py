"""The forms of a result: aligned text, escaped HTML without colours, a data frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae.display import Result, ResultTable
from pyro_vae.runtime import optional


class Shown(Result):
    def _table(self):
        return ResultTable(("", "nats"), [("a <site> & co", "-1.5"), ("b", "12.25")], "Two <rows>", ["A note, 1 < 2."])

    def _columns(self):
        return {"tensor": torch.tensor([1.0, 2.0], requires_grad=True), "array": np.arange(2), "list": ("x", "y")}


def test_text_is_aligned_and_is_what_the_prompt_shows():
    assert (
        str(Shown())
        == repr(Shown())
        == ("Two <rows>\n                nats\na <site> & co   -1.5\nb              12.25\n\nA note, 1 < 2.")
    )


def test_text_without_title_and_notes():
    assert ResultTable(("", "n"), [("a", "1")]).as_text() == "   n\na  1"


def test_html_is_escaped_and_takes_the_colours_of_the_page():
    text = Shown()._repr_html_()
    assert "a &lt;site&gt; &amp; co" in text and "1 &lt; 2." in text and "Two &lt;rows&gt;" in text
    assert text.count("<tr>") == 3 and "color: inherit" in text and "#" not in text


def test_a_frame_has_the_columns_without_gradients():
    frame = Shown().to_frame()
    assert list(frame.columns) == ["tensor", "array", "list"]
    assert frame["tensor"].tolist() == [1.0, 2.0] and frame["list"].tolist() == ["x", "y"]


def test_a_frame_without_pandas_says_what_brings_it(monkeypatch):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'^to_frame: .* expected a pandas .*pip install "pyro_vae\[tables\]"'):
        Shown().to_frame()
