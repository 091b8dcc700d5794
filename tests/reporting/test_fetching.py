"""What runs the explorer comes from npm, and is kept only if it is what it should be."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from pyro_vae.reporting import assets, fetching


@pytest.fixture
def packed() -> bytes:
    """A package of npm with the three files, and one that is not wanted."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in (*assets.FILES, "else.js"):
            content = f"content of {name}".encode()
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def npm(no_assets, packed, monkeypatch, tmp_path):
    """A stand-in for npm, which packs that package, or fails where the file is missing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "packed.tgz").write_bytes(packed)
    script = tmp_path / "bin" / "npm"
    script.write_text(
        f'#!/bin/sh\n[ "$1 $2 $4" = "pack {assets.PACKAGE} --pack-destination" ] || exit 9\n'
        f'cp {tmp_path / "packed.tgz"} "$5/named.tgz" 2> /dev/null || {{ echo "no network" >&2; exit 1; }}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(fetching, "INTEGRITY", base64.b64encode(hashlib.sha512(packed).digest()).decode())
    return tmp_path / "packed.tgz"


def test_the_files_are_kept_and_fetched_once(npm, capsys):
    assert assets.runtime() is None and fetching.main() == 0
    found = assets.runtime()
    assert [gzip.decompress(each).decode() for each in found] == [f"content of {name}" for name in assets.FILES]
    assert sorted(path.name for path in assets.places()[0].parent.iterdir()) == sorted(p.name for p in assets.places())
    npm.unlink()
    assert fetching.main() == 0 and capsys.readouterr().err == ""


def test_another_package_is_refused(npm, packed, capsys):
    npm.write_bytes(packed + b"\0")
    assert fetching.main() == 1 and assets.runtime() is None
    assert f"{assets.PACKAGE}: found the SHA-512 " in capsys.readouterr().err


def test_what_npm_says_is_handed_on(npm, capsys):
    npm.unlink()
    assert fetching.main() == 1
    assert "npm: found no onnxruntime-web@1.22.0 (no network), expected to fetch it" in capsys.readouterr().err


def test_without_npm_it_is_asked_for(no_assets, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetching.main() == 1
    assert "npm: found none, expected one (it comes with Node.js)" in capsys.readouterr().err


def test_the_files_are_part_of_a_wheel_and_not_of_the_sources():
    root = Path(assets.__file__).parents[2]
    assert "/pyro_vae/reporting/assets/" in (root / ".gitignore").read_text().splitlines()
    assert "assets/*.gz" in (root / "setup.cfg").read_text()
