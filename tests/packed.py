"""Small images, and tars and zips that hold files."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image


def png(pixels):
    """The bytes of an image."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(number):
    """The bytes of an image of 8 x 8 pixels, another for each number."""
    return png(np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8))


def zipped(files):
    """The bytes of a zip of files by their names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def pack(path, members, **options):
    """A tar of (name, bytes) each."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
