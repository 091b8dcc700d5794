r"""Pictures of a folder as bytes: ``(N, H, W)`` in grey, or ``(N, 3, H, W)`` in colour.

A folder holds PNG and JPEG files, or a subfolder of them for each class. Files are read in the order of their paths, so
that a seed gives the same split on every machine. They are opened twice: first for their sizes, which have to be the
same, then for their levels.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_vae.runtime.optional import imported, install

__all__ = ["levels_of", "read_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp", ".heic", ".avif")  # pictures, which are not left out in silence
_PARTS = {"train", "training", "valid", "val", "validation", "test", "testing"}
_ORIENTATION = 0x0112  # the tag of a camera's position; from 5 on, height and width are exchanged

Levels = npt.NDArray[np.uint8]


def read_folder(
    folder: Path, size: tuple[int, int] | None
) -> tuple[Levels, npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return the pictures of a folder, their labels and the names of the classes, its subfolders.

    Parameters
    ----------
    folder
        The folder.
    size
        Height and width to which all pictures are resized; ``None`` where they have the same.

    Raises
    ------
    ValueError
        If there is no picture, or one that cannot be read, is transparent or has more than 8 bits, or they have several
        sizes.
    ImportError
        If pillow is missing.
    """
    library = imported("PIL.Image", "pillow", str(folder), install("images"))
    paths, labels, classes = _listed(folder)
    shapes = [_shape(path, library) for path in paths]  # (height, width, is grey) each
    if size is None:
        size = _common_size(folder, paths, shapes)
    is_grey = all(grey for *_, grey in shapes)
    values = np.empty((len(paths), *(() if is_grey else (3,)), *size), np.uint8)
    for index, path in enumerate(paths):
        values[index] = _levels(path, is_grey, size, library)
    return values, labels, classes


def _listed(folder: Path) -> tuple[list[Path], npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    found, suffixes = [], Counter[str]()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [Path(parent, name) for name in names if not name.startswith(".")]
        suffixes.update(path.suffix.lower() for path in files)
        found += [path for path in files if path.suffix.lower() in _SUFFIXES]
    taken = f"pictures {', '.join(_SUFFIXES)}"
    if others := sorted(suffix for suffix in suffixes if suffix in _OTHERS):
        raise ValueError(f"{folder}: found pictures {', '.join(others)}, expected {taken}: convert or remove them")
    if not found:
        shown = ", ".join(sorted(suffix or "no suffix" for suffix in suffixes)) or "no file"
        raise ValueError(f"{folder}: found a folder without a picture ({shown}), expected {taken}")
    found.sort(key=lambda path: path.relative_to(folder).parts)
    inside = [path.relative_to(folder).parts for path in found]
    if all(len(parts) == 1 for parts in inside):
        return found, None, None
    names = sorted({parts[0] for parts in inside if len(parts) > 1})
    if any(len(parts) == 1 for parts in inside):
        raise ValueError(
            f"{folder}: found pictures beside the subfolders {', '.join(names)}, expected all in one folder, or each "
            "in the subfolder of its class"
        )
    if {name.lower() for name in names} <= _PARTS:
        raise ValueError(
            f"{folder}: found the subfolders {', '.join(names)}, expected one of each class: load each of them by "
            "itself, or load all pictures from one folder, which are then split"
        )
    return found, np.array([names.index(parts[0]) for parts in inside]), tuple(names)


def _shape(path: Path, library: Any) -> tuple[int, int, bool]:
    """Return height, width and whether a picture is grey, from the head of its file."""
    with _opened(path, library) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{path}: found a picture of more than 8 bits (mode {image.mode}), expected 8 bits")
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) >= 5:
            height, width = width, height
        return height, width, image.mode in ("1", "L", "LA") or _has_grey_palette(image)


def _has_grey_palette(image: Any) -> bool:
    """Return whether a picture has a palette of which it uses greys alone."""
    if image.mode != "P":
        return False
    palette = image.getpalette("RGB")
    colours = np.array(palette + [0] * (768 - len(palette))).reshape(256, 3)
    used = colours[[place for _, place in image.getcolors()]]
    return bool((used == used[:, :1]).all())


def _common_size(folder: Path, paths: list[Path], shapes: list[tuple[int, int, bool]]) -> tuple[int, int]:
    sizes = Counter((height, width) for height, width, _ in shapes)
    if len(sizes) == 1:
        return next(iter(sizes))
    first = {(height, width): path for (height, width, _), path in zip(shapes[::-1], paths[::-1], strict=True)}
    shown = [f"{h} x {w} ({count}, such as {first[h, w].name})" for (h, w), count in sizes.most_common(4)]
    rest = f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
    raise ValueError(
        f"{folder}: found pictures of {len(sizes)} sizes, height x width {', '.join(shown)}{rest}, expected one; "
        "size=(height, width) resizes them"
    )


def _levels(path: Path, is_grey: bool, size: tuple[int, int], library: Any) -> Levels:
    """Return a picture as ``(H, W)`` or ``(3, H, W)``, as its camera was held."""
    with _opened(path, library) as image:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = imported("PIL.ImageOps", "pillow", str(path), install("images")).exif_transpose(image)
        found = levels_of(image, str(path), is_grey)
        if found.shape[-2:] != size:
            resized = library.fromarray(found if is_grey else found.transpose(1, 2, 0))
            found = _channels_first(resized.resize(size[::-1], library.Resampling.BILINEAR))
    return found


@contextmanager
def _opened(path: Path, library: Any) -> Iterator[Any]:
    """Open a picture as PNG or JPEG alone, and name the file if it cannot be read."""
    try:
        with library.open(path, formats=("PNG", "JPEG")) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, library.DecompressionBombError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: found a picture that cannot be read ({error}), expected a whole PNG or JPEG"
        ) from error


def levels_of(image: Any, name: str, is_grey: bool) -> Levels:
    """Return the levels of a picture of pillow: ``(H, W)`` in grey, ``(3, H, W)`` in colour."""
    if image.has_transparency_data:
        low, _ = image.convert("RGBA").getchannel("A").getextrema()
        if low < 255:
            raise ValueError(
                f"{name}: found a picture with transparent pixels, expected none; paste it on a background of one "
                "colour, since a transparent pixel has no grey level"
            )
        image = image.convert("RGBA")
    return _channels_first(image.convert("L" if is_grey else "RGB"))


def _channels_first(image: Any) -> Levels:
    found: Levels = np.asarray(image)
    return found if found.ndim == 2 else found.transpose(2, 0, 1)
