"""Embeddings kept by what they are of, so that a second run of any benchmark encodes nothing again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.features.identity import identity_of
from labclip.model import LABCLIP

FORMAT = 1
"""Raised whenever equal keys would mean other embeddings."""

COMMIT_SECONDS = 5.0
"""How much work a kill may cost."""

_ASKED = 500  # keys in one question to SQLite, which takes 999 in its oldest builds


def default_cache() -> Path:
    """The folder of embeddings: LABCLIP_CACHE, or `labclip` in the user's folder for caches."""
    if folder := os.environ.get("LABCLIP_CACHE"):
        return Path(folder)
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

    What the file is of stands in its name: weights, precision, device, preprocessing, tokenizer. A kill costs the last
    seconds; several processes may use it at once.

    Args:
        folder: Where the file lies; made if need be. None keeps nothing.
        model: The base.

    Raises:
        ValueError: If the file is damaged, or the folder is a file.
    """

    def __init__(self, folder: Path | None, model: LABCLIP) -> None:
        self.identity = identity_of(model)
        self._dim: int = self.identity["dim"]
        self.path = None if folder is None else folder / f"{_name(self.identity, model)}.sqlite"
        if self.path is not None:
            if folder is not None and folder.exists() and not folder.is_dir():
                raise ValueError(f"The cache {folder} is a file. Pass the path of a folder, or --no-cache.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(":memory:" if self.path is None else self.path, timeout=60)
        try:
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        self._committed = time.monotonic()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.commit()
        self._file.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """What is there of some keys: key -> float32 [dim]."""
        found: dict[bytes, NDArray[np.float32]] = {}
        try:
            for start in range(0, len(keys), _ASKED):
                part = keys[start : start + _ASKED]
                marks = ",".join("?" * len(part))
                for key, row in self._file.execute(f"SELECT key, row FROM rows WHERE key IN ({marks})", part):
                    vector = np.frombuffer(row, dtype="<f4")
                    if len(vector) == self._dim and abs(float(vector @ vector) - 1) < 1e-3:
                        found[key] = vector
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        return found

    def put(self, rows: Iterable[tuple[bytes, NDArray[np.float32]]]) -> None:
        """Keep some embeddings, float32 [dim] of unit length."""
        lines = [(key, row.astype("<f4").tobytes()) for key, row in rows]
        try:
            self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", lines)
            if time.monotonic() - self._committed >= COMMIT_SECONDS:
                self._file.commit()
                self._committed = time.monotonic()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: sqlite3.DatabaseError) -> ValueError:
        return ValueError(f"The cache {self.path} can't be used ({error}). Delete that file, or pass --no-cache.")


def _name(identity: dict[str, Any], model: LABCLIP) -> str:
    # The probe's embedding differs in its last bits from machine to machine; its tokens do not.
    facts = {key: value for key, value in identity.items() if key not in ("base", "probe")}
    assert model.tokenizer is not None  # identity_of has looked
    tokens = model.tokenizer(["a photo of a cat next to a dog"]).tolist()
    facts |= {"tokens": tokens, "device": model.matrix.device.type, "format": FORMAT}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
