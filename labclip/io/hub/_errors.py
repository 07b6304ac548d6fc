"""What the Hub's client raises, said in one line; and the names that are refused before any call."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labclip.messages import typed

Verify = Callable[[Path], object]
"""Looks at a folder and raises ValueError or FileNotFoundError where it is not what it should be."""

_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]{0,199}", re.ASCII)
_LOG_IN = "Type: hf auth login"
_TROUBLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EEXIST}
_TROUBLE |= {getattr(errno, name) for name in ("EDQUOT", "ENOTSUP") if hasattr(errno, name)}


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
            f"The cache {cache} can't be used ({error.strerror}). Make room there, or give another: "
            f"{typed('pass cache_dir=FOLDER, or ', '')}set HF_HOME=FOLDER."
        ) from error


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no repository, before it becomes part of a path or address.

    Raises:
        ValueError: If it is not "org/name".
    """
    sound = isinstance(repo_id, str) and _REPO_ID.fullmatch(repo_id) and not re.search(r"\.\.|--|[.-](/|$)", repo_id)
    if not sound:
        raise ValueError(
            f"{repo_id!r:.120} is not a Hub repository. One looks like 'org/name', of letters, digits, '-', '_', '.'. "
            f"For a folder on this machine, pass its path, for example './name'."
        )


def check_revision(revision: str | None) -> str:
    """The revision, "main" for None.

    Raises:
        ValueError: If it can't be a branch, tag or commit.
    """
    if revision is None:
        return "main"
    if not (isinstance(revision, str) and _REVISION.fullmatch(revision)) or ".." in revision or "//" in revision:
        raise ValueError(f"{revision!r} is not a revision. Pass a branch, tag or commit, for example 'main'.")
    return revision


def is_off(force_download: bool, local_files_only: bool) -> bool:
    """Whether the network must not be used.

    Raises:
        ValueError: If a download is forced at the same time.
    """
    from huggingface_hub import constants

    # The client reads the variable on import only; here setting it later counts too.
    variable = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    off = local_files_only or constants.HF_HUB_OFFLINE or variable
    if off and force_download:
        which = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE=1"
        raise ValueError(f"force_download=True needs the network, which {which} forbids. Leave one of them out.")
    return off


def not_cached(repo_id: str, revision: str, file: str, cache: Path) -> FileNotFoundError:
    """The error of a cold cache without a network."""
    command = f"hf download {repo_id}{file and ' '}{file}"
    command += "" if revision == "main" else f" --revision {revision}"
    return FileNotFoundError(
        f"{repo_id} is not in the cache {cache} and the network is off (HF_HUB_OFFLINE or local_files_only). "
        f"With a network, type: {command} --cache-dir {cache}"
    )


def unsound(repo_id: str, folder: Path, error: Exception) -> Exception:
    """The error of a snapshot that is not what it should be, naming the repository instead of a place in the cache."""
    kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
    what = str(error).replace(str(folder), repo_id)
    return kind(
        f"The Hub's {repo_id} is not sound: {what} It was not loaded; where there is a network it is fetched again."
    )


@contextmanager
def explained(repo_id: str, revision: str | None = None, *, remedy: str | None = None) -> Iterator[None]:
    """Turn the client's errors into FileNotFoundError, PermissionError and ConnectionError that say what to do.

    Errors of using the cache pass as they are.
    """
    # The HTTP library behind the client has changed its name twice; its base error is found here in each.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        if is_cache_trouble(error):
            raise
        remedy = remedy or f"Try again later, or where there is a network type: hf download {repo_id}"
        raise _plain(_root(error), repo_id, revision, remedy) from error


def _root(error: BaseException) -> BaseException:
    """The client wraps what went wrong in "not found locally" and "force download failed"."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError | ValueError) and not isinstance(error, HfHubHTTPError):
        if error.__cause__ is None:
            break
        error = error.__cause__
    return error


def _plain(error: BaseException, repo_id: str, revision: str | None, remedy: str) -> OSError:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.HfHubHTTPError):
        return _of_status(error, hub, repo_id, revision, remedy)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return PermissionError(
            f"There is no stored token for {repo_id}. {typed('Type: hf auth login, or pass token=...', _LOG_IN)}."
        )
    reason = first_sentence(error) or type(error).__name__
    if isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]
        return ConnectionError(f"The Hub ({hub}) can't be reached for {repo_id}: {reason}. {remedy}")
    if isinstance(error, OSError) and not isinstance(error, errors.FileMetadataError):
        return ConnectionError(f"{repo_id} did not arrive whole: {reason}. {remedy}")
    return ConnectionError(
        f"What answers at {hub} for {repo_id} is not a Hub: {reason}. Check HF_ENDPOINT and the proxy. {remedy}"
    )


def _of_status(error: Any, hub: str, repo_id: str, revision: str | None, remedy: str) -> OSError:
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{repo_id} has no revision {revision!r}. Leave revision out, or see {hub}/{repo_id}.")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FileNotFoundError(f"{repo_id} lacks a file that it lists, {error.response.url}. {remedy}")
    if status in (401, 403):
        return PermissionError(
            f"The Hub refuses {repo_id} ({status}): it does not exist, is private or gated, or the token is wrong. "
            f"Check the name; {typed('type: hf auth login, or pass token=...', _LOG_IN.lower())}; "
            f"a gated one is asked for at {hub}/{repo_id}."
        )
    if status == 404:
        return FileNotFoundError(
            f"{repo_id} is not on the Hub ({hub}). Check the name; a private one needs: hf auth login. "
            f"For a folder on this machine, pass './{repo_id}'."
        )
    said = f" ({error.server_message})" if error.server_message else ""
    return ConnectionError(f"The Hub ({hub}) answered {status} for {repo_id}{said}. {remedy}")


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without its end."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
