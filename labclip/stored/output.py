"""A file that has its name only when it is whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from labclip.stored.places import Place


class UnwritableError(OSError):
    """A target that can't be written; the message names it and says why."""


class Output:
    """A file that is being written, hashed beside the next product."""

    closed = False  # as pyarrow asks

    def __init__(self, target: Place, file: Any, pool: ThreadPoolExecutor) -> None:
        self.size, self._digest = 0, hashlib.sha256()
        self._target, self._file, self._pool = target, file, pool
        self._hashed = pool.submit(self._digest.update, b"")

    def write(self, data: Any) -> int:
        """Append bytes."""
        with _explained(self._target):
            self._file.write(data)
        self._hashed.result()
        self._hashed = self._pool.submit(self._digest.update, data)
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


@contextmanager
def writing(target: Place, scratch: str | None, name: str) -> Iterator[Output]:
    """What is written has the target's name when the block ends, whole or not at all.

    Until then it lies in `scratch`, a folder on the disk of the target, or in a temporary one, to be uploaded.
    UnwritableError for every OSError inside, so that what is read there must raise another.
    """
    with _explained(target), ExitStack() as stack:
        part = Path(
            scratch or stack.enter_context(tempfile.TemporaryDirectory(prefix="labclip-")), quote(name, safe="")
        )
        stack.callback(part.unlink, missing_ok=True)
        with part.open("wb") as file, ThreadPoolExecutor(1) as pool:
            yield Output(target, file, pool)
            file.flush()
            os.fsync(file.fileno())
        _place(part, target, uploading=scratch is None)


def _place(part: Path, target: Place, *, uploading: bool) -> None:
    if uploading:
        target.fs.put_file(str(part), target.root)
    else:
        target.fs.makedirs(str(PurePosixPath(target.root).parent), exist_ok=True)
        os.replace(part, target.root)


@contextmanager
def _explained(target: Place) -> Iterator[None]:
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        raise UnwritableError(f"{target.root} can't be written ({error.strerror or error})") from error
