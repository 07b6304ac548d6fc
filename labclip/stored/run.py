"""The state of a run on disk: what is made of what, which files are done, the lock that keeps a second process out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from labclip.files import check_file
from labclip.stored.output import writing
from labclip.stored.places import FACTS, RECORD, UNFINISHED, Place

_COMPARED = ("source", "matrix_sha256", "strength", "normalize", "column")


class Run:
    """A run that writes into a place.

    What is not finished lies in one folder: the facts of the run, a record for each file that is done, and files that
    are not whole. The manifest is written last, and with it the run counts as finished.

    Args:
        target: The file or folder to be written.
        is_folder: Which of the two.
    """

    def __init__(self, target: Place, *, is_folder: bool) -> None:
        self.manifest = target.beside(RECORD, is_folder=is_folder)
        self.unfinished = target.beside(UNFINISHED, is_folder=is_folder)
        self._target, self._fs, self._is_folder = target, target.fs, is_folder
        self._lock: sqlite3.Connection | None = None

    def check(self, facts: Mapping[str, Any], *, force: bool) -> None:
        """Refuse with ValueError a target that is there and is not this run's unfinished one, unless with `force`."""
        place, fs = self._target, self._target.fs
        other = "Pass another path, or force=True to start from scratch."
        if self._is_folder and fs.isfile(place.root):
            raise ValueError(f"{place.shown} is a file, but the input is a folder. Pass the path of a folder.")
        if not self._is_folder and place.is_local:
            check_file(Path(place.root))
        started, finished = read_record(self._fs, f"{self.unfinished}/{FACTS}"), self.finished
        if self._is_folder and not (started or finished) and self._strange():
            raise ValueError(f"{place.shown} is not empty, and this command did not write it. Pass another folder.")
        if force:
            return
        if started:
            if key := next((key for key in _COMPARED if started.get(key) != facts[key]), None):
                raise ValueError(
                    f"{place.shown} has an unfinished run, but its {key} is {started.get(key)!r}, not {facts[key]!r}. "
                    f"{other}"
                )
        elif finished:
            raise ValueError(f"{place.shown} is finished, aligned by {described(finished)}. {other}")
        elif not self._is_folder and fs.exists(place.root):
            raise ValueError(f"{place.shown} exists already. {other}")

    def _strange(self) -> bool:
        """Whether the folder holds anything but an unfinished run."""
        there = self._fs.ls(self._target.root, detail=False) if self._fs.isdir(self._target.root) else []
        return any(PurePosixPath(path).name != PurePosixPath(self.unfinished).name for path in there)

    def __enter__(self) -> Run:
        self._fs.makedirs(self.unfinished, exist_ok=True)
        if self._target.is_local:  # the kernel frees the lock after a kill; elsewhere there is none
            self._lock = sqlite3.connect(f"{self.unfinished}/lock", timeout=0.1, isolation_level=None)
            try:
                self._lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                self._lock.close()
                raise ValueError(
                    f"{self._target.shown} is being written by another process ({error}). Wait for it to end."
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what is needed to go on; nothing where nothing is done, or everything."""
        over = bool(self.finished) or not self.records()
        removed = over and self._clear()
        if self._lock is not None:
            self._lock.close()
            if over and not removed:
                self._clear()  # Windows removes no file that is open

    @property
    def finished(self) -> dict[str, Any] | None:
        """The manifest, where there is one."""
        return read_record(self._fs, self.manifest)

    def start(self, facts: Mapping[str, Any], *, force: bool) -> None:
        """Keep what the run is of; with `force` remove first what an earlier one has written."""
        if force:
            written = [*(self.finished or {}).get("shards", []), *self.records().values()]
            paths = [f"{self._target.root}/{one['name']}" for one in written] if self._is_folder else []
            for path in [self.manifest, *paths, *self._records()]:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)
        self._write(f"{self.unfinished}/{FACTS}", facts)

    def records(self) -> dict[str, dict[str, Any]]:
        """The files that are done, by their names."""
        found = {}
        for path in self._records():
            if record := read_record(self._fs, path):
                found[record["name"]] = record
        return found

    def _records(self) -> list[str]:
        if not self._fs.isdir(self.unfinished):
            return []
        paths: list[str] = self._fs.ls(self.unfinished, detail=False)
        return [path for path in paths if path.endswith(".done")]

    def keep(self, record: Mapping[str, Any]) -> None:
        """Count a file as done."""
        self._write(f"{self.unfinished}/{quote(record['name'], safe='')}.done", record)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest."""
        self._write(self.manifest, manifest)

    def _clear(self) -> bool:
        """Remove the state of the run, or say no; its facts near the end: until then the same command goes on."""
        last = [f"{self.unfinished}/{FACTS}", f"{self.unfinished}/lock"]
        try:
            paths = self._fs.ls(self.unfinished, detail=False)
            for path in sorted(paths, key=lambda path: last.index(path) if path in last else -1):
                self._fs.rm_file(path)
            if self._target.is_local:  # elsewhere there are no folders
                self._fs.rmdir(self.unfinished)
        except OSError:
            return False
        with suppress(OSError):
            if self._target.is_local and self._is_folder:
                self._fs.rmdir(self._target.root)  # where it is empty
        return True

    def _write(self, path: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        data = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
        with writing(Place(self._fs, path, path), self.unfinished if self._target.is_local else None, "record") as file:
            file.write(data)


def read_record(fs: Any, path: str) -> dict[str, Any] | None:
    """A JSON object, or None where there is none."""
    try:
        found = json.loads(fs.cat_file(path))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def described(manifest: Mapping[str, Any]) -> str:
    """In words what a manifest says embeddings were aligned by."""
    by = manifest.get("alignment") or f"a matrix with SHA-256 {str(manifest.get('matrix_sha256'))[:12]}..."
    return f"{by} at strength {manifest.get('strength')}"
