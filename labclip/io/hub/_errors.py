"""What the Hub's client raises, said in one line with what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Errors of using the cache; the network's have none of these numbers.
_TROUBLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EEXIST}
_TROUBLE |= {getattr(errno, name) for name in ("EDQUOT", "ENOTSUP") if hasattr(errno, name)}


class CacheError(OSError):
    """The cache is full, read-only or no folder: no source could help."""


@contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Say what to do about a cache that can't be used; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TROUBLE:
            raise
        raise CacheError(
            f"The cache {cache} can't be used ({error.strerror}). Free some space there, or name another: "
            "pass cache_dir=FOLDER, or set HF_HOME=FOLDER."
        ) from error


@contextmanager
def explained(repo_id: str, revision: str | None = None, *, remedy: str | None = None) -> Iterator[None]:
    """Turn the client's errors into FileNotFoundError, PermissionError and ConnectionError that say what to do.

    Errors of using the cache pass as they are.
    """
    try:
        yield
    except (_http_error(), OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        if isinstance(error, OSError) and error.errno in _TROUBLE:
            raise
        remedy = remedy or f"Try again later, or where there is a network type: hf download {repo_id}"
        raise _plain(error, repo_id, revision, remedy) from error


def _http_error() -> type[Exception]:
    """The base error of the HTTP library behind the client: requests before 1.0, then httpx, whose name has changed."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    # requests derives its HTTPError, a bad status, from the base; in httpx it is the base.
    return next(base for base in reversed(HTTPError.__mro__) if base.__module__ == HTTPError.__module__)


def _plain(error: Any, repo_id: str, revision: str | None, remedy: str) -> OSError:
    from huggingface_hub import constants, errors

    # The client wraps what went wrong in "not found locally" and "force download failed".
    wrappers = (errors.LocalEntryNotFoundError, ValueError)
    while isinstance(error, wrappers) and not _answered(error) and error.__cause__ is not None:
        error = error.__cause__
    hub = constants.ENDPOINT
    if _answered(error):
        return _of_status(error, hub, repo_id, revision, remedy)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return PermissionError(f"There is no stored token for {repo_id}. Type: hf auth login, or pass token=....")
    if isinstance(error, ValueError | KeyError | TypeError | AssertionError | errors.FileMetadataError):
        return ConnectionError(
            f"What answers at {hub} for {repo_id} is not a Hub: {_reason(error)}. "
            f"Check HF_ENDPOINT and the proxy. {remedy}"
        )
    if isinstance(error, _http_error()):
        return ConnectionError(f"The Hub ({hub}) can't be reached for {repo_id}: {_reason(_root(error))}. {remedy}")
    return ConnectionError(f"{repo_id} did not arrive whole: {_reason(error)}. {remedy}")


def _answered(error: Any) -> bool:
    """Whether the Hub answered, with a bad status."""
    return getattr(error, "response", None) is not None


def _root(error: BaseException) -> BaseException:
    """What the layers of an HTTP library wrap; requests puts it into the arguments."""
    inner = next((one for one in error.args if isinstance(one, BaseException)), error.__cause__)
    return error if inner is None else _root(inner)


def _reason(error: BaseException) -> str:
    return first_sentence(error) or type(error).__name__


def _of_status(error: Any, hub: str, repo_id: str, revision: str | None, remedy: str) -> OSError:
    from huggingface_hub import errors

    answer, status = error.response, error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{repo_id} has no revision {revision!r}. Leave revision out, or see {hub}/{repo_id}.")
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(f"{repo_id} lacks a file that it lists, {answer.url}. {remedy}")
    if status in (401, 403):
        return PermissionError(
            f"The Hub refuses {repo_id} ({status}): it does not exist, is private or gated, or the token is wrong. "
            f"Check the name; type: hf auth login, or pass token=...; a gated one is asked for at {hub}/{repo_id}."
        )
    if status == 404:
        return FileNotFoundError(
            f"{repo_id} is not on the Hub ({hub}). Check the name; a private one needs: hf auth login. "
            f"For a folder on this machine, pass './{repo_id}'."
        )
    message = getattr(error, "server_message", None)  # a bad status met in a retry of 0.x is the HTTP library's own
    said = f" ({message})" if message else ""
    return ConnectionError(f"The Hub ({hub}) answered {status} for {repo_id}{said}. {remedy}")


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without its end."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
