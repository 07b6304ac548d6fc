"""Long work as labclip's own commands in another process, which ends at once when it is cancelled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from labclip.training.trainer import CHECKPOINT

REPORT, ALIGNMENT, INPUTS, IMAGES = "report.html", "alignment", "inputs", "images"
CANCELLED = "Cancelled. Nothing was kept."
_WORK = "work"
_EVERY = 0.5  # seconds between two looks at a command

# "images:  45%|####      | 450/1000 [00:04<00:05, ...]", as tqdm draws it
_BAR = re.compile(r"(?P<what>[\w ]+): +(?P<percent>\d+)%\|.*\| (?P<count>\S+/\S+) \[\S+<(?P<left>[\d:?]+)")


@dataclass(frozen=True)
class Step:
    """How far a command is.

    Attributes:
        what: It is doing, in words.
        percent: Of that; None where it is not known.
        curves: The loss by epoch of each fit so far.
    """

    what: str
    percent: int | None = None
    curves: list[list[float]] = field(default_factory=list)


class Workplace:
    """A folder of one session's uploads and work, and the command that runs in it; `close` leaves nothing of it.

    Args:
        root: Folder that it is made in, when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._made, self._lock = root, "", threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = self._cancelled = False

    @property
    def folder(self) -> Path:
        """The folder."""
        with self._lock:
            if self._closed:
                raise ValueError(CANCELLED)
            self._made = self._made or tempfile.mkdtemp(prefix="session-", dir=self._root)
        return Path(self._made)

    def empty(self, name: str) -> Path:
        """A folder in it, with nothing inside."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def run(self, *commands: Sequence[str]) -> Iterator[Step]:
        """Run labclip commands one after the other in an empty folder of their own, told as they go.

        Exit code 1, a fit that was not worth it, is no failure.

        Raises:
            ValueError: With the command's own words, where it fails; where it is cancelled.
        """
        work, self._cancelled = self.empty(_WORK), False
        for words in commands:
            with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as err:
                with self._lock:
                    if self._closed or self._cancelled:
                        raise ValueError(CANCELLED)
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "labclip", *words], cwd=work, stdin=subprocess.DEVNULL, stdout=out,
                        stderr=err, env=_environment(),
                    )  # fmt: skip
                while self._process.poll() is None:
                    yield _step(words[0], work)
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(_EVERY)
            if self._closed or self._cancelled:
                raise ValueError(CANCELLED)
            if self._process.returncode not in (0, 1) or not (work / "stdout").stat().st_size:
                raise ValueError(_told(words[0], _last_line(work), self._process.returncode))

    @property
    def work(self) -> Path:
        """The folder that commands run in, and leave their files in."""
        return self.folder / _WORK

    def printed(self) -> dict[str, Any]:
        """The JSON object that the last command printed."""
        found: dict[str, Any] = json.loads((self.work / "stdout").read_bytes())
        return found

    def cancel(self) -> None:
        """End the command that runs, if one does."""
        with self._lock:
            self._cancelled = True
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def finish(self) -> None:
        """Remove what the commands left; uploads stay, for another try."""
        if self._made:
            shutil.rmtree(Path(self._made, _WORK), ignore_errors=True)

    def close(self) -> None:
        """End what runs and remove everything."""
        with self._lock:
            self._closed = True
        self.cancel()
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)


def _environment() -> dict[str, str]:
    """This process's, in which another folder imports the same labclip."""
    home = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}


def _last_line(work: Path) -> str:
    text = (work / "stderr").read_bytes()[-4000:].decode(errors="replace")
    return next((line for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")


def _told(command: str, last: str, code: int) -> str:
    """What a command that failed has said itself; one that was killed says nothing."""
    if last.startswith("Error: "):
        return last.removeprefix("Error: ")
    return f"labclip {command} ended with code {code}. If memory was short, try with fewer scenes or images."


def _step(command: str, work: Path) -> Step:
    curves = curves_in(work / "checkpoint")
    if found := _BAR.match(_last_line(work)):
        return Step(f"{found['what']}: {found['count']}, {found['left']} left", int(found["percent"]), curves)
    return Step(f"labclip {command} begins", None, curves)


def curves_in(checkpoint: Path) -> list[list[float]]:
    """The loss by epoch of each fit that a folder of checkpoints has."""
    curves = []
    for path in sorted(checkpoint.glob(f"candidate-*/{CHECKPOINT}"), key=lambda path: (len(str(path)), path)):
        with suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
            curves.append([record["loss"] for record in json.loads(file.metadata()["state"])["history"]])
    return curves


def diagnosis(model: Sequence[str], alignment: Sequence[str], scenes: int) -> list[list[str]]:
    """The commands of a diagnosis; what to type of the model, for example ["--model", "scenes"], and of its matrix."""
    return [["diagnose", *model, *alignment, "--scenes", str(scenes), "--out", REPORT, "--json"]]


def fit(model: Sequence[str], table: Path, images: Path, *, clean: bool) -> list[list[str]]:
    """The commands of a fit on a file of captions: what can't be used is left out and told."""
    embed = ["embed", "features", *model, "--captions", str(table), "--images", str(images), "--on-error", "skip"]
    return [
        [*embed, "--clean" if clean else "--as-is", "--json"],
        ["fit", "features", ALIGNMENT, "--checkpoint", "checkpoint", "--html", REPORT, "--json"],
    ]
