"""Small images, and tars that hold them."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(number):
    """The bytes of an image of 8 x 8 pixels, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pack(path, members, **options):
    """A tar of (name, bytes) each."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
