"""Images as PNG in the text of a page."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

__all__ = ["data_uri", "is_images", "mosaic", "png", "sprite", "thumbnails"]

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)


def is_images(shape: tuple[int, ...]) -> bool:
    """Tell whether a datum of this shape can be shown as an image.

    >>> is_images((28, 28)), is_images((3, 32, 32)), is_images((12,)), is_images((5, 8, 8))
    (True, True, False, False)
    """
    size = shape[-2:]
    return (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))) and min(size) > 1


def pixels(x: Tensor) -> Pixels:
    """Return images ``(N, H, W)`` or ``(N, C, H, W)`` of values in [0, 1] as bytes ``(N, H, W, C)``."""
    values = x.detach().cpu().double().numpy()
    values = values[..., None] if values.ndim == 3 else np.moveaxis(values, 1, -1)
    return (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)


def png(image: Pixels, scale: int = 1) -> bytes:
    """Return an image ``(H, W, C)`` as a PNG file, each pixel ``scale`` times as large."""
    image = image.repeat(scale, 0).repeat(scale, 1)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if set(np.unique(image)) <= {0, 255} and image.shape[-1] == 1:
        picture = picture.convert("1")  # a bit a pixel
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(file: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def mosaic(images: Pixels, columns: int, gap: int = 1) -> Pixels:
    """Return images as one, row by row, with grey lines between them."""
    rows = math.ceil(len(images) / columns)
    height, width, channels = images.shape[1:]
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 128, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        whole[top : top + height, left : left + width] = image
    return whole


def thumbnails(images: Pixels, longest_side: int = 48) -> Pixels:
    """Return images of at most so many pixels a side, larger ones as means of blocks of pixels."""
    block = math.ceil(max(images.shape[1:3]) / longest_side)
    if block == 1:
        return images
    height, width = (side // block for side in images.shape[1:3])
    cut = images[:, : height * block, : width * block].reshape(len(images), height, block, width, block, -1)
    return cut.mean((2, 4)).round().astype(np.uint8)


def sprite(images: Pixels, most_bytes: int) -> tuple[bytes, int]:
    """Return the first of the thumbnails on one sheet, side by side, as a PNG file, and how many they are.

    As many as a file of ``most_bytes`` takes, to within a factor of two; the sheet is about as high as wide.
    """
    number = len(images)
    while True:
        columns = math.ceil(math.sqrt(number))
        file = png(mosaic(images[:number], columns, gap=0))
        if len(file) <= most_bytes or number == 1:
            return file, number
        number //= 2
