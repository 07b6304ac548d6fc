"""Filling a cache so that it never holds anything half, unverified or left over: beside it first, then by rename.

No network here. `labclip.io.hub` downloads into what `scratch` gives, verifies it, and lets `publish` move it over.
The layout is the Hub client's own (blobs, snapshots, refs), so `hf download` and labclip share one cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Verify = Callable[[Path], object]
"""Looks at a folder and raises ValueError or FileNotFoundError where it is not what it should be."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TROUBLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EEXIST}
_TROUBLE |= {getattr(errno, name) for name in ("EDQUOT", "ENOTSUP") if hasattr(errno, name)}
_STALE_SECONDS = 2 * 24 * 3600


class CacheError(OSError):
    """The cache is full, read-only or no folder: no source could help."""


def is_cache_trouble(error: BaseException) -> bool:
    """Whether an error comes from using the cache; the network's errors have none of these numbers."""
    return isinstance(error, OSError) and error.errno in _TROUBLE


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Say what to do about a cache that can't be used; other errors pass."""
    try:
        yield
    except OSError as error:
        if not is_cache_trouble(error):
            raise
        raise CacheError(
            f"The cache {cache} can't be used ({error.strerror}); it is as it was. Make room there, or give another: "
            f"pass cache_dir=FOLDER, or set HF_HOME=FOLDER."
        ) from error


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A temporary folder on the filesystem of `cache`; a block that fails leaves the cache as it was.

    Raises:
        CacheError: If the cache can't be written, here or in the block.
    """
    with cache_errors(cache), _or_as_before(cache, *cache.parents):
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(prefix=".labclip-", dir=cache, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)


@contextmanager
def _or_as_before(*paths: Path) -> Iterator[None]:
    """Where the block fails, take away those of `paths`, deepest first, that it made and nobody else fills."""
    made = [path for path in paths if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        raise


def _remove_stale(cache: Path) -> None:
    """Take away what processes that were killed left behind, once it is old enough to be nobody's."""
    for folder in cache.glob(".labclip-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder)


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """One process at a time, so that a second one waits for the first one's download instead of repeating it.

    Correctness does not rest on it: every process fills its own scratch folder and moves whole files.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = cache / ".locks" / name / "labclip.lock"
    with _or_as_before(path, path.parent, path.parent.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path):
            yield


def seed(repo: Path, staged: Path) -> None:
    """Show the blobs that `repo` has to a download into `staged`, so that it fetches only the others."""
    blobs = repo / "blobs"
    if not blobs.is_dir():
        return
    (staged / "blobs").mkdir(parents=True)
    for blob in blobs.iterdir():
        # Where links are not to be had (Windows without the right), everything is simply fetched.
        with suppress(OSError):
            if blob.is_file() and not blob.name.endswith(".incomplete"):
                (staged / "blobs" / blob.name).symlink_to(blob.resolve())


def check_blobs(staged: Path) -> None:
    """Hold each new file against the SHA-256 that the Hub names large files by.

    Raises:
        ValueError: If one is another file than the Hub says.
    """
    for blob in _new(staged / "blobs"):
        if _SHA256.fullmatch(blob.name):
            with blob.open("rb") as file:
                found = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    found.update(chunk)
            if found.hexdigest() != blob.name:
                raise ValueError(f"a file came with the SHA-256 {found.hexdigest()[:16]}..., not {blob.name[:16]}....")


def publish(staged: Path, repo: Path, commit: str, *, replace: bool) -> None:
    """Move a verified snapshot into the cache, the files before the names that point to them.

    Args:
        staged: The repository's folder in the scratch.
        repo: Its folder in the cache.
        commit: The snapshot to move.
        replace: Whether to replace files that the cache has.
    """
    parts = ("blobs", f"snapshots/{commit}")
    moves = [(source, repo / part / source.name) for part in parts for source in _new(staged / part)]
    moves = [(source, target) for source, target in moves if replace or not target.exists()]
    folders = [repo / "blobs", repo / "snapshots" / commit, repo / "snapshots", repo]
    with _or_as_before(*(target for _, target in reversed(moves)), *folders):
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            # A blob may be a link into the client's shared store, which stays behind: move what it points to.
            os.replace(source.resolve() if target.parent.name == "blobs" else source, target)


def _new(folder: Path) -> list[Path]:
    """What a download added: everything but the links to blobs the cache had, which alone are absolute."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if not (path.is_symlink() and os.path.isabs(os.readlink(path)))]


def snapshot_folder(repo: Path, revision: str) -> Path | None:
    """Where the cache has a revision, or None. A branch is what it was when last fetched."""
    ref = repo / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    folder = repo / "snapshots" / commit
    return folder if folder.is_dir() else None


def write_ref(repo: Path, revision: str, commit: str) -> None:
    """Note which commit a branch or tag is, atomically; a read-only cache keeps its older note."""
    ref = repo / "refs" / revision
    if revision == commit or (ref.is_file() and ref.read_text(encoding="utf-8") == commit):
        return
    with suppress(OSError):
        ref.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".labclip-", dir=ref.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(commit)
            Path(name).chmod(0o644)
            os.replace(name, ref)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def place(whole: Path, folder: Path, verify: Verify) -> None:
    """Rename a verified folder into its place, whatever another process put there meanwhile."""
    for attempt in range(4):
        try:
            os.rename(whole, folder)
            return
        except OSError:
            if not folder.exists() and attempt == 3:
                raise
        if is_sound(folder, verify):
            return
        with suppress(OSError):
            os.rename(folder, whole.with_name(f"unsound-{attempt}"))
    raise OSError(f"{folder} is in the way and can't be replaced. Remove it.")


def is_sound(folder: Path, verify: Verify) -> bool:
    """Whether a folder is there and passes `verify`."""
    if not folder.is_dir():
        return False
    try:
        verify(folder)
    except (ValueError, OSError):
        return False
    return True
