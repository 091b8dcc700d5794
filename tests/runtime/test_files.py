"""What cannot be written is said with the name of the file, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from pyro_vae.runtime import files
from pyro_vae.runtime.files import replacing, write_text


def raising(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), "the temporary file")

    return fail


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, OSError), (errno.EACCES, PermissionError), (errno.EROFS, OSError), (errno.EIO, OSError)],
)
@pytest.mark.parametrize("where", ["mkstemp", "fsync", "replace", "in the block"])
def test_a_failure_names_the_file(number, kind, where, tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    path.write_text("before")
    if where != "in the block":
        monkeypatch.setattr(tempfile if where == "mkstemp" else files.os, where, raising(number))
    with pytest.raises(kind) as caught, replacing(path) as temporary:
        temporary.write_text("after")
        if where == "in the block":
            raising(number)()
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert str(caught.value) == f"[Errno {number}] {os.strerror(number)}: '{path}'"
    assert [each.name for each in tmp_path.iterdir()] == ["note.txt"] and path.read_text() == "before"


def test_one_without_a_number_keeps_its_reason(tmp_path):
    with (
        pytest.raises(OSError, match=f"^{tmp_path / 'note.txt'}: the disk is tired$"),
        replacing(tmp_path / "note.txt"),
    ):
        raise OSError("the disk is tired")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/note.txt", "file/inner/note.txt"])
def test_a_folder_that_is_a_file(name, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(NotADirectoryError) as caught:
        write_text(tmp_path / name, "text")
    assert caught.value.filename == str(tmp_path / name)


def test_a_folder_that_goes_while_a_file_is_written(tmp_path):
    path = tmp_path / "run" / "note.txt"
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as temporary:
        temporary.unlink()
        path.parent.rmdir()
    assert caught.value.filename == str(path)


def test_other_exceptions_pass_as_they_are(tmp_path):
    with pytest.raises(KeyError, match="mine"), replacing(tmp_path / "note.txt"):
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []
