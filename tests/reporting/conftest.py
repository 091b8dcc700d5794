"""Reports, read as a browser would read them."""

from __future__ import annotations

import gzip
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pyro_vae.reporting import assets, writing
from pyro_vae.reporting.explorer import Explorer


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.contents: dict[str, str] = {}
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)
        elif self.elements[-1][1].get("id"):
            name = self.elements[-1][1]["id"]
            self.contents[name] = self.contents.get(name, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page():
    return Page


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Small files in the place of ONNX Runtime for browsers, for pages that no browser runs."""
    monkeypatch.setattr(assets, "FOLDER", tmp_path / "assets")
    for place, text in zip(assets.places(), ("var ort;", "export default 0;", "wasm"), strict=True):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(gzip.compress(text.encode(), mtime=0))


@pytest.fixture
def quick(stand_ins, monkeypatch):
    """A decoder that took no time to export, for pages that no browser runs."""
    made = Explorer(gzip.compress(b"decoder", mtime=0), 7, assets.runtime(), 1e-7, 24)
    monkeypatch.setattr(writing, "explorer_of", lambda *_: made)


@pytest.fixture
def no_assets(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "FOLDER", tmp_path / "none")
