"""What people upload, read within bounds: images, zips of images, files of captions with images."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from labclip.data import Item, read_items
from labclip.data.images import ImageSource, formats
from labclip.data.located import leads_out
from labclip.towers.pixels import BROKEN

IMAGE_BYTES = 25_000_000
IMAGE_PIXELS = 64_000_000
IMAGES = 2000
"""Images in a gallery or for a fit."""
ALL_BYTES = 500_000_000
"""Of all images together, unpacked."""
ROWS = 20_000
"""Rows of a file of captions."""
TABLES = (".csv", ".tsv", ".jsonl")

_MEMBERS = 20_000  # files in a zip, images or not


@dataclass(frozen=True)
class Upload:
    """An uploaded file: the name that its owner gave it, and where its bytes are."""

    name: str
    path: Path


def image(name: str, data: bytes) -> ImageSource:
    """An image, its size looked at before anything is decoded; whether it is one at all its decoder says.

    Raises:
        ValueError: If it is larger than is read; the message has its size.
    """
    if len(data) > IMAGE_BYTES:
        raise ValueError(
            f"{name} has more than {IMAGE_BYTES / 1e6:.0f} MB, the most that is read of an image. Make it smaller: "
            f"models see a few hundred pixels of it."
        )
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as opened:
            width, height = opened.size
    except BROKEN:
        width = height = 0
    if width * height > IMAGE_PIXELS:
        raise ValueError(f"{name} has {width:,} x {height:,} pixels, more than is read. Make it smaller.")
    return ImageSource(name, data=data)


def image_in(upload: Upload) -> ImageSource:
    """An uploaded image; errors as of `image`."""
    return image(*_whole(upload))


def images_in(uploads: Sequence[Upload]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of uploaded images, one at a time, those in a zip among them; an image cut off is one too large.

    Raises:
        ValueError: If a zip is broken, encrypted or leads out of its folder; if there is no image, or too much.
    """
    count = total = 0
    for upload in uploads:
        for name, data in _members(upload) if upload.path.suffix.lower() == ".zip" else [_whole(upload)]:
            _check_inside(name, upload.name)
            count, total = count + 1, total + len(data)
            if count > IMAGES or total > ALL_BYTES:
                raise ValueError(
                    f"There are more than {IMAGES:,} images or {ALL_BYTES / 1e6:.0f} MB of them, unpacked. Upload "
                    f"fewer; labclip embed on the command line has no such limit."
                )
            yield name, data
    if not count:
        names = ", ".join(upload.name for upload in uploads[:3])
        raise ValueError(f"There is no image in {names or 'what was uploaded'}. Upload images, or a zip of them.")


def _whole(upload: Upload) -> tuple[str, bytes]:
    with upload.path.open("rb") as file:
        return upload.name, file.read(IMAGE_BYTES + 1)


def _members(upload: Upload) -> Iterator[tuple[str, bytes]]:
    """The images of a zip. No more than `IMAGE_BYTES` of one is unpacked, whatever its header says."""
    endings = Image.registered_extensions()
    try:
        with zipfile.ZipFile(upload.path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            if len(members) > _MEMBERS:
                raise ValueError(f"{upload.name} holds {len(members):,} files, more than {_MEMBERS:,}. Split it.")
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                hidden = path.name.startswith(".") or path.parts[0] == "__MACOSX"
                if not hidden and path.suffix.lower() in endings:
                    with archive.open(member) as file:
                        yield str(path), file.read(IMAGE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{upload.name} is not a whole zip without a password ({error}). Make it again.") from error


def _check_inside(name: str, where: str) -> None:
    """Refuse a name that leads out of the folder of images, on any system."""
    if leads_out(PureWindowsPath("C:/images"), name) or ":" in name or "\0" in name:
        raise ValueError(f"{where} names the image {name!r}, which leads out of the uploaded ones. Name it as it is.")


def unpack(uploads: Sequence[Upload], folder: Path) -> int:
    """Write uploaded images into a folder, by their names; how many there are. Errors as of `images_in`."""
    names = set()
    for name, data in images_in(uploads):
        path = folder / image(name, data).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        names.add(name)
    return len(names)


def check_table(table: Path, images: Path) -> None:
    """Look through a file of captions before an hour is spent on it.

    Raises:
        ValueError: If it can't be read or lacks a column, names an image outside `images`, has too many rows, or has no
            row with an image that is there and a negative.
    """
    rows = usable = negatives = 0
    problem = missing = ""
    for rows, item in enumerate(_items(table, images), 1):
        if rows > ROWS:
            raise ValueError(
                f"{table.name} has more than {ROWS:,} rows. Leave some out; labclip fit on the command line takes any."
            )
        if item.problem:
            problem = problem or f"{item.location} {item.problem}"
            continue
        name = item.name
        _check_inside(name, item.location)
        if not (images / name).is_file():
            missing = missing or f"{item.location} names the image {name!r}, which is not among the uploaded ones"
            continue
        usable += 1
        negatives += any(item.negatives)
    if not usable:
        raise ValueError(f"{problem or missing or f'{table.name} has no row'}. No row of it can be used.")
    if not negatives:
        raise ValueError(
            f"{table.name} has no negative beside a caption. Add a column `negative`: labclip negatives writes it."
        )


def _items(table: Path, images: Path) -> Iterator[Item]:
    try:
        yield from read_items(table, images=images, clean=False)
    except ValueError as error:  # where the file lies is nobody's business
        raise ValueError(str(error).replace(str(table), table.name)) from error
