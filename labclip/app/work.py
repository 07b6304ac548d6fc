"""What people upload, read within bounds, and long work as labclip's own commands."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Generator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from subprocess import DEVNULL, Popen

from PIL import Image

from labclip.data import read_items
from labclip.evaluation.sources import leads_out

FILE_BYTES = 50_000_000
"""Bytes of a file that is uploaded."""
IMAGES = 2000
"""Images in a gallery or for a fit."""
ALL_BYTES = 500_000_000
"""Bytes of all images together, unpacked."""
TABLES = (".csv", ".tsv", ".jsonl")
REPORT = "report.html"

Upload = tuple[str, Path]  # the name that its owner gave a file, without folders, and where its bytes are

# "fit:  45%|####      | 450/1000 [00:04<00:05, 90.1batch/s, loss=0.91]", as tqdm draws it
_BAR = re.compile(r"(\d+)%\|[^|]*\| (.*)")


def unpack(uploads: Sequence[Upload], folder: Path) -> None:
    """Write uploaded images, those in zips among them, into an empty folder; ValueError for none, or too many."""
    count = size = 0

    def check(sizes: Sequence[int]) -> None:
        nonlocal count, size
        count, size = count + len(sizes), size + sum(sizes)
        if count > IMAGES or size > ALL_BYTES:
            limit = f"{IMAGES:,} images or {ALL_BYTES / 1e6:.0f} MB of them"
            raise ValueError(f"There are more than {limit}. The commands have no such limit.")

    for name, path in uploads:
        if path.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    members = [member for member in archive.infolist() if _may_be_image(member.filename)]
                    check([member.file_size for member in members])  # no more of one is read, whatever it holds
                    archive.extractall(folder, members)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                raise ValueError(f"{name} is not a whole zip without a password ({error}).") from error
        elif _may_be_image(name):
            check([path.stat().st_size])
            shutil.copyfile(path, folder / name)
    if not count:
        raise ValueError(f"There is no image in {uploads[0][0]}. Upload images, or a zip of them.")


def _may_be_image(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.name.startswith(".") and path.suffix.lower() in Image.registered_extensions()


def match(table: Path, images: Path, *, clean: bool = False) -> tuple[str, dict[str, Path], str]:
    """What is in a file of captions, its images by the names it has for them, and `embed`'s option for its captions.

    An image is meant if one of the two paths ends with the other: 0.png, photos/0.png. Captions must be cleaned if
    their negatives are. ValueError if the file can't be read, or names no image that is there.
    """
    names, captions, negatives, problem = dict[str, None](), 0, 0, ""
    try:
        for item in read_items(table, clean=clean or None):
            if item.problem:
                problem = problem or f" Left out, for example: {item.location} {item.problem}."
                continue
            # No other file of this machine is read, whatever its system.
            if leads_out(PureWindowsPath("C:/images"), item.name) or ":" in item.name:
                raise ValueError(f"{item.location} names {item.name!r}, which leads out of the uploaded images.")
            names[item.name] = None
            captions += len(item.captions)
            negatives += sum(map(bool, item.negatives))
    except ValueError as error:
        if "is not cleaned" in str(error) and not clean:
            return match(table, images, clean=True)
        # Without where it lies, and what those who call the library may pass.
        raise ValueError(str(error).replace(str(table), table.name).partition(" Pass ")[0]) from error
    by_name, matched = defaultdict[str, list[Path]](list), dict[str, Path]()
    for path in images.rglob("*.*"):
        by_name[path.name].append(path.relative_to(images))
    for name in names:
        asked = PureWindowsPath(name)
        near = [path for path in by_name[asked.name] if _ends_alike(path.parts, asked.parts)]
        if len(near) > 1:
            raise ValueError(f"{name} may be {near[0]} or {near[1]}. Name its folder too in {table.name}.")
        matched.update((name, images / path) for path in near)
    if not matched:
        missing = f"no image is called {next(iter(names))}" if names else "it has no caption"
        raise ValueError(f"{table.name} can't be used: {missing}.{problem}")
    there = f"{len(matched):,} of {len(names):,} images"
    holds = f"{captions:,} captions, {negatives:,} of them with a negative, and {there}.{problem}"
    return holds, matched, "--clean" if clean else "--as-is"


def _ends_alike(path: Sequence[str], other: Sequence[str]) -> bool:
    return all(name == also for name, also in zip(reversed(path), reversed(other), strict=False))


def run(commands: Sequence[Sequence[str]], folder: Path) -> Generator[tuple[str, ...], None, None]:
    """Run commands in a folder, each in a process of its own; how far it is, as often as it is asked.

    Yields a title, the percentage of the present command and what else its bar says, "" where there is no bar. What a
    command says of its failure is a ValueError. Closing it ends the process.
    """
    home = str(Path(__file__).parents[2])  # another folder imports the same labclip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
    for number, words in enumerate(commands, 1):
        title = f"Step {number} of {len(commands)}, labclip {words[0]}"
        with (folder / "stderr").open("wb") as stderr:
            command = [sys.executable, "-m", "labclip", *words]
            process = Popen(command, cwd=folder, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr, env=environment)
        try:
            while process.poll() is None:
                bar = _BAR.search(_last_line(folder))
                yield (title, *bar.groups()) if bar else (title, "", "")
        finally:
            process.kill()
            process.wait()
        # A fit that was not worth it has written its report.
        if process.returncode and not (folder / REPORT).exists():
            ended = f"labclip {words[0]} ended with code {process.returncode}. If memory was short, try with less."
            raise ValueError(_last_line(folder).partition("Error: ")[2] or ended)


def _last_line(folder: Path) -> str:
    text = (folder / "stderr").read_bytes()[-4000:].decode(errors="replace")
    return next((line for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")
