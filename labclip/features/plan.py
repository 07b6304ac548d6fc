"""What a run has to do and how far it is: one file in the feature folder, locked while the run lasts."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from labclip.data.cleaning import comparable
from labclip.data.images import ImageSource
from labclip.data.items import Item
from labclip.features.folder import CONTENT, NEGATIVE_ONLY_IMAGES, PART, Files
from labclip.files import MANIFEST, UNFINISHED, path_of

COMMIT_SECONDS = 5.0
"""How much work a kill may cost."""

_CHUNK = 1024
_VERSION = 3  # of the tables
_TABLES = {
    "images": "(id INTEGER PRIMARY KEY, key BLOB UNIQUE, source TEXT, problem TEXT)",
    "texts": "(id INTEGER PRIMARY KEY, image INTEGER, caption TEXT, negatives TEXT, negative_images TEXT, place TEXT, "
    "said BLOB)",
    "skipped": "(place TEXT, image TEXT, reason TEXT)",
}


class Text(NamedTuple):
    """A caption to be encoded, and the row of its image among the features."""

    caption: str
    negatives: list[str]
    is_negative: list[bool]  # of each whether no caption of the same image says the same
    images: list[tuple[str, int] | None]  # of each the image that it describes: name and row
    place: str
    image_row: int


class Plan:
    """The images and captions of a run, in order, and the progress of the run; a context manager.

    The lock on the file is taken before anything in the folder is touched. The kernel frees it after a kill.

    Args:
        folder: The feature folder.
        force: Whether to remove what is there of a feature folder.

    Attributes:
        progress: How far the run is, plain JSON values; empty before the tables are read. `commit` keeps it.

    Raises:
        ValueError: If another process is writing, or the file is of another program or version.
    """

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self.folder, self.path = folder, folder / UNFINISHED
        try:
            self._db = self._locked()
        except sqlite3.OperationalError as error:
            raise ValueError(f"{folder} is being written by another process ({error}). Wait for it to end.") from error
        except sqlite3.DatabaseError as error:
            if not force:
                raise self._damaged(error) from error
            self.path.unlink()
            self._db = self._locked()
        if force:
            self.clear(MANIFEST, *CONTENT)
            for (table,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._db.execute(f'DROP TABLE "{table}"')
        self.progress: dict[str, Any] = {}
        self._kept = time.monotonic()
        try:
            if self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                if self._db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                    raise ValueError("it is of another version")
                self.progress = json.loads(self._db.execute("SELECT value FROM progress").fetchone()[0])
                # A batch that was broken off does not count.
                self._db.execute(
                    "UPDATE images SET problem = NULL WHERE problem IS NOT NULL AND id > ?", (self.progress["images"],)
                )
        except (sqlite3.DatabaseError, ValueError) as error:
            self._db.close()
            raise self._damaged(error) from error

    def _locked(self) -> sqlite3.Connection:
        """The file, opened by this process alone."""
        while True:
            self.path.touch()
            before = self.path.stat().st_ino
            file = sqlite3.connect(self.path.absolute(), timeout=0.5, isolation_level=None)
            try:
                file.execute("PRAGMA locking_mode = EXCLUSIVE")
                file.execute("PRAGMA cache_size = -65536")
                file.execute("BEGIN EXCLUSIVE")
                file.execute("COMMIT")
                # A run that ends removes the file that another one waits for.
                if self.path.stat().st_ino == before:
                    return file
            except FileNotFoundError:
                pass
            except sqlite3.DatabaseError:
                file.close()
                raise
            file.close()

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path} is damaged ({error}). Pass force=True to start from scratch.")

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self.progress or (self.folder / MANIFEST).exists():  # nothing is begun, or all is done
            self.remove()
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise ValueError(
                f"{self.path} can't be read or written ({error}). See that its disk has space, and run the same "
                f"again: it goes on where it stopped."
            ) from error

    def remove(self) -> None:
        """Remove the file, and the folder where that is then empty."""
        self.clear()
        names = [UNFINISHED + "-journal", UNFINISHED]
        try:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        except PermissionError:  # Windows removes no open file
            self._db.close()
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def clear(self, *names: str) -> None:
        """Remove files of the folder, and what is unfinished of its arrays."""
        for name in (*names, *(name + PART for name in (*CONTENT, NEGATIVE_ONLY_IMAGES))):
            (self.folder / name).unlink(missing_ok=True)

    def read(self, rows: Iterable[Item], facts: Mapping[str, Any]) -> None:
        """Take in all rows of the tables, or none if anything fails; `facts` are what they and the features depend on.

        Where this was done before, and the images have moved since, what came of them stays.
        """
        again, most = bool(self.progress), 0
        self._db.execute("BEGIN")
        if again:
            self._db.execute("ALTER TABLE images RENAME TO before")
            self._db.execute("DROP INDEX problems")
            self._db.execute("DROP TABLE texts")
            self._db.execute("DROP TABLE skipped")
        else:
            self.clear(*CONTENT)
            self._db.execute("CREATE TABLE progress (value TEXT)")
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        for table, columns in _TABLES.items():
            self._db.execute(f"CREATE TABLE {table} {columns}")
        self._db.execute("CREATE TEMP TABLE shown (id INTEGER PRIMARY KEY, key BLOB UNIQUE, source TEXT)")
        for row in rows:
            most = max(most, self._take(row))
        captioned, any_shown = self.count("images"), self.count("shown") > 0
        self._db.execute("INSERT OR IGNORE INTO images (key, source) SELECT key, source FROM shown ORDER BY id")
        self._db.execute("DROP TABLE shown")
        self._db.execute("CREATE INDEX texts_of ON texts (image, said)")
        self._db.execute("CREATE INDEX problems ON images (problem) WHERE problem IS NOT NULL")
        if again:
            self._db.execute("UPDATE images SET problem = (SELECT problem FROM before WHERE before.id = images.id)")
            self._db.execute("DROP TABLE before")
        start = {"images": 0, "digest": "", "texts": 0, "captions": 0, "captions_with_negative": 0, "true_negatives": 0,
                 "cut": {}, "sizes": {}}  # fmt: skip
        self.progress = {**start, **self.progress, "facts": facts, "captioned": captioned, "negative_images": any_shown,
                         "negatives_per_caption": most}  # fmt: skip
        self.commit()

    def _take(self, row: Item) -> int:
        """Take in a row; the most negatives that one of its captions has."""
        if row.problem:
            self._db.execute("INSERT INTO skipped VALUES (?, ?, ?)", (row.location, row.name or None, row.problem))
            return 0
        assert row.image is not None
        self._insert("images", row.image)
        (image,) = self._db.execute("SELECT id FROM images WHERE key = ?", (row.image.key,)).fetchone()
        shown = row.negative_images or ((),) * len(row.captions)
        for caption, negatives, images in zip(row.captions, row.negatives, shown, strict=True):
            named = [one and self._insert("shown", one) for one in images]
            texts = (json.dumps(many) if any(many) else None for many in (negatives, named))
            self._db.execute(
                "INSERT INTO texts (image, caption, negatives, negative_images, place, said) VALUES (?, ?, ?, ?, ?, ?)",
                (image, caption, *texts, row.location, _said(caption)),
            )
        return max(map(len, row.negatives))

    def _insert(self, table: str, one: ImageSource) -> str:
        """Take in an image where it is not there yet; its key as text."""
        assert one.file is not None
        source = json.dumps([one.name, str(one.file.absolute()), one.start, one.size, one.column, one.location])
        self._db.execute(f"INSERT OR IGNORE INTO {table} (key, source) VALUES (?, ?)", (one.key, source))
        return one.key.hex()

    def images(self, after: int) -> Iterator[ImageSource]:
        """Images from behind an id on, in order; their ids are without gaps."""
        query = "SELECT key, source FROM images WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._db.execute(query, (after, _CHUNK)).fetchall():
            for key, source in rows:
                name, file, start, size, column, place = json.loads(source)
                yield ImageSource(name, path_of(file), key, start, size, column, location=place)
            after += len(rows)

    def skip(self, image: int, problem: str) -> None:
        """Leave an image out, by its id, from 1."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute("UPDATE images SET problem = ? WHERE id = ?", (problem, image))

    def image_count(self) -> int:
        """How many images that captions describe are not left out."""
        captioned = int(self.progress["captioned"])
        return captioned - bisect(self.left_out(), captioned)

    def left_out(self) -> list[int]:
        """The ids of images that are left out, in order."""
        return [image for (image,) in self._db.execute("SELECT id FROM images WHERE problem IS NOT NULL ORDER BY id")]

    def texts(self, after: int, last: int, left_out: Sequence[int]) -> list[Text]:
        """Captions of images that are not left out, ids after < id <= last.

        The rows of images are those of a file with the images that captions describe and, behind these, the others.
        """
        found = self._db.execute(
            "SELECT t.image, t.caption, t.negatives, t.negative_images, t.place FROM texts t JOIN images i "
            "ON i.id = t.image WHERE t.id > ? AND t.id <= ? AND i.problem IS NULL ORDER BY t.id",
            (after, last),
        ).fetchall()
        texts = []
        for image, caption, listed, named, place in found:
            negatives = json.loads(listed or "[]")
            is_negative = [not self._true_of(image, negative) for negative in negatives]
            keys = json.loads(named) if named else [None] * len(negatives)
            images = [one and self._shown(one, left_out) for one in keys]
            texts.append(Text(caption, negatives, is_negative, images, place, _row(image, left_out)))
        return texts

    def _shown(self, key: str, left_out: Sequence[int]) -> tuple[str, int] | None:
        """Name and row of an image that a negative describes; None where it is left out."""
        query = "SELECT id, source FROM images WHERE key = ? AND problem IS NULL"
        found = self._db.execute(query, (bytes.fromhex(key),)).fetchone()
        return found and (json.loads(found[1])[0], _row(found[0], left_out))

    def _true_of(self, image: int, text: str) -> bool:
        """Whether a caption of the image says the same."""
        query = "SELECT 1 FROM texts WHERE image = ? AND said = ? LIMIT 1"
        return self._db.execute(query, (image, _said(text))).fetchone() is not None

    def count(self, table: str) -> int:
        """How many images or texts there are."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    def skipped(self) -> Iterator[dict[str, Any]]:
        """What was left out, and why: rows of the tables, then images with their captions."""
        for place, image, reason in self._db.execute("SELECT place, image, reason FROM skipped ORDER BY rowid"):
            yield {"where": place, "image": image, "reason": reason, "captions": 1}
        query = (
            "SELECT source, problem, (SELECT COUNT(*) FROM texts WHERE image = images.id) FROM images "
            "WHERE problem IS NOT NULL ORDER BY id"
        )
        for source, problem, captions in self._db.execute(query):
            name, *_, place = json.loads(source)
            yield {"where": place, "image": name, "reason": problem, "captions": captions}

    def note(self, files: Files, **progress: Any) -> None:
        """What is done now counts, with what the files hold now. Every few seconds it is kept."""
        self.progress |= {**progress, "sizes": files.sizes()}
        if time.monotonic() - self._kept >= COMMIT_SECONDS:
            self.keep(files)

    def keep(self, files: Files) -> None:
        """Keep what counts: after a kill, the run goes on from here."""
        files.flush()
        self.commit()
        self._kept = time.monotonic()

    def commit(self) -> None:
        """Write the progress."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute("DELETE FROM progress")
        self._db.execute("INSERT INTO progress VALUES (?)", (json.dumps(self.progress),))
        self._db.execute("COMMIT")


def _row(image: int, left_out: Sequence[int]) -> int:
    """The row of an image, of which those that are left out have none."""
    return image - 1 - bisect(left_out, image)


def _said(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, punctuation and "a" or "an"."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=8).digest()
