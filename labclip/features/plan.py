"""What a run has to do and how far it is: an SQLite file in the feature folder, locked while the run lasts."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from labclip.data.cleaning import comparable
from labclip.data.images import ImageSource
from labclip.data.items import Item, Kind
from labclip.features.folder import Files, remove_files
from labclip.files import MANIFEST, UNFINISHED, path_of

COMMIT_SECONDS = 5.0
"""How much work a kill may cost."""

_CHUNK = 1024
_TABLES = {
    "images": "(id INTEGER PRIMARY KEY, key BLOB UNIQUE, source TEXT)",
    "texts": "(id INTEGER PRIMARY KEY, image INTEGER, said BLOB, kind INTEGER, row TEXT)",
    "skipped": "(image INTEGER UNIQUE, location TEXT, name TEXT, reason TEXT)",  # no image: a bad row of a table
    "state": "(id INTEGER PRIMARY KEY, value TEXT)",
}
_START = {
    "images": 0, "digest": "", "texts": 0, "captions": 0, "captions_with_negative": 0, "true_negatives": 0, "cut": {},
    "sizes": {}, "parts": 0, "keywords": 0,
}  # fmt: skip


class Negative(NamedTuple):
    """A negative; whether no caption of the same image says the same; name and row of the image that it describes."""

    text: str
    is_negative: bool
    image: tuple[str, int] | None


class Text(NamedTuple):
    """A caption, part or keywords to be encoded, the row of its image, and where it was read."""

    caption: str
    negatives: list[Negative]
    image: int
    location: str
    kind: Kind


class Plan:
    """The distinct images and the texts of a run, in order, and its progress; a context manager.

    Captions come first, then the parts of all, then the keywords, each text of an image once.

    The lock is taken before anything in the folder is touched. The kernel frees it after a kill.

    Args:
        folder: The feature folder.

    Attributes:
        progress: How far the run is, plain JSON values; where it is empty, `read` starts from scratch.

    Raises:
        ValueError: If another process is writing, or the file can't be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / UNFINISHED
        self.progress: dict[str, Any] = {}
        self._kept = time.monotonic()
        try:
            self._db = self._locked()
            for table, columns in _TABLES.items():
                self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} {columns}")
            for (value,) in self._db.execute("SELECT value FROM state"):
                self.progress = json.loads(value)
                # What a batch that was broken off left out does not count.
                self._db.execute("DELETE FROM skipped WHERE image > ?", (self.progress["images"],))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _locked(self) -> sqlite3.Connection:
        """The file, opened by this process alone."""
        while True:
            self.path.touch()
            before = self.path.stat().st_ino
            db = sqlite3.connect(self.path, timeout=0.5, isolation_level=None)
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA cache_size = -65536")
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")
            # A run that ends removes the file that another one waits for: a lock on it keeps nobody out.
            with suppress(FileNotFoundError):
                if self.path.stat().st_ino == before:
                    return db
            db.close()

    def _unusable(self, error: sqlite3.Error) -> ValueError:
        if "locked" in str(error):
            return ValueError(f"{self.folder} is being written by another process. Wait for it to end.")
        return ValueError(
            f"{self.path} can't be used ({error}). See that its disk has space, and type the same again, which goes on "
            f"from here; or delete the file and pass force=True to start from scratch."
        )

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self.progress or (self.folder / MANIFEST).exists():  # nothing is begun, or all is done
            try:
                self.path.unlink()
            except PermissionError:  # Windows removes no open file
                self._db.close()
                self.path.unlink()
            self.path.with_name(f"{UNFINISHED}-journal").unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()  # where it is empty
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise self._unusable(error) from error

    def read(self, items: Iterable[Item], facts: Mapping[str, Any]) -> None:
        """Take in all items, or none if anything fails; `facts` are what they depend on, and go into the progress.

        Where the same items were read before, and their images have moved since, the progress stays.
        """
        most, fresh = 0, not self.progress
        with self._db:
            self._db.execute("BEGIN")
            for table in _TABLES if fresh else ("images", "texts"):
                self._db.execute(f"DROP TABLE {table}")
                self._db.execute(f"CREATE TABLE {table} {_TABLES[table]}")
            self._db.execute("DELETE FROM skipped WHERE image IS NULL")
            self._db.execute(f"CREATE TEMP TABLE shown {_TABLES['images']}")
            self._db.execute(f"CREATE TEMP TABLE short {_TABLES['texts'][:-1]}, UNIQUE (image, said))")
            for item in items:
                most = max(most, self._take(item))
            captioned, shown = self.count("images"), self.count("shown")
            # Behind those with captions stand the images that only negatives describe.
            self._db.execute("INSERT OR IGNORE INTO images (key, source) SELECT key, source FROM shown ORDER BY id")
            self._db.execute("DROP TABLE shown")
            self._db.execute("CREATE INDEX texts_of ON texts (image, said)")
            captions = self.count("texts")
            self._db.execute(
                "INSERT INTO texts (image, said, kind, row) SELECT image, said, kind, row FROM short WHERE NOT EXISTS "
                "(SELECT 1 FROM texts WHERE image = short.image AND said = short.said) ORDER BY kind, id"
            )
            self._db.execute("DROP TABLE short")
            about = {"captioned": captioned, "negatives_per_caption": most, "negative_images": shown > 0}
            about["kinds"] = self.count("texts") > captions
            self.progress = {**_START, **self.progress, **facts, **about}
            self._write()
        if fresh:
            remove_files(self.folder)

    def _take(self, item: Item) -> int:
        """Take in an item; the most negatives that one of its captions has."""
        if item.problem:
            bad = item.location, item.name or None, item.problem
            self._db.execute("INSERT INTO skipped VALUES (NULL, ?, ?, ?)", bad)
            return 0
        assert item.image is not None
        self._insert("images", item.image)
        (image,) = self._db.execute("SELECT id FROM images WHERE key = ?", (item.image.key,)).fetchone()
        described = item.negative_images or [[None] * len(negatives) for negatives in item.negatives]
        for caption, negatives, images in zip(item.captions, item.negatives, described, strict=True):
            keys = [one and self._insert("shown", one) for one in images]
            row = json.dumps([caption, list(zip(negatives, keys, strict=True)), item.location])
            query = "INSERT INTO texts (image, said, kind, row) VALUES (?, ?, ?, ?)"
            self._db.execute(query, (image, _said(caption), Kind.CAPTION, row))
        short = [(Kind.PART, part.text, part.negative) for part in item.parts]
        for kind, text, negative in [*short, (Kind.KEYWORDS, " ".join(item.keywords), "")]:
            if text.strip():
                row = json.dumps([text, [(negative, None)] if negative.strip() else [], item.location])
                query = "INSERT OR IGNORE INTO short (image, said, kind, row) VALUES (?, ?, ?, ?)"
                self._db.execute(query, (image, _said(text), kind, row))
        return max(*map(len, item.negatives), int(any(part.negative.strip() for part in item.parts)))

    def _insert(self, table: str, one: ImageSource) -> str:
        """Take in an image where it is not there yet; its key as text."""
        assert one.file is not None
        source = json.dumps([one.name, str(one.file.absolute()), one.start, one.size, one.column, one.location])
        self._db.execute(f"INSERT OR IGNORE INTO {table} (key, source) VALUES (?, ?)", (one.key, source))
        return one.key.hex()

    def count(self, table: str) -> int:
        """How many images or texts there are."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def images(self, after: int) -> Iterator[ImageSource]:
        """Images from behind an id on, in order; their ids are 1, 2, 3, ..."""
        query = "SELECT key, source FROM images WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._db.execute(query, (after, _CHUNK)).fetchall():
            for key, source in rows:
                name, file, start, size, column, location = json.loads(source)
                yield ImageSource(name, path_of(file), key, start, size, column, location=location)
            after += len(rows)

    def left_out(self) -> list[int]:
        """The ids of images that are left out, in order."""
        query = "SELECT image FROM skipped WHERE image IS NOT NULL ORDER BY image"
        return [image for (image,) in self._db.execute(query)]

    def texts(self, after: int, last: int, left_out: list[int]) -> list[Text]:
        """Texts of images that are not left out, ids after < id <= last."""

        def row_of(image: int) -> int | None:
            before = bisect_left(left_out, image)
            return None if left_out[before : before + 1] == [image] else image - 1 - before

        def shown(key: str | None) -> tuple[str, int] | None:
            if key is None:
                return None
            query = "SELECT id, source FROM images WHERE key = ?"
            image, source = self._db.execute(query, (bytes.fromhex(key),)).fetchone()
            return None if (row := row_of(image)) is None else (json.loads(source)[0], row)

        texts = []
        query = "SELECT image, kind, row FROM texts WHERE id > ? AND id <= ? ORDER BY id"
        for image, kind, row in self._db.execute(query, (after, last)).fetchall():
            if (own := row_of(image)) is not None:
                caption, listed, location = json.loads(row)
                negatives = [Negative(text, not self._is_true(image, text), shown(key)) for text, key in listed]
                texts.append(Text(caption, negatives, own, location, Kind(kind)))
        return texts

    def _is_true(self, image: int, text: str) -> bool:
        """Whether a text of the image says the same."""
        query = "SELECT 1 FROM texts WHERE image = ? AND said = ? LIMIT 1"
        return self._db.execute(query, (image, _said(text))).fetchone() is not None

    def skipped(self) -> list[dict[str, Any]]:
        """What was left out, and why: rows of the tables, then images with their captions."""
        of_image = "SELECT COUNT(*) FROM texts WHERE image = skipped.image AND kind = 0"
        captions = f"CASE WHEN image IS NULL THEN 1 ELSE ({of_image}) END"
        query = f"SELECT location, name, reason, {captions} FROM skipped ORDER BY image, rowid"  # NULL is the smallest
        return [
            dict(zip(("where", "image", "reason", "captions"), row, strict=True)) for row in self._db.execute(query)
        ]

    def note(self, files: Files, progress: Mapping[str, Any], skipped: Mapping[int, tuple[ImageSource, str]]) -> None:
        """What is done now counts, with what the files hold now; `skipped` are ids of images, and why.

        Every few seconds it is kept.
        """
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        rows = [(image, source.location, source.name, reason) for image, (source, reason) in skipped.items()]
        self._db.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?, ?)", rows)
        self.progress |= {**progress, "sizes": files.sizes()}
        if time.monotonic() - self._kept >= COMMIT_SECONDS:
            self.keep(files)

    def keep(self, files: Files) -> None:
        """Keep what counts: after a kill, the run goes on from here."""
        files.flush()
        with self._db:
            self._write()
        self._kept = time.monotonic()

    def _write(self) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (json.dumps(self.progress),))


def _said(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, punctuation and "a" or "an"."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=8).digest()
