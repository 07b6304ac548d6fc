"""The unfinished state of a feature folder: what is to be done and how far it is, in one file that survives a kill."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from labclip.data.cleaning import comparable
from labclip.data.images import ImageSource
from labclip.data.items import Item
from labclip.features.folder import HEADER, IMAGE_NAMES, IMAGES, SHOWN, clear
from labclip.features.parts import Parts, Sealed
from labclip.files import UNFINISHED, path_of

_CHUNK = 1024
_TABLES = {
    "state": "(name TEXT PRIMARY KEY, value TEXT)",
    "images": "(id INTEGER PRIMARY KEY, key BLOB UNIQUE, name TEXT, place TEXT, file TEXT, start INTEGER, "
    "size INTEGER, part TEXT, row INTEGER, problem TEXT, chain TEXT)",
    "texts": "(id INTEGER PRIMARY KEY, image INTEGER, caption TEXT, negatives TEXT, negative_images TEXT, place TEXT, "
    "said BLOB)",
    "skipped": "(place TEXT, image TEXT, reason TEXT)",
}
_PLAN = ("images", "texts", "skipped")
_SOURCE = "name, place, file, start, size, part"


class NegativeImage(NamedTuple):
    """An image that a negative describes, and where its embedding is: the file that grows, and the row."""

    name: str
    file: str
    row: int


class Text(NamedTuple):
    """A caption to be encoded, and the row of its image among the features."""

    caption: str
    negatives: list[str]
    wrong: list[bool]  # which of them are none that another caption of the same image says
    images: list[NegativeImage | None]  # the image of each
    place: str
    image_row: int


class Journal:
    """The plan of a run and the files that grow, `parts`. What `commit` has not sealed is cut off when the run goes on.

    One process at a time: it is an error where another is writing, and where the file is not as this class left it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = Parts(folder)
        self._db = sqlite3.connect(folder.absolute() / UNFINISHED, timeout=0.5, isolation_level=None)
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
            remedy = "Pass force=True to start from scratch."
            raise ValueError(f"{folder / UNFINISHED} is damaged ({error}). {remedy}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.parts.close()
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise ValueError(
                f"{self.folder / UNFINISHED} can't be read or written ({error}). See that its disk has space, and run "
                f"the same again: it goes on where it stopped."
            ) from error

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
        """Refuse what somebody edited."""
        if self._db.execute("SELECT 1 FROM state").fetchone() and self.get("seal", "") != self._state_sha256():
            raise ValueError("its state was edited")
        if not self.planned:
            return
        if self.get("plan_sha256", "") != self._plan_sha256():
            raise ValueError("its plan was edited")
        rows, last, next_image, captioned = {IMAGES: 0, SHOWN: 0}, "", self.get("next_image", 0), self.captioned
        for image, row, chain, problem in self._db.execute("SELECT id, row, chain, problem FROM images ORDER BY id"):
            is_done, file = (row is None) != (problem is None), IMAGES if image <= captioned else SHOWN
            if is_done != (image <= next_image) or row not in (None, rows[file]):
                raise ValueError(f"what it says of image {image} was edited")
            if row is not None:
                rows[file], last = row + 1, chain
        if rows != self.get("rows", {IMAGES: 0, SHOWN: 0}) or last != self.get("digest", ""):
            raise ValueError("its rows were edited")

    @property
    def sealed(self) -> Sealed:
        """What of the files that grow counts."""
        found: Sealed = self.get("sealed", {})
        return found

    @property
    def captioned(self) -> int:
        """How many images captions describe. They come first; those of negatives alone are behind them."""
        return int(self.get("captioned", 0))

    @property
    def planned(self) -> bool:
        """Whether all rows of the tables are in it."""
        return bool(self.get("planned", False))

    def plan(self, rows: Iterable[Item], facts: Mapping[str, Any], *, dim: int, batch_size: int) -> None:
        """Take in all rows of the tables, or none if anything fails; `facts` are what they and the features depend on.

        Where there is a plan already, its images stay done up to the first that is another one now, in whole batches,
        so that the folder has the bytes of an unbroken run; captions are embedded again.
        """
        again, most = self.planned, 0
        try:
            self._db.execute("BEGIN")
            self._db.execute("ALTER TABLE images RENAME TO before")
            for table in _PLAN[1:]:
                self._db.execute(f"DROP TABLE {table}")
            self._create(*_PLAN)
            self._db.execute(f"CREATE TEMP TABLE shown (id INTEGER PRIMARY KEY, key BLOB UNIQUE, {_SOURCE})")
            for row in rows:
                most = max(most, self._take(row))
            captioned, any_shown = self.count("images"), self.count("shown") > 0
            columns = f"key, {_SOURCE}"
            self._db.execute(f"INSERT OR IGNORE INTO images ({columns}) SELECT {columns} FROM shown ORDER BY id")
            self._db.execute("DROP TABLE shown")
            self._db.execute("CREATE INDEX texts_of ON texts (image, said)")
            if again:
                self._keep_equal(captioned, dim, batch_size)
            self._db.execute("DROP TABLE before")
            self._set(facts=facts, negatives_per_caption=most, captioned=captioned, negative_images=any_shown)
            self._set(planned=True, plan_sha256=self._plan_sha256())
            self._db.execute("COMMIT")
        except BaseException:
            self._discard(again)
            raise

    def _discard(self, planned: bool) -> None:
        """Leave what there was before; nothing of a run that did not get past reading its captions."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if not planned:
            self._db.close()
            clear(self.folder, ())
            with suppress(OSError):  # other files are in it
                self.folder.rmdir()

    def _take(self, row: Item) -> int:
        """Take in a row; the most negatives that one of its captions has."""
        if row.problem:
            self._db.execute("INSERT INTO skipped VALUES (?, ?, ?)", (row.place, row.name or None, row.problem))
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
                (image, caption, *texts, row.place, _said(caption)),
            )
        return max(map(len, row.negatives))

    def _insert(self, table: str, source: ImageSource) -> str:
        """Take in an image where it is not there yet; its key as text."""
        assert source.file is not None
        file = str(source.file.absolute())
        where = source.key, source.name, source.place, file, source.start, source.size, source.column
        self._db.execute(f"INSERT OR IGNORE INTO {table} (key, {_SOURCE}) VALUES (?, ?, ?, ?, ?, ?, ?)", where)
        return source.key.hex()

    def _keep_equal(self, captioned: int, dim: int, batch_size: int) -> None:
        """Take over what the plan before has done, up to the first image that is another one now."""
        (other,) = self._db.execute(
            "SELECT MIN(b.id) FROM before b LEFT JOIN images i ON i.id = b.id WHERE b.id <= ? AND "
            "(i.name IS NOT b.name OR i.start IS NOT b.start OR i.size IS NOT b.size OR i.part IS NOT b.part "
            "OR i.part IS NOT NULL AND i.key IS NOT b.key OR (i.id <= ?) != (b.id <= ?))",
            (self.get("next_image", 0), captioned, self.captioned),
        ).fetchone()
        same = self.get("next_image", 0) if other is None else other - 1
        # An unbroken run has whole batches, but for the last.
        kept = same if same == self.count("images") else same // batch_size * batch_size
        self._db.execute(
            "UPDATE images SET (row, problem, chain) = (SELECT row, problem, chain FROM before "
            "WHERE before.id = images.id) WHERE id <= ?",
            (kept,),
        )
        rows, length, digest = {IMAGES: 0, SHOWN: 0}, 0, ""
        for image, name, chain in self._db.execute(
            "SELECT id, name, chain FROM images WHERE row IS NOT NULL ORDER BY id"
        ):
            rows[IMAGES if image <= captioned else SHOWN] += 1
            length += len(image_line(name)) if image <= captioned else 0
            digest = chain
        lengths = {file: HEADER + 4 * dim * count for file, count in rows.items()}
        sealed = self.parts.cut(self.sealed, {**lengths, IMAGE_NAMES: length})
        self._db.execute("DELETE FROM state")
        self._set(next_image=kept, rows=rows, digest=digest, sealed=sealed)

    def images(self, after: int) -> Iterator[ImageSource]:
        """Images from behind an id on, in order; their ids are without gaps."""
        query = f"SELECT id, key, {_SOURCE} FROM images WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._db.execute(query, (after, _CHUNK)).fetchall():
            for _, key, name, place, file, start, size, column in rows:
                yield ImageSource(name, path_of(file), key, start, size, column, place=place)
            after = rows[-1][0]

    def texts(self, after: int, last: int) -> list[Text]:
        """Captions of images that were kept, ids after < id <= last."""
        rows = self._db.execute(
            "SELECT t.image, t.caption, t.negatives, t.negative_images, t.place, i.row FROM texts t "
            "JOIN images i ON i.id = t.image WHERE t.id > ? AND t.id <= ? AND i.row IS NOT NULL ORDER BY t.id",
            (after, last),
        ).fetchall()
        texts = []
        for image, caption, listed, named, place, image_row in rows:
            negatives = json.loads(listed or "[]")
            wrong = [not self._true_of(image, negative) for negative in negatives]
            keys = json.loads(named) if named else [None] * len(negatives)
            images = [one and self._shown(one) for one in keys]
            texts.append(Text(caption, negatives, wrong, images, place, image_row))
        return texts

    def _shown(self, key: str) -> NegativeImage | None:
        """An image that a negative describes; None where it was left out."""
        query = "SELECT id, name, row FROM images WHERE key = ? AND row IS NOT NULL"
        found = self._db.execute(query, (bytes.fromhex(key),)).fetchone()
        return found and NegativeImage(found[1], IMAGES if found[0] <= self.captioned else SHOWN, found[2])

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

    def keep(self, done: Iterable[tuple[int | None, str | None, str | None, int]]) -> None:
        """Note what came of images: row among the features, hash of all up to it, why it is left out; id.

        The next `commit` seals it.
        """
        self._begin()
        self._db.executemany("UPDATE images SET row = ?, chain = ?, problem = ? WHERE id = ?", done)

    def commit(self, **state: Any) -> None:
        """Seal what was written since the last time: after a kill, a run goes on from here."""
        sealed = {**self.sealed, **self.parts.seal()}
        self._begin()
        self._set(**state, sealed=sealed)
        self._db.execute("COMMIT")

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")


def image_line(name: str) -> bytes:
    """An image's line in `images.jsonl`."""
    return (json.dumps({"image": name}, ensure_ascii=False) + "\n").encode()


def _said(text: str) -> bytes:
    """Equal for texts that differ in nothing but case, punctuation and "a" or "an"."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=8).digest()
