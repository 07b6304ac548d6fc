"""What people upload, read within bounds, and long work as labclip's own commands."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from PIL import Image

from labclip.data import read_items
from labclip.data.images import formats
from labclip.data.located import leads_out
from labclip.towers.pixels import BROKEN

FILE_BYTES = 50_000_000
"""Of a file that is uploaded, and of an image in a zip."""
IMAGES = 2000
"""Images in a gallery or for a fit."""
ALL_BYTES = 500_000_000
"""Of all images together, unpacked."""
TABLES = (".csv", ".tsv", ".jsonl")

_EVERY = 0.5  # seconds between two looks at a command
# "fit:  45%|####      | 450/1000 [00:04<00:05, 90.1batch/s, loss=0.91]", as tqdm draws it
_BAR = re.compile(r"(?P<what>[\w ]+): +(?P<percent>\d+)%\|.*\| (?P<count>\S+/\S+) \[\S+<(?P<left>[\d:?]+)")
_LOSS = re.compile(r"\bloss=([\d.]+)")
_PYTHON = re.compile(r"(?: Pass|, or pass)\b.*")  # what a message says to those who call the library


class Upload(NamedTuple):
    """An uploaded file: the name that its owner gave it, and where its bytes are."""

    name: str
    path: Path


def unpack(uploads: Sequence[Upload], folder: Path) -> list[str]:
    """Write uploaded images, those in zips among them, into an empty folder; sentences on what there was."""
    passed_over, broken, count, total = 0, list[str](), 0, 0
    for name, data in _files(uploads):
        check_inside(name, "The upload")
        if data is None:
            passed_over += 1
            continue
        count, total = count + 1, total + len(data)
        if count > IMAGES or total > ALL_BYTES or len(data) > FILE_BYTES:
            raise ValueError(
                f"There are more than {IMAGES:,} images or {ALL_BYTES / 1e6:.0f} MB of them, or {name} has more "
                f"than {FILE_BYTES / 1e6:.0f} MB. labclip embed on the command line has no such limit."
            )
        if (folder / name).exists():
            raise ValueError(f"Two images are called {name}. Upload them as a zip, which keeps the names of folders.")
        try:
            Image.open(io.BytesIO(data), formats=formats()).close()
        except BROKEN:
            broken.append(name)
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if count == len(broken):
        name = broken[0] if broken else uploads[0].name
        raise ValueError(f"There is no image that can be read in {name}. Upload images, or a zip of them.")
    told = [f"Images: {count - len(broken):,}."]
    told += [f"Files passed over, as they are no images: {passed_over:,}."] if passed_over else []
    told += [f"Images that can't be read: {len(broken):,}, for example {broken[0]}."] if broken else []
    return told


def _files(uploads: Sequence[Upload]) -> Iterator[tuple[str, bytes | None]]:
    """Names, and the bytes of images; of one in a zip no more than one too many, whatever its header says."""
    for upload in uploads:
        if upload.path.suffix.lower() != ".zip":
            yield upload.name, upload.path.read_bytes() if _may_be_image(upload.name) else None
            continue
        try:
            with zipfile.ZipFile(upload.path) as archive:
                for member in archive.infolist():
                    name = member.filename.replace("\\", "/")
                    if not member.is_dir():
                        with archive.open(member) as file:
                            yield name, file.read(FILE_BYTES + 1) if _may_be_image(name) else None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            told = f"{upload.name} is not a whole zip without a password ({error}). Make it again."
            raise ValueError(told) from error


def _may_be_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not hidden and path.suffix.lower() in Image.registered_extensions()


def check_inside(name: str, where: str) -> None:
    """Refuse a name that leads out of the folder of images, on any system."""
    if leads_out(PureWindowsPath("C:/images"), name) or ":" in name or "\0" in name:
        raise ValueError(f"{where} names the image {name!r}, which leads out of the uploaded ones. Name it as it is.")


class CaptionsFile(NamedTuple):
    """A file of captions that was read."""

    path: Path
    images: list[str]  # the distinct names of its rows
    captions: int
    clean: bool  # whether captions must be cleaned, since their negatives are
    told: list[str]  # sentences on what is in it


def read_table(path: Path, *, clean: bool = False) -> CaptionsFile:
    """Read a file of captions for a fit; ValueError if it can't be, has none, or leads out of the images."""
    images, problems, captions, negatives = dict[str, None](), list[str](), 0, 0
    try:
        for item in read_items(path, clean=clean or None):
            if item.problem:
                problems.append(f"{item.location} {item.problem}.")
            else:
                check_inside(item.name, item.location)
                images[item.name] = None
                captions += len(item.captions)
                negatives += sum(map(bool, item.negatives))
    except ValueError as error:
        if "is not cleaned" in str(error) and not clean:
            return read_table(path, clean=True)
        told = in_page_words(str(error).replace(str(path), path.name))  # where it lies is nobody's business
        raise ValueError(f"{told} The columns image, caption and negative are read; see the sample.") from error
    if not captions:
        raise ValueError(" ".join([f"{path.name} has no caption.", *problems[:1]]))
    sentences = [f"{path.name}: {captions:,} captions, {negatives or 'none'} of them with a negative."]
    sentences += [f"Rows that are left out: {len(problems):,}. {one}" for one in problems[:1]]
    sentences += ["Captions are cleaned as their negatives are."] if clean else []
    return CaptionsFile(path, list(images), captions, clean, sentences)


def lay_out(table: CaptionsFile, images: Path, folder: Path) -> list[str]:
    """Copy images into a folder by the names that a table has for them; sentences on how many there are.

    An image is meant if one of the two paths ends with the other: 0.png, photos/0.png.
    """
    by_name: dict[str, list[str]] = {}
    for path in images.rglob("*.*"):
        by_name.setdefault(path.name, []).append(path.relative_to(images).as_posix())
    missing = []
    for name in table.images:
        asked = PurePosixPath(name.replace("\\", "/")).as_posix()
        there = by_name.get(PurePosixPath(asked).name, [])
        near = [one for one in there if f"/{one}".endswith(f"/{asked}") or f"/{asked}".endswith(f"/{one}")]
        if len(near) > 1 and asked not in near:
            raise ValueError(f"{name} may be {near[0]} or {near[1]}. Name the folder too in the file of captions.")
        if near:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / (asked if asked in near else near[0]), folder / name)
        else:
            missing.append(name)
    if len(missing) == len(table.images):
        raise ValueError(f"None of the images that {table.path.name} names is there, for example {missing[0]}.")
    told = [f"Images that are not there: {len(missing):,}, for example {one}." for one in missing[:1]]
    return [f"Images of these captions: {len(table.images) - len(missing):,}.", *told]


def in_page_words(message: str) -> str:
    """A message without what it tells those who call the library."""
    return _PYTHON.sub("", message).rstrip(".").replace("keep allows", "is allowed") + "."


class Job:
    """Commands of labclip, each in a process of its own, expected to take some seconds in all.

    `finish` makes the answer from the folder that they ran in, where `stdout` has what the last one printed.
    """

    result: Future[str]

    def __init__(self, commands: Sequence[Sequence[str]], finish: Callable[[Path], str], seconds: float) -> None:
        self.commands, self.finish, self.seconds = commands, finish, seconds
        self.title, self.losses = "", list[float]()
        self.percent: int | None = None  # of the present command
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End it, whether it waits or runs."""
        self._cancelled.set()
        self.result.cancel()

    def run(self, root: Path) -> str:
        """Run it in a folder of its own, which is removed; what a command says of its failure is a ValueError."""
        with tempfile.TemporaryDirectory(prefix="work-", dir=root) as name:
            folder = Path(name)
            for number, words in enumerate(self.commands, 1):
                self._run(words, folder, f"Step {number} of {len(self.commands)}, labclip {words[0]}")
            return self.finish(folder)

    def _run(self, words: Sequence[str], folder: Path, title: str) -> None:
        home = str(Path(__file__).parents[2])  # another folder imports the same labclip
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "labclip", *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip
        try:
            while process.poll() is None:
                self.read(title, _last_line(folder))
                if self._cancelled.wait(_EVERY):
                    raise CancelledError
        finally:
            process.kill()
            process.wait()
        # Exit code 1, a fit that was not worth it, is no failure.
        if process.returncode not in (0, 1) or not (folder / "stdout").stat().st_size:
            last = _last_line(folder)  # the command's own words; one that was killed has none
            ended = f"labclip {words[0]} ended with code {process.returncode}. If memory was short, try with less."
            raise ValueError(last.removeprefix("Error: ") if last.startswith("Error: ") else ended)

    def read(self, title: str, line: str) -> None:
        """Take how far a command is from a line that it wrote to stderr."""
        self.losses += [float(value) for value in _LOSS.findall(line)]
        bar = _BAR.match(line)
        self.title = f"{title}: {bar['what']} {bar['count']}, {bar['left']} left" if bar else title
        self.percent = int(bar["percent"]) if bar else None


def _last_line(folder: Path) -> str:
    text = (folder / "stderr").read_bytes()[-4000:].decode(errors="replace")
    return next((line for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")
