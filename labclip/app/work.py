"""Long work as labclip's own commands in another process, and what people upload for it, read within bounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from PIL import Image

from labclip.data import read_items
from labclip.data.located import leads_out

FILE_BYTES = 50_000_000
"""Of a file that is uploaded, and of an image in a zip."""
IMAGES = 2000
"""Images in a gallery or for a fit."""
ALL_BYTES = 500_000_000
"""Of all images together, unpacked."""
TABLES = (".csv", ".tsv", ".jsonl")

REPORT, ALIGNMENT = "report.html", "alignment"
_EVERY = 0.5  # seconds between two looks at a command

# "fit:  45%|####      | 450/1000 [00:04<00:05, 90.1batch/s, loss=0.91]", as tqdm draws it
_BAR = re.compile(r"(?P<what>[\w ]+): +(?P<percent>\d+)%\|.*\| (?P<count>\S+/\S+) \[\S+<(?P<left>[\d:?]+)")
_LOSS = re.compile(r"\bloss=([\d.]+)")


@dataclass(frozen=True)
class Upload:
    """An uploaded file: the name that its owner gave it, and where its bytes are."""

    name: str
    path: Path


def images_in(uploads: Sequence[Upload]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of uploaded images, one at a time, those in a zip among them.

    Raises:
        ValueError: If a zip is broken or encrypted, a name leads out of its folder, there is no image, or too much.
    """
    count = total = 0
    for upload in uploads:
        zipped = upload.path.suffix.lower() == ".zip"
        for name, data in _members(upload) if zipped else [(upload.name, upload.path.read_bytes())]:
            check_inside(name, upload.name)
            count, total = count + 1, total + len(data)
            if count > IMAGES or total > ALL_BYTES or len(data) > FILE_BYTES:
                raise ValueError(
                    f"There are more than {IMAGES:,} images or {ALL_BYTES / 1e6:.0f} MB of them, or {name} has more "
                    f"than {FILE_BYTES / 1e6:.0f} MB. labclip embed on the command line has no such limit."
                )
            yield name, data
    if not count:
        raise ValueError(f"There is no image in {uploads[0].name}. Upload images, or a zip of them.")


def _members(upload: Upload) -> Iterator[tuple[str, bytes]]:
    """The images of a zip. No more than one byte too many of one is unpacked, whatever its header says."""
    endings = Image.registered_extensions()
    try:
        with zipfile.ZipFile(upload.path) as archive:
            for member in archive.infolist():
                path = PurePosixPath(member.filename.replace("\\", "/"))
                hidden = path.name.startswith(".") or "__MACOSX" in path.parts
                if not member.is_dir() and not hidden and path.suffix.lower() in endings:
                    with archive.open(member) as file:
                        yield str(path), file.read(FILE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{upload.name} is not a whole zip without a password ({error}). Make it again.") from error


def check_inside(name: str, where: str) -> None:
    """Refuse a name that leads out of the folder of images, on any system."""
    if leads_out(PureWindowsPath("C:/images"), name) or ":" in name or "\0" in name:
        raise ValueError(f"{where} names the image {name!r}, which leads out of the uploaded ones. Name it as it is.")


def unpack(uploads: Sequence[Upload], folder: Path) -> int:
    """Write uploaded images into a folder, by their names; how many there are. Errors as in `images_in`."""
    names = set()
    for name, data in images_in(uploads):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        names.add(name)
    return len(names)


def check_table(table: Path, images: Path) -> None:
    """Refuse a file of captions that can't be read, or names an image outside a folder: the command would open it."""
    try:
        for item in read_items(table, images=images, clean=False):
            check_inside(item.name, item.location)
    except ValueError as error:  # where the file lies is nobody's business
        raise ValueError(str(error).replace(str(table), table.name)) from error


class Step(NamedTuple):
    """How far a command is: what it does in words, percent of that, and the losses of a fit so far."""

    what: str
    percent: int | None = None
    losses: Sequence[float] = ()


class Worker:
    """Runs labclip commands, in a folder of whoever asks; `close` ends those that run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, work: Path, *commands: Sequence[str]) -> Iterator[Step]:
        """Run commands one after the other, told as they go; closing the iterator ends the one that runs.

        Exit code 1, a fit that was not worth it, is no failure.

        Raises:
            ValueError: With the command's own words, where it fails.
        """
        home = str(Path(__file__).parents[2])  # another folder imports the same labclip
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        for words in commands:
            losses: list[float] = []
            with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as err:
                process = subprocess.Popen(
                    [sys.executable, "-m", "labclip", *words], cwd=work, stdin=subprocess.DEVNULL, stdout=out,
                    stderr=err, env={**os.environ, "PYTHONPATH": paths},
                )  # fmt: skip
            self._running.add(process)
            try:
                while process.poll() is None:
                    yield _step(words[0], _last_line(work), losses)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_EVERY)
            finally:
                _end(process)
                self._running.discard(process)
            if process.returncode not in (0, 1) or not (work / "stdout").stat().st_size:
                last = _last_line(work)  # the command's own words; one that was killed has none
                ended = f"labclip {words[0]} ended with code {process.returncode}. If memory was short, try with less."
                raise ValueError(last.removeprefix("Error: ") if last.startswith("Error: ") else ended)

    def close(self) -> None:
        """End whatever runs."""
        for process in list(self._running):
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(work: Path) -> str:
    text = (work / "stderr").read_bytes()[-4000:].decode(errors="replace")
    return next((line for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")


def _step(command: str, last: str, losses: list[float]) -> Step:
    """What the last line of stderr tells; the loss in it is added to those before."""
    losses += [float(value) for value in _LOSS.findall(last)]
    if found := _BAR.match(last):
        return Step(f"{found['what']}: {found['count']}, {found['left']} left", int(found["percent"]), losses)
    return Step(f"labclip {command} begins")


def diagnosis(model: Sequence[str], alignment: Sequence[str], scenes: int) -> list[list[str]]:
    """The commands of a diagnosis; what to type of the model, for example ["--model", "scenes"], and of its matrix."""
    return [["diagnose", *model, *alignment, "--scenes", str(scenes), "--out", REPORT, "--json"]]


def fit(model: Sequence[str], table: Path, images: Path, *, clean: bool) -> list[list[str]]:
    """The commands of a fit on a file of captions: what can't be used is left out and told."""
    embed = ["embed", "features", *model, "--captions", str(table), "--images", str(images), "--on-error", "skip"]
    return [
        [*embed, "--clean" if clean else "--as-is", "--json"],
        ["fit", "features", ALIGNMENT, "--html", REPORT, "--json"],
    ]
