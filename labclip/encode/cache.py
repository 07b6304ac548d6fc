"""Embeddings kept by what they are of, so that a second run of any benchmark encodes nothing again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.encode.fingerprint import identity_of
from labclip.model import LABCLIP

FORMAT = 2
"""Raised whenever equal keys would mean other embeddings."""

_ASKED = 450  # keys, twice each, in one question to SQLite, which takes 999 in its oldest builds


def default_cache() -> Path:
    """The folder of embeddings: LABCLIP_CACHE, or `labclip` in the user's folder for caches."""
    if folder := os.environ.get("LABCLIP_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labclip"


def key_of(*parts: bytes) -> bytes:
    """SHA-256 of some bytes, each with its length, so that no two lists share one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class Cache:
    """Unit-length embeddings of one base by the SHA-256 of their content; a context manager.

    What the file is of stands in its name: weights, precision, device, preprocessing, tokenizer. A kill costs what was
    being encoded; several processes may use it at once. Where it can't be written any more, as on a full disk, a
    warning says so, and the run goes on.

    Args:
        folder: Where the file lies; made if need be. None keeps nothing.
        model: The base.

    Raises:
        ValueError: If the file is damaged or can't be opened, or the folder is a file or can't be made.
    """

    def __init__(self, folder: Path | None, model: LABCLIP) -> None:
        self.identity = identity_of(model)
        self._dim: int = self.identity["dim"]
        self.path = None if folder is None else folder / f"{_name(self.identity, model)}.sqlite"
        if self.path is not None:
            if folder is not None and folder.exists() and not folder.is_dir():
                raise ValueError(f"The cache {folder} is a file. Pass the path of a folder, or --no-cache.")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"The cache {folder} can't be made ({error.strerror}). Pass --cache DIR with a folder that you may "
                    f"write, or --no-cache."
                ) from error
        self._kept = True
        try:
            self._file = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=60)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")  # a commit is then a write, and no wait for the disk
            self._file.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
            self._file.execute("CREATE TABLE IF NOT EXISTS same (key BLOB PRIMARY KEY, other BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """What is there of some keys: key -> float32 [dim]."""
        found: dict[bytes, NDArray[np.float32]] = {}
        try:
            for start in range(0, len(keys), _ASKED):
                part = keys[start : start + _ASKED]
                marks = ",".join("?" * len(part))
                for key, row in self._file.execute(_FIND.format(marks=marks), [*part, *part]):
                    vector = np.frombuffer(row, dtype="<f4")
                    if len(vector) == self._dim and abs(float(vector @ vector) - 1) < 1e-3:
                        found[key] = vector
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        return found

    def put(self, rows: Iterable[tuple[bytes, NDArray[np.float32]]], same: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Keep some embeddings.

        Args:
            rows: Keys and embeddings, float32 [dim] of unit length.
            same: Keys, each with the key of a row that is theirs too.
        """
        if not self._kept:
            return
        lines = [(key, row.astype("<f4").tobytes()) for key, row in rows]
        try:
            # Another process waits for as long as this is open: never while the model works.
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", lines)
                self._file.executemany("INSERT OR REPLACE INTO same VALUES (?, ?)", same)
        except sqlite3.OperationalError as error:
            # What was encoded counts more than that it is kept.
            self._kept = False
            warnings.warn(f"The cache {self.path} can't be written ({error}); what follows is not kept.", stacklevel=2)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> ValueError:
        # An OperationalError is of the machine: a folder that may not be written, a full disk, a lock.
        of_machine = isinstance(error, sqlite3.OperationalError)
        remedy = "Pass --cache DIR with a folder that you may write" if of_machine else "Delete that file"
        return ValueError(f"The cache {self.path} can't be used ({error}). {remedy}, or pass --no-cache.")


_FIND = (
    "SELECT key, row FROM rows WHERE key IN ({marks}) UNION ALL "
    "SELECT same.key, rows.row FROM same JOIN rows ON rows.key = same.other WHERE same.key IN ({marks})"
)


def _name(identity: dict[str, Any], model: LABCLIP) -> str:
    # The fingerprint's embedding differs in its last bits from machine to machine; its tokens do not.
    facts = {key: value for key, value in identity.items() if key not in ("base", "fingerprint")}
    assert model.tokenizer is not None  # identity_of has looked
    tokens = model.tokenizer(["a photo of a cat next to a dog"]).tolist()
    facts |= {"tokens": tokens, "device": model.matrix.device.type, "format": FORMAT}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
