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

from labclip.data.images import ImageSource
from labclip.data.items import BadRow, Item
from labclip.features.folder import (
    CONTENT,
    HEADER,
    IMAGE_NAMES,
    IMAGES,
    PART,
    UNFINISHED,
    describe_file,
    hash_of,
    header,
)
from labclip.messages import typed
from labclip.negatives.cleaning import comparable

_CHUNK = 1024
_TABLES = {
    "state": "(name TEXT PRIMARY KEY, value TEXT)",
    "images": "(id INTEGER PRIMARY KEY, key BLOB UNIQUE, name TEXT, place TEXT, file TEXT, start INTEGER, "
    "size INTEGER, part TEXT, row INTEGER, problem TEXT, chain TEXT)",
    "texts": "(id INTEGER PRIMARY KEY, image INTEGER, caption TEXT, negatives TEXT, place TEXT, said BLOB)",
    "skipped": "(place TEXT, image TEXT, reason TEXT)",
}
_PLAN = ("images", "texts", "skipped")
_SOURCE = "name, place, file, start, size, part"


class Text(NamedTuple):
    """A caption to be encoded, and the row of its image among the features.

    `wrong` says of each negative whether it is one: not what another caption of the same image says.
    """

    caption: str
    negatives: list[str]
    wrong: list[bool]
    place: str
    image_row: int


class Journal:
    """The plan of a run and the files that grow. What `commit` has not sealed is cut off when the run goes on.

    Args:
        folder: The feature folder to be; it must exist.

    Raises:
        ValueError: If another process is writing into the folder, or its journal or a file that grows is not as this
            class left it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, tuple[BinaryIO, Any]] = {}  # with the hash of what is in it
        self._db = sqlite3.connect(folder / UNFINISHED, timeout=0.5, isolation_level=None)
        try:
            # Held to the end: the lock also keeps a second process out. The kernel frees it after a kill.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA cache_size = -65536")
            self._db.execute("BEGIN EXCLUSIVE")
            tables = dict(self._db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
            if not tables:
                self._create("state", *_PLAN)
            elif tables != {name: f"CREATE TABLE {name} {columns}" for name, columns in _TABLES.items()}:
                raise ValueError("its tables are those of another program or version")
            self._check()
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise ValueError(f"{folder} is being written by another process ({error}). Wait for it to end.") from error
        except (sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
            self._db.close()
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(f"{self.folder / UNFINISHED} is damaged ({error}). {_from_scratch()}")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for file, _ in self._files.values():
            file.close()
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise ValueError(f"{self.folder / UNFINISHED} can't be read or written ({error}).") from error

    def _create(self, *tables: str) -> None:
        for table in tables:
            self._db.execute(f"CREATE TABLE {table} {_TABLES[table]}")

    def get(self, name: str, default: Any) -> Any:
        """A sealed value of the state."""
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return default if found is None else json.loads(found[0])

    def _set(self, **values: Any) -> None:
        """Keep values, and the hash of all that is kept, by which an edit is noticed."""
        for name, value in values.items():
            self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))
        self._db.execute("INSERT OR REPLACE INTO state VALUES ('seal', ?)", (json.dumps(self._state_sha256()),))

    def _state_sha256(self) -> str:
        rows = self._db.execute("SELECT name, value FROM state WHERE name != 'seal' ORDER BY name").fetchall()
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def _plan_sha256(self) -> str:
        digest = hashlib.sha256()
        for columns, table in ((f"id, key, {_SOURCE}", "images"), ("*", "texts"), ("*", "skipped")):
            for row in self._db.execute(f"SELECT {columns} FROM {table} ORDER BY rowid"):
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _check(self) -> None:
        """Refuse what somebody edited.

        Raises:
            ValueError: If anything is not as it was left.
        """
        if self._db.execute("SELECT 1 FROM state").fetchone() and self.get("seal", "") != self._state_sha256():
            raise ValueError("its state was edited")
        if not self.planned:
            return
        if self.get("plan_sha256", "") != self._plan_sha256():
            raise ValueError("its plan was edited")
        rows, last, next_image = 0, "", self.get("next_image", 0)
        for image, row, chain, problem in self._db.execute("SELECT id, row, chain, problem FROM images ORDER BY id"):
            rows, last = (rows, last) if row is None else (rows + 1, chain)
            is_done = (row is None) != (problem is None)
            if is_done != (image <= next_image) or (row is not None and row != rows - 1):
                raise ValueError(f"what it says of image {image} was edited")
        if rows != self.get("image_rows", 0) or last != self.get("digest", ""):
            raise ValueError("its rows were edited")

    @property
    def planned(self) -> bool:
        """Whether all rows of the tables are in it."""
        return bool(self.get("planned", False))

    def plan(self, rows: Iterable[Item | BadRow], facts: Mapping[str, Any], *, dim: int, batch_size: int) -> None:
        """Take in all rows, or none if anything fails.

        Where there is a plan already, its images stay done up to the first that is another one now, in whole batches,
        so that the folder has the bytes of an unbroken run; captions are embedded again.

        Args:
            rows: The tables' rows.
            facts: What the plan and the features depend on, kept as `facts`.
            dim: Length of an embedding.
            batch_size: Images in one pass of the model.
        """
        again, most = self.planned, 0
        self._db.execute("BEGIN")
        self._db.execute("ALTER TABLE images RENAME TO before")
        for table in _PLAN[1:]:
            self._db.execute(f"DROP TABLE {table}")
        self._create(*_PLAN)
        for row in rows:
            if isinstance(row, BadRow):
                self._db.execute("INSERT INTO skipped VALUES (?, ?, ?)", (row.place, row.image or None, row.reason))
                continue
            image = self._image(row)
            for caption, negatives in zip(row.captions, row.negatives, strict=True):
                most = max(most, len(negatives))
                self._db.execute(
                    "INSERT INTO texts (image, caption, negatives, place, said) VALUES (?, ?, ?, ?, ?)",
                    (image, caption, json.dumps(negatives) if negatives else None, row.place, _said(caption)),
                )
        self._db.execute("CREATE INDEX texts_of ON texts (image, said)")
        if again:
            self._keep_equal(dim, batch_size)
        self._db.execute("DROP TABLE before")
        self._set(facts=facts, negatives_per_caption=most, planned=True, plan_sha256=self._plan_sha256())
        self._db.execute("COMMIT")

    def _image(self, item: Item) -> int:
        source = item.image
        assert source is not None
        assert source.file is not None
        where = (
            source.key,
            source.name,
            item.place,
            str(source.file.absolute()),
            source.start,
            source.size,
            source.column,
        )
        self._db.execute(f"INSERT OR IGNORE INTO images (key, {_SOURCE}) VALUES (?, ?, ?, ?, ?, ?, ?)", where)
        (image,) = self._db.execute("SELECT id FROM images WHERE key = ?", (source.key,)).fetchone()
        return int(image)

    def _keep_equal(self, dim: int, batch_size: int) -> None:
        """Take over what the plan before has done, up to the first image that is another one now."""
        (other,) = self._db.execute(
            "SELECT MIN(b.id) FROM before b LEFT JOIN images i ON i.id = b.id WHERE b.id <= ? AND "
            "(i.name IS NOT b.name OR i.start IS NOT b.start OR i.size IS NOT b.size OR i.part IS NOT b.part "
            "OR i.part IS NOT NULL AND i.key IS NOT b.key)",
            (self.get("next_image", 0),),
        ).fetchone()
        same = self.get("next_image", 0) if other is None else other - 1
        # An unbroken run has whole batches, but for the last.
        kept = same if same == self.count("images") else same // batch_size * batch_size
        self._db.execute(
            "UPDATE images SET (row, problem, chain) = (SELECT row, problem, chain FROM before "
            "WHERE before.id = images.id) WHERE id <= ?",
            (kept,),
        )
        rows, length, digest = 0, 0, ""
        for name, chain in self._db.execute("SELECT name, chain FROM images WHERE row IS NOT NULL ORDER BY id"):
            rows, length, digest = rows + 1, length + len(image_line(name)), chain
        before, sealed = self.get("sealed", {}), {}
        for name, stop in ((IMAGES, HEADER + 4 * dim * rows), (IMAGE_NAMES, length)):
            if name in before:
                path = self.folder / (name + PART)
                if not path.exists() and (self.folder / name).exists():  # killed when all but the manifest was there
                    os.replace(self.folder / name, path)
                self._verify(path, *before[name])
                sealed[name] = [stop, hash_of(path, stop).hexdigest()]
        self._db.execute("DELETE FROM state")
        self._set(next_image=kept, image_rows=rows, digest=digest, sealed=sealed)

    def discard_if_unplanned(self) -> None:
        """Leave no trace of a run that did not get past reading its captions."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if not self.planned:
            self._db.close()
            clear(self.folder, ())
            with suppress(OSError):  # other files are in it
                self.folder.rmdir()

    def images(self, after: int) -> Iterator[ImageSource]:
        """Images from behind an id on, in order; their ids are without gaps."""
        query = f"SELECT id, key, {_SOURCE} FROM images WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._db.execute(query, (after, _CHUNK)).fetchall():
            for _, key, name, place, file, start, size, column in rows:
                yield ImageSource(name, Path(file), key, start, size, column, place=place)
            after = rows[-1][0]

    def texts(self, after: int, last: int) -> list[Text]:
        """Captions of images that were kept, ids after < id <= last."""
        rows = self._db.execute(
            "SELECT t.image, t.caption, t.negatives, t.place, i.row FROM texts t JOIN images i ON i.id = t.image "
            "WHERE t.id > ? AND t.id <= ? AND i.row IS NOT NULL ORDER BY t.id",
            (after, last),
        ).fetchall()
        texts = []
        for image, caption, listed, place, image_row in rows:
            negatives = json.loads(listed or "[]")
            wrong = [not self._true_of(image, negative) for negative in negatives]
            texts.append(Text(caption, negatives, wrong, place, image_row))
        return texts

    def _true_of(self, image: int, text: str) -> bool:
        """Whether a caption of the image says the same."""
        query = "SELECT 1 FROM texts WHERE image = ? AND said = ? LIMIT 1"
        return self._db.execute(query, (image, _said(text))).fetchone() is not None

    def count(self, table: str) -> int:
        """How many images or texts there are."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def skipped(self) -> Iterator[dict[str, Any]]:
        """What was left out, and why: rows of the tables, then images with their captions."""
        for query in (
            "SELECT place, image, reason, 1 FROM skipped ORDER BY rowid",
            "SELECT place, name, problem, (SELECT COUNT(*) FROM texts WHERE image = images.id) FROM images "
            "WHERE problem IS NOT NULL ORDER BY id",
        ):
            for row in self._db.execute(query):
                yield dict(zip(("where", "image", "reason", "captions"), row, strict=True))

    def begin(self) -> None:
        """Start what the next `commit` seals."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    def keep(self, image: int, row: int, chain: str) -> None:
        """Note the row that an image has among the features, and the hash of all images up to it."""
        self._db.execute("UPDATE images SET row = ?, chain = ? WHERE id = ?", (row, chain, image))

    def leave_out(self, image: int, problem: str) -> None:
        """Note that an image is left out, and its captions with it."""
        self._db.execute("UPDATE images SET problem = ? WHERE id = ?", (problem, image))

    def append(self, name: str, data: bytes | np.ndarray[Any, Any]) -> None:
        """Write behind the end of a file of the folder."""
        if name not in self._files:
            self._files[name] = self._open(name)
        file, digest = self._files[name]
        view = data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
        file.write(view)
        digest.update(view)

    def open_files(self) -> None:
        """Check what an earlier run sealed, and cut off what it did not.

        Raises:
            ValueError: If a file is not as it was left.
        """
        for name, sealed in self.get("sealed", {}).items():
            if (self.folder / (name + PART)).exists():
                self._files[name] = self._open(name)
            else:  # named already
                self._verify(self.folder / name, *sealed)

    def _open(self, name: str) -> tuple[BinaryIO, Any]:
        path = self.folder / (name + PART)
        length, digest = HEADER if name.endswith(".npy") else 0, hashlib.sha256()
        if (sealed := self.get("sealed", {}).get(name)) is not None:
            length, digest = sealed[0], self._verify(path, *sealed)
        file = path.open("r+b" if path.exists() else "w+b")
        file.truncate(length)
        file.seek(length)
        return file, digest

    def _verify(self, path: Path, length: int, sha256: str) -> Any:
        if not path.exists() or path.stat().st_size < length:
            raise ValueError(f"{path} is shorter than it was. {_from_scratch()}")
        digest = hash_of(path, length)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{path} was changed since it was written. {_from_scratch()}")
        return digest

    def commit(self, **state: Any) -> None:
        """Seal what was written since the last time: after a kill, a run goes on from here."""
        sealed = self.get("sealed", {})
        for name, (file, digest) in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            sealed[name] = [file.tell(), digest.hexdigest()]
        self.begin()
        self._set(**state, sealed=sealed)
        self._db.execute("COMMIT")

    def finish(self, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Any]:
        """Give every file its name, and every array its header; what a kill left undone is done when called again.

        Args:
            arrays: Shape and dtype by file name.

        Returns:
            The files as the manifest records them.
        """
        for name, (length, _) in self.get("sealed", {}).items():
            part = self.folder / (name + PART)
            if name in self._files:
                self._files.pop(name)[0].close()
            if not part.exists():
                continue
            with part.open("r+b") as file:
                file.truncate(length)
                if name in arrays:
                    file.write(header(*arrays[name]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.folder / name)
        sealed = self.get("sealed", {})
        for name in CONTENT:
            if name not in sealed:  # of a plan before
                for path in (self.folder / name, self.folder / (name + PART)):
                    path.unlink(missing_ok=True)
        return {name: describe_file(self.folder / name, sealed[name][1]) for name in CONTENT if name in sealed}


def image_line(name: str) -> bytes:
    """An image's line in `images.jsonl`."""
    return (json.dumps({"image": name}, ensure_ascii=False) + "\n").encode()


def _from_scratch() -> str:
    return f"Pass {typed('force=True', '--force')} to start from scratch."


def _said(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, punctuation and "a" or "an"."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=8).digest()


def clear(folder: Path, names: Iterable[str]) -> None:
    """Remove an unfinished or finished run, the named files first."""
    for name in (*names, UNFINISHED, UNFINISHED + "-journal"):
        for path in (folder / name, folder / (name + PART)):
            with suppress(FileNotFoundError):
                path.unlink()
