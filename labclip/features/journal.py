"""The unfinished state of a feature folder: what is to be done and how far it is, in one file that survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from labclip.data.cleaning import comparable
from labclip.data.decoding import ImageRow
from labclip.data.items import BadRow, Item

UNFINISHED = "unfinished.sqlite"
PART = ".part"
# NumPy's header, padded to one length whatever the shape, so that it can be written when the shape is known.
_HEADER = 128
_CHUNK = 1024
_SCHEMA = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE images (id INTEGER PRIMARY KEY, key BLOB UNIQUE, name TEXT, place TEXT, source INTEGER, start INTEGER,
    size INTEGER, row INTEGER);
CREATE TABLE texts (id INTEGER PRIMARY KEY, image INTEGER, caption TEXT, negatives TEXT, place TEXT,
    said BLOB);
CREATE TABLE skipped (place TEXT, image TEXT, reason TEXT, captions INTEGER);
"""


class Text(NamedTuple):
    """A caption to be encoded, and the row of its picture among the features.

    `wrong` says of each negative whether it is one: none that says what a caption of the same picture says.
    """

    id: int
    caption: str
    negatives: list[str]
    wrong: list[bool]
    place: str
    image_row: int


class Work:
    """The plan of a run and the files that grow. What `commit` has not sealed is cut off when the run goes on.

    Args:
        folder: The feature folder to be; it must exist.
        made_from: What the features depend on; it must be equal when a run goes on.

    Raises:
        ValueError: If another process is writing into the folder.
    """

    def __init__(self, folder: Path, made_from: Mapping[str, Any]) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._db = sqlite3.connect(folder / UNFINISHED, timeout=0.5, isolation_level=None)
        try:
            # Held to the end: the lock also keeps a second process out. The kernel frees it after a kill.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA cache_size = -65536")
            self._db.execute("BEGIN EXCLUSIVE")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchall():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
            if not self.get("planned", False):
                self._set("made_from", dict(made_from))
            self._db.execute("COMMIT")
            self.made_from: dict[str, Any] = self.get("made_from", {})
        except sqlite3.OperationalError as error:
            self._db.close()
            raise ValueError(f"{folder} is being written by another process ({error}). Wait for it to end.") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{folder / UNFINISHED} is damaged ({error}). Pass force=True (--force).") from error

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._db.close()

    def get(self, name: str, default: Any) -> Any:
        """A sealed value of the state."""
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return default if found is None else json.loads(found[0])

    def _set(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))

    def plan(self, found: Iterable[tuple[int, Item | BadRow]]) -> None:
        """Take in all rows, each with the number of its file, or none if anything fails."""
        self._db.execute("BEGIN")
        most = 0
        for source, item in found:
            if isinstance(item, BadRow):
                self._skip(item.place, item.image or None, item.reason, 1)
                continue
            assert item.image is not None
            self._db.execute(
                "INSERT OR IGNORE INTO images (key, name, place, source, start, size) VALUES (?, ?, ?, ?, ?, ?)",
                (item.image.key, item.image.name, item.place, source, item.image.start, item.image.size),
            )
            (image,) = self._db.execute("SELECT id FROM images WHERE key = ?", (item.image.key,)).fetchone()
            for caption, negatives in zip(item.captions, item.negatives, strict=True):
                most = max(most, len(negatives))
                self._db.execute(
                    "INSERT INTO texts (image, caption, negatives, place, said) VALUES (?, ?, ?, ?, ?)",
                    (image, caption, json.dumps(negatives) if negatives else None, item.place, _said(caption)),
                )
        self._db.execute("CREATE INDEX texts_of ON texts (image, said)")
        self._set("negatives_per_caption", most)
        self._set("planned", True)
        self._db.execute("COMMIT")

    def discard_if_unplanned(self) -> None:
        """Leave no trace of a run that did not get past reading its captions."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if not self.get("planned", False):
            self._db.close()
            clear(self.folder, ())
            with suppress(OSError):  # other files are in it
                self.folder.rmdir()

    def images(self, after: int) -> Iterator[ImageRow]:
        """Pictures from behind an id on, in order."""
        while rows := self._db.execute(
            "SELECT id, name, place, source, start, size FROM images WHERE id > ? ORDER BY id LIMIT ?", (after, _CHUNK)
        ).fetchall():
            yield from map(ImageRow._make, rows)
            after = rows[-1][0]

    def texts(self, after: int, last: int) -> list[Text]:
        """Captions of pictures that were kept, ids after < id <= last."""
        rows = self._db.execute(
            "SELECT t.id, t.image, t.caption, t.negatives, t.place, i.row FROM texts t JOIN images i ON i.id = t.image "
            "WHERE t.id > ? AND t.id <= ? AND i.row IS NOT NULL ORDER BY t.id",
            (after, last),
        )
        texts = []
        for id_, image, caption, listed, place, image_row in rows:
            negatives = json.loads(listed or "[]")
            wrong = [not self._true_of(image, negative) for negative in negatives]
            texts.append(Text(id_, caption, negatives, wrong, place, image_row))
        return texts

    def _true_of(self, image: int, text: str) -> bool:
        """Whether a caption of the picture says the same."""
        query = "SELECT 1 FROM texts WHERE image = ? AND said = ? LIMIT 1"
        return self._db.execute(query, (image, _said(text))).fetchone() is not None

    def count(self, table: str) -> int:
        """How many pictures or captions there are."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def skipped(self) -> Iterator[dict[str, Any]]:
        """What was left out, and why."""
        for row in self._db.execute("SELECT place, image, reason, captions FROM skipped ORDER BY rowid"):
            yield dict(zip(("where", "image", "reason", "captions"), row, strict=True))

    def begin(self) -> None:
        """Start what the next `commit` seals."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    def keep(self, item: ImageRow, row: int) -> None:
        """Note the row that a picture has among the features."""
        self._db.execute("UPDATE images SET row = ? WHERE id = ?", (row, item.id))

    def leave_out(self, item: ImageRow, reason: str) -> None:
        """Note that a picture is left out, and its captions with it."""
        (captions,) = self._db.execute("SELECT COUNT(*) FROM texts WHERE image = ?", (item.id,)).fetchone()
        self._skip(item.place, item.name, reason, captions)

    def _skip(self, place: str, image: str | None, reason: str, captions: int) -> None:
        self._db.execute("INSERT INTO skipped VALUES (?, ?, ?, ?)", (place, image, reason, captions))

    def append(self, name: str, data: bytes | np.ndarray[Any, Any]) -> None:
        """Write behind the end of a file of the folder."""
        if name not in self._files:
            self._files[name] = self._open(name)
        self._files[name].write(data if isinstance(data, bytes) else np.ascontiguousarray(data).data)

    def _open(self, name: str) -> BinaryIO:
        path = self.folder / (name + PART)
        sealed = self.get("lengths", {}).get(name)
        file = path.open("r+b" if path.exists() else "w+b")
        if sealed is None:
            sealed = _HEADER if name.endswith(".npy") else 0
        elif file.seek(0, os.SEEK_END) < sealed:
            file.close()
            raise ValueError(f"{path} is shorter than it was. Pass force=True (--force) to start anew.")
        file.truncate(sealed)
        file.seek(sealed)
        return file

    def commit(self, **state: Any) -> None:
        """Seal what was written since the last time: after a kill, a run goes on from here."""
        lengths = self.get("lengths", {})
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            lengths[name] = file.tell()
        self.begin()
        for name, value in {**state, "lengths": lengths}.items():
            self._set(name, value)
        self._db.execute("COMMIT")

    def finish(self, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Give every file its name, and every array its header; what a kill left undone is done when called again.

        Args:
            arrays: Shape and dtype by file name.
        """
        for name, length in self.get("lengths", {}).items():
            part = self.folder / (name + PART)
            if name in self._files:
                self._files.pop(name).close()
            if not part.exists():
                continue
            with part.open("r+b") as file:
                file.truncate(length)
                if name in arrays:
                    file.write(_header(*arrays[name]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.folder / name)


def _said(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, punctuation and "a" or "an"."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=8).digest()


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape})
    body = text.encode().ljust(_HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def clear(folder: Path, names: Iterable[str]) -> None:
    """Remove an unfinished or finished run, the named files first."""
    for name in (*names, UNFINISHED, UNFINISHED + "-journal"):
        for path in (folder / name, folder / (name + PART)):
            with suppress(FileNotFoundError):
                path.unlink()
