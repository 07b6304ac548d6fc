"""PIL images as viewers show them: 8 bits per channel, turned by their EXIF orientation. Needs no torch."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps

# The errors that Pillow raises for damaged images; most of them come from its readers of rare formats.
BROKEN = (
    OSError, ValueError, SyntaxError, ArithmeticError, LookupError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip

_BITS = 258  # TIFF's tag BitsPerSample: 12 for some images that Pillow reads as 16-bit


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit image to 8 bits; return an 8-bit image unchanged. Pillow would clip values above 255 to white.

    White is 65535 in PNG, PGM and images of mode I;16, or the largest value of a TIFF's number of bits. Other images of
    mode I or F do not define white: ValueError, whose message the caller begins with the image's name.
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
    scaled = Image.fromarray(np.rint(pixels).astype(np.uint8))
    scaled.info = dict(image.info)
    return scaled


def upright(image: Image.Image) -> Image.Image:
    """Return an image in 8 bits, turned by its EXIF orientation; the same object if nothing changes."""
    try:
        image = eight_bits(image)
    except ValueError as error:
        raise ValueError(f"The image {error}.") from error
    try:
        needs_turn = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(image) if needs_turn else image  # exif_transpose would copy the image
    except BROKEN:  # viewers show an image with damaged EXIF as it is stored
        return image
