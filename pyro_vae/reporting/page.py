"""A report as text: sections and an explorer put into the templates, everything from elsewhere escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pyro_vae.reporting.assets import PACKAGE
from pyro_vae.reporting.explorer import Explorer
from pyro_vae.reporting.sections import Section

__all__ = ["render"]

_FOLDER = Path(__file__).parent / "templates"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(title: str, subtitle: str, sections: Sequence[Section], explorer: Explorer | None, version: str) -> str:
    """Return the page."""
    return _ENVIRONMENT.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        files=[] if explorer is None else _encoded(explorer),
        version=version,
        package=PACKAGE,
        license=Markup(_read("onnxruntime-web.license")),
        css=Markup(_read("report.css")),
        script=Markup(_read("report.js")),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _encoded(explorer: Explorer) -> list[dict[str, Any]]:
    """Return the files of an explorer as text, 5 characters for 4 bytes, where base64 takes 5.33.

    The alphabet is that of RFC 1924, with ``.`` in the place of ``<``, so that the text can stand in a ``<script>``.
    """
    files = {"decoder": explorer.model, **{f"ort-{name}": file for name, file in explorer.runtime._asdict().items()}}
    return [
        {"id": name, "bytes": len(file), "text": Markup(base64.b85encode(file).decode().replace("<", "."))}
        for name, file in files.items()
    ]
