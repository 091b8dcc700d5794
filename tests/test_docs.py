"""The pages name tests that exist: each path is a file, and each test or class named after it is in that file."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("docs/**/*.rst")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
]
PATH = r"tests/[\w/]+\.py"
NAME = r"(?:Test[A-Z]\w*|test_\w+)(?:(?:\.|::)\w+)*"


@cache
def names_in(path: Path) -> set[str]:
    """Return the functions and classes of a file, those in a class also as ``Class.function``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@cache
def names_anywhere() -> set[str]:
    return {name for path in ROOT.glob("tests/**/test_*.py") for name in names_in(path)}


def untrue(text: str) -> list[str]:
    """Return what a page names that does not exist.

    A name is looked up in the file whose path stands before it in its paragraph, or in all tests if none does.
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        path, names = "some test", names_anywhere()
        for token in re.findall(rf"`({PATH}|{NAME})`|\b({PATH})", paragraph):
            (token,) = filter(None, token)
            if not re.fullmatch(PATH, token):
                found += [] if token.replace("::", ".") in names else [f"{token} in {path}"]
            elif (ROOT / token).is_file():
                path, names = token, names_in(ROOT / token)
            else:
                path, names = token, set()
                found.append(token)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_tests_that_a_page_names_exist(page):
    assert untrue(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("``tests/test_docs.py``: ``test_the_tests_that_a_page_names_exist``.", []),
        ("``tests/test_gone.py``", ["tests/test_gone.py"]),
        ("in tests/gone/test_docs.py now", ["tests/gone/test_docs.py"]),
        ("``tests/test_docs.py``：``untrue``、``test_gone``", ["test_gone in tests/test_docs.py"]),
        ("``tests/test_docs.py``,\n``TestSites``", ["TestSites in tests/test_docs.py"]),
        ("``tests/plots/test_images.py``: ``TestGone::test_it``", ["TestGone::test_it in tests/plots/test_images.py"]),
        ("``tests/test_docs.py``\n\nof layers (``TestSites``, ``TestGone``)", ["TestGone in some test"]),
    ],
)
def test_what_does_not_exist_is_found(text, expected):
    assert untrue(text) == expected


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "pyro_vae").rglob("*.py")
}


def test_every_module_is_described_once_on_the_page_of_its_topic():
    described = {
        page: re.findall(r"^\.\. automodule:: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M)
        for page in ROOT.glob("docs/**/*.rst")
    }
    everywhere = [name for names in described.values() for name in names]
    assert sorted(everywhere) == sorted(set(everywhere))
    assert set(everywhere) == MODULES - {"pyro_vae", "pyro_vae.__main__"}
    for page, names in described.items():
        rooms = {name.split(".")[1] for name in names}
        assert len(rooms) <= 1 and (not rooms or page.parent.name == "api"), page.name


def test_every_topic_is_in_the_list_of_topics():
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs/api/index.rst").read_text(encoding="utf-8"), re.M)
    assert sorted([*listed, "index"]) == sorted(page.stem for page in ROOT.glob("docs/api/*.rst"))
