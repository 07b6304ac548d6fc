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

_BITS = 258  # the tag of a TIFF: 12 where Pillow makes 16 of them


def eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit image as 8 bits; one of 8 bits as it is. Converting to RGB would cut all above 255 to white.

    White is 65535, in PNG, PGM and any image of mode I;16, or what a TIFF's number of bits says: one scale for every
    file. Other images of mode I or F don't say what white is: a ValueError, which follows the image's name.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    if not image.mode.startswith("I;16") and image.format not in ("PNG", "PPM"):  # Pillow's mode I for 16 bits
        raise ValueError(
            f"has the mode {image.mode}, which does not say what white is; save it in 8 bits, for example "
            f'Image.fromarray((numpy.asarray(image) * (255 / WHITE)).clip(0, 255).astype("uint8")), or as 16-bit PNG'
        )
    bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
    pixels = np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))
    made = Image.fromarray(np.rint(pixels).astype(np.uint8))
    made.info = dict(image.info)
    return made


def upright(image: Image.Image) -> Image.Image:
    """An image in 8 bits, turned as its EXIF says, as viewers show it; the same object where nothing is to be done."""
    try:
        image = eight_bits(image)
    except ValueError as error:
        raise ValueError(f"The image {error}.") from error
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image  # which is copied otherwise
    except BROKEN:  # an image whose EXIF is damaged is shown as it is stored
        return image
