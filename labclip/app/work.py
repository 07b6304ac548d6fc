"""Read uploads within limits, and run long jobs as commands of labclip."""

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
"""Largest size of an uploaded file."""
IMAGES = 2000
"""Largest number of images in a gallery or a fit."""
ALL_BYTES = 500_000_000
"""Largest size of all images together, unpacked."""
TABLES = (".csv", ".tsv", ".jsonl")
REPORT = "report.html"

Upload = tuple[str, Path]  # the file's name on the user's machine, without folders, and its path here

# "fit:  45%|####      | 450/1000 [00:04<00:05, 90.1batch/s, loss=0.91]", as tqdm draws it
_BAR = re.compile(r"(\d+)%\|[^|]*\| (.*)")


def unpack(uploads: Sequence[Upload], folder: Path) -> None:
    """Copy uploaded images, also those in zips, into an empty folder. ValueError if there are none or too many."""
    count = size = 0

    def add(sizes: Sequence[int]) -> None:
        nonlocal count, size
        count, size = count + len(sizes), size + sum(sizes)
        if count > IMAGES or size > ALL_BYTES:
            limit = f"{IMAGES:,} images or {ALL_BYTES / 1e6:.0f} MB of them"
            raise ValueError(f"There are more than {limit}. The command line has no such limit.")

    for name, path in uploads:
        if path.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    members = [member for member in archive.infolist() if _may_be_image(member.filename)]
                    add([member.file_size for member in members])  # zipfile extracts no more than this size
                    archive.extractall(folder, members)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                raise ValueError(f"{name} is not a complete zip without a password ({error}).") from error
        elif _may_be_image(name):
            add([path.stat().st_size])
            shutil.copyfile(path, folder / name)
    if not count:
        raise ValueError(f"There is no image in {uploads[0][0]}. Upload images, or a zip of them.")


def _may_be_image(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.name.startswith(".") and path.suffix.lower() in Image.registered_extensions()


def match(table: Path, images: Path, *, clean: bool = False) -> tuple[str, dict[str, Path], str]:
    """Match a table of captions with uploaded images: one of the two paths must end with the other.

    Returns a sentence on the table, the path of each image by its name in the table, and the option of `embed` for the
    captions: "--clean" if their negatives are cleaned, else "--as-is". ValueError if no image matches.
    """
    names, n_captions, n_negatives, problem = dict[str, None](), 0, 0, ""
    try:
        for item in read_items(table, clean=clean or None):
            if item.problem:
                problem = problem or f" Left out, for example: {item.location} {item.problem}."
                continue
            # No other file of this machine may be read, on any operating system.
            if leads_out(PureWindowsPath("C:/images"), item.name) or ":" in item.name:
                raise ValueError(f"{item.location} names {item.name!r}, which leads out of the uploaded images.")
            names[item.name] = None
            n_captions += len(item.captions)
            n_negatives += sum(map(bool, item.negatives))
    except ValueError as error:
        if "is not cleaned" in str(error) and not clean:
            return match(table, images, clean=True)
        # Without the path of the upload, and without advice for callers of the library.
        raise ValueError(str(error).replace(str(table), table.name).partition(" Pass ")[0]) from error
    by_name, matched = defaultdict[str, list[Path]](list), dict[str, Path]()
    for path in images.rglob("*.*"):
        by_name[path.name].append(path.relative_to(images))
    for name in names:
        table_path = PureWindowsPath(name)
        candidates = [path for path in by_name[table_path.name] if _have_same_end(path.parts, table_path.parts)]
        if len(candidates) > 1:
            raise ValueError(f"{name} may be {candidates[0]} or {candidates[1]}. Add its folder in {table.name}.")
        matched.update((name, images / path) for path in candidates)
    if not matched:
        reason = f"no image is called {next(iter(names))}" if names else "it has no caption"
        raise ValueError(f"{table.name} can't be used: {reason}.{problem}")
    counts = f"{n_captions:,} captions, {n_negatives:,} of them with a negative"
    description = f"{counts}, and {len(matched):,} of {len(names):,} images.{problem}"
    return description, matched, "--clean" if clean else "--as-is"


def _have_same_end(path: Sequence[str], other: Sequence[str]) -> bool:
    return all(first == second for first, second in zip(reversed(path), reversed(other), strict=False))


def run(commands: Sequence[Sequence[str]], folder: Path) -> Generator[tuple[str, ...], None, None]:
    """Run commands in a folder, one after the other, each in its own process. Closing the generator ends the process.

    Yields the progress whenever it is asked for: a title, the percentage of the present command, and the rest of its
    progress bar; both are "" if there is no bar. If a command fails, its message is raised as ValueError.
    """
    home = str(Path(__file__).parents[2])  # the commands import this labclip from any folder
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
        # A fit that does not help exits with code 1, but has written its report.
        if process.returncode and not (folder / REPORT).exists():
            problem = f"labclip {words[0]} ended with code {process.returncode}. If memory was short, try with less."
            raise ValueError(_last_line(folder).partition("Error: ")[2] or problem)


def _last_line(folder: Path) -> str:
    text = (folder / "stderr").read_bytes()[-4000:].decode(errors="replace")
    return next((line for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")
