"""Sphinx configuration. `make docs` builds the pages, with warnings as errors and without the network."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import pyro_vae

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pyro_vae"
author = "pyro_vae maintainers"
project_copyright = f"2026, {author}"
release = pyro_vae.__version__

extensions = [
    "drawn",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pyro_vae {release}"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False


logger = logging.getLogger(__name__)


def link_public_names(app: Sphinx, env: BuildEnvironment, node: Element, contents: Element) -> Element | None:
    """Link ``pyro_vae.X`` to the module that describes X, and warn of a name that the package does not have."""
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not name.startswith("pyro_vae."):
        return None
    try:
        found = pkgutil.resolve_name(name)
    except (AttributeError, ImportError):
        logger.warning("%s: found in a reference, expected a name of the package", name, location=node)
        return None
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], home, node, contents)


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", link_public_names)
