"""The directive ``drawn``: code in the form of a doctest, and below it the figure that its last line returns.

The code of a page runs from top to bottom in one namespace and in an empty folder, as its doctest does. So the figures
of a page are those of the package that it describes, and no picture is kept beside it.
"""

from __future__ import annotations

import doctest
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Drawn(SphinxDirective):
    has_content = True
    option_spec = {"alt": directives.unchanged_required, "hidden": directives.flag}  # noqa: RUF012, as in docutils

    def run(self) -> list[nodes.Node]:
        examples = doctest.DocTestParser().get_examples("\n".join(self.content) + "\n")
        shown = "".join(self._with_prompts(example.source) for example in examples)
        value = self._run(examples)
        block = nodes.doctest_block(shown, shown)
        if not hasattr(value, "_repr_png_"):
            return [block]
        png, size = value._repr_png_()
        name = f"{hashlib.sha256(png).hexdigest()[:16]}.png"
        folder = Path(self.env.app.outdir, "_drawn")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png)
        up = "../" * self.env.docname.count("/")
        alt = nodes.Text(self.options["alt"]).astext().replace('"', "&quot;")
        image = f'<p><img src="{up}_drawn/{name}" alt="{alt}" width="{size["width"]}" style="max-width: 100%"></p>'
        return [block, nodes.raw("", image, format="html")]

    @staticmethod
    def _with_prompts(source: str) -> str:
        first, *others = source.splitlines(keepends=True)
        return ">>> " + first + "".join("... " + line for line in others)

    def _run(self, examples: list[doctest.Example]) -> Any:
        """Run the code in the namespace of the page, and return the value of its last line if that is an expression."""
        known = self.env.current_document if hasattr(self.env, "current_document") else self.env.temp_data
        if "drawn" not in known:
            torch.manual_seed(0)  # as docs/conftest.py does
            known["drawn"] = {"__name__": "drawn"}, tempfile.TemporaryDirectory()
        namespace, folder = known["drawn"]
        value, here = None, Path.cwd()
        os.chdir(folder.name)
        try:
            for example in examples:
                try:
                    code = compile(example.source, self.env.docname, "eval")
                except SyntaxError:
                    exec(compile(example.source, self.env.docname, "exec"), namespace)
                else:
                    value = eval(code, namespace)
        finally:
            os.chdir(here)
        return value


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": False}
