"""A file that has its name only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from labclip.stored.places import Place


class UnwritableError(OSError):
    """A target that can't be written; the message names it and says why."""


class Output:
    """A file that has its name only when it is whole; hashed as it is written."""

    closed = False  # as pyarrow asks

    def __init__(self, target: Place, scratch: str | None, name: str) -> None:
        self.size, self._digest = 0, hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._hashed = self._pool.submit(self._digest.update, b"")
        self.problem: OSError | None = None
        self._target = target
        self._temporary = None if scratch else tempfile.TemporaryDirectory(prefix="labclip-")
        self._part = Path(scratch or self._temporary.name) / quote(name, safe="")  # type: ignore[union-attr]
        self._file: Any = None

    def __enter__(self) -> Output:
        try:
            self._file = self._attempt(lambda: self._part.open("wb"))
        except OSError as error:
            raise self._unwritable() from error
        return self

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._attempt(lambda: self._file.write(data))
        self._hashed.result()
        self._hashed = self._pool.submit(self._digest.update, data)  # beside the next product
        self.size += len(data)
        return len(data)

    def sha256(self) -> str:
        """The hash of what was written, in hexadecimal digits."""
        self._hashed.result()
        return self._digest.hexdigest()

    def flush(self) -> None:
        """Nothing: the end of the block does."""

    close = flush

    def tell(self) -> int:
        """How many bytes were written."""
        return self.size

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None and self.problem is None:
                self._attempt(self._finish)
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            self._pool.shutdown()
            self._part.unlink(missing_ok=True)
            if self._temporary is not None:
                self._temporary.cleanup()
            if self.problem is not None:
                raise self._unwritable() from self.problem

    def _unwritable(self) -> UnwritableError:
        reason = self.problem and (self.problem.strerror or self.problem)
        return UnwritableError(f"{self._target.root} can't be written ({reason})")

    def _finish(self) -> None:
        self._file.flush()
        fs, path = self._target.fs, self._target.root
        if self._temporary is not None:
            self._file.close()
            fs.put_file(str(self._part), path)
        else:
            os.fsync(self._file.fileno())
            self._file.close()
            fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            os.replace(self._part, path)

    def _attempt(self, step: Callable[[], Any]) -> Any:
        """Keep the error that a step of writing raises, so that it is not taken for one of reading."""
        try:
            return step()
        except OSError as error:
            self.problem = error
            raise
