"""Sphinx configuration. `make docs` builds the pages, with warnings as errors and without the network."""

import pyro_vae

project = "pyro_vae"
author = "pyro_vae maintainers"
project_copyright = f"2026, {author}"
release = pyro_vae.__version__

extensions = [
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
