"""An image as people see it: 8 bits a channel, turned as its EXIF says. Needs no torch."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps

# What Pillow raises for bytes that are not a whole image; its readers of rare formats raise most of these.
BROKEN = (
    OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip

_WHITE = (1, 255, 4095, 65535)  # fractions; 8, 12 and 16 bits


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of whole numbers beyond 8 bits, or of floats, as 8 bits; any other as it is.

    White is the first of 1, 255, 4095 and 65535 that no pixel exceeds, else the largest pixel; black is 0, or the
    least pixel where that is negative. Converting to RGB would cut all above 255 to white, and floats up to 1 to black.

    Raises:
        ValueError: If a pixel is NaN or infinite; the message follows the image's name.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image).astype(np.float64)
    black, largest = min(0.0, float(pixels.min())), float(pixels.max())
    if not np.isfinite(pixels).all():
        raise ValueError("has pixels that are NaN or infinite; save it in 8 bits")
    white = next((one for one in _WHITE if largest <= one), largest)
    made = Image.fromarray(np.rint((pixels - black) * (255 / (white - black))).astype(np.uint8))
    made.info = dict(image.info)
    return made


def upright(image: Image.Image) -> Image.Image:
    """An image in 8 bits, turned as its EXIF says, as viewers show it; the same object where nothing is to be done."""
    image = eight_bits(image)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image  # which is copied otherwise
    except BROKEN:  # an image whose EXIF is damaged is shown as it is stored
        return image
