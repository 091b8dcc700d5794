"""Atomic writes: a file is written whole or not at all.

A run may die at any moment, and its files must stay readable. So this package writes to a temporary file in the same
folder, flushes it to the disk and renames it over the old file. The renaming is atomic on POSIX and Windows. An error
such as a full disk names the file that was to be written, not the temporary one.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_leftovers", "replacing", "write_text"]

_MARK = ".unfinished-"  # in the name of a file that is not whole


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` if the block succeeds.

    A missing folder is created. On an exception the temporary file is removed and ``path`` keeps its old content.

    Raises
    ------
    OSError
        If the file cannot be written; the error has the system's number and reason, and names ``path``.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder) / "note.txt"
    ...     with replacing(target) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     target.read_text()
    'whole'
    """
    path = Path(path)
    try:
        with _temporary(path) as temporary:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide results from the user's colleagues
            os.replace(temporary, path)
    except OSError as error:
        if error.errno is None and type(error) is not OSError:  # not an error of writing: a failed download, say
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error  # Python picks the subclass by the number


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Create an empty file beside ``path``, and remove it after the block unless it was renamed."""
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{_MARK}", suffix=path.suffix)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):  # the folder may be gone, and an error of the block matters more
            os.unlink(name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote to a folder."""
    for path in folder.glob(f".*{_MARK}*"):
        with suppress(OSError):
            path.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
