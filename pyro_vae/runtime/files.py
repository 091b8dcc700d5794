"""Files written whole or not at all.

A run may die at any moment; what it leaves on disk must still be readable. Everything this package writes
therefore goes to a temporary name in the same folder, reaches the disk, and is then renamed over the old file, which
POSIX and Windows both do atomically. A disk that is full, or a folder that cannot be written to, is said with the name
of the file that was to be, not of the temporary one.
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
    """Give a temporary path to write to, and rename it to ``path`` if the block succeeds.

    The folder is made when missing. On an exception the temporary file is removed and ``path`` keeps its old content.

    Raises
    ------
    OSError
        If it cannot be written: the error has the number and the reason that the system gave, and names ``path``.

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
        if error.errno is None and type(error) is not OSError:  # of what was to be written, such as a download
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error  # of the class that the number stands for


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Make an empty file beside ``path``, and remove it in the end if it still has that name."""
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{_MARK}", suffix=path.suffix)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):  # the folder may be gone, and what went wrong first is what counts
            os.unlink(name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a process left in a folder which was killed while it wrote."""
    for path in folder.glob(f".*{_MARK}*"):
        with suppress(OSError):
            path.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the content of ``path`` by ``text`` (UTF-8), atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
