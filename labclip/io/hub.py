"""The only module that talks to the network: a name becomes a verified local folder, and a folder goes to the Hub.

Files are kept in the Hub client's own cache. The authors' checkpoints, which are not on the Hub, become alignment
folders in a small cache of labclip's. The hash of a published matrix decides at every load, whatever the source.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, hf_hub_download, scan_cache_dir, snapshot_download

from labclip._version import __version__
from labclip.io.converting import alignment_of
from labclip.io.folder import load, matrix_sha256
from labclip.io.published import Published

logger = logging.getLogger(__name__)

# Weights that hold only numbers, configs, the card and what tokenizers are made of; never a pickle or a script.
_WANTED = ("model.safetensors", "open_clip_model.safetensors", "README.md", "[!.]*.json", "[!.]*.txt", "[!.]*.model")
_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_WHO: dict[str, Any] = {"library_name": "labclip", "library_version": __version__}
# Errors of using the cache; the network's have none of these numbers.
_TROUBLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.EEXIST}


class CacheError(OSError):
    """The cache is full, read-only or no folder: no source could help."""


@dataclass(frozen=True)
class Access:
    """What every `from_pretrained` takes by these names, and means by them."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @property
    def off(self) -> bool:
        """Whether the network must not be used; ValueError if a download is forced at the same time."""
        # The client reads the variable on import only; here setting it later counts too.
        variable = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
        off = self.local_files_only or constants.HF_HUB_OFFLINE or variable
        if off and self.force_download:
            which = "local_files_only=True" if self.local_files_only else "HF_HUB_OFFLINE=1"
            raise ValueError(f"force_download=True needs the network, which {which} forbids. Leave one of them out.")
        return off

    @property
    def cache(self) -> Path:
        """The Hub client's own cache."""
        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()

    @property
    def published(self) -> Path:
        """Where alignment folders are kept that were made of the authors' checkpoints."""
        root = Path(self.cache_dir or constants.HF_ASSETS_CACHE).expanduser().absolute()
        return root / "labclip" / "published"

    @property
    def arguments(self) -> dict[str, Any]:
        """As the client's functions take it."""
        return {
            "revision": self.revision, "token": self.token, "cache_dir": self.cache, "local_files_only": self.off,
            "force_download": self.force_download, **_WHO,
        }  # fmt: skip


DEFAULT = Access()


def check_repo_id(repo_id: str) -> None:
    """Refuse with ValueError what is not "org/name", before it becomes part of a path or address."""
    sound = isinstance(repo_id, str) and _REPO_ID.fullmatch(repo_id) and not re.search(r"\.\.|--|[.-](/|$)", repo_id)
    if not sound:
        raise ValueError(
            f"{repo_id!r:.120} is not a Hub repository. One looks like 'org/name', of letters, digits, '-', '_', '.'. "
            f"For a folder on this machine, pass its path, for example './name'."
        )


def snapshot(repo_id: str, access: Access = DEFAULT, *, verify: Callable[[Path], object] = lambda folder: None) -> Path:
    """Fetch what labclip reads of a Hub repository into the client's cache, or find it there.

    `verify` raises ValueError or FileNotFoundError for a folder that is not sound. That is fetched again; where it
    still is not, it is removed from the cache.

    Raises:
        ValueError: If `repo_id` is none, or what came is not sound.
        FileNotFoundError: If the repository or revision does not exist, or is not cached and the network is off.
        PermissionError: If the Hub refuses it.
        OSError: If it can't be fetched (`ConnectionError`), or the cache can't be used (`CacheError`).
    """
    check_repo_id(repo_id)
    tries = [access] if access.off else [access, replace(access, force_download=True)]
    for attempt in tries:
        with _explained(repo_id, attempt):
            fetched = snapshot_download(
                repo_id, allow_patterns=list(_WANTED), ignore_patterns="*/*", **attempt.arguments
            )
        folder = Path(fetched)
        try:
            verify(folder)
            return folder
        except (ValueError, FileNotFoundError) as error:
            problem = error
    if not access.off:
        scan_cache_dir(access.cache).delete_revisions(folder.name).execute()
    kind = ValueError if isinstance(problem, ValueError) else FileNotFoundError
    what = str(problem).replace(str(folder), repo_id)
    raise kind(f"The Hub's {repo_id} is not sound: {what} It was not loaded.") from problem


def base_weights(repo_id: str, filenames: Sequence[str], access: Access = DEFAULT) -> Path:
    """Fetch the weights of an OpenCLIP tag: the first of `filenames` that the repository has. Raises as `snapshot`."""
    with _explained(repo_id, access, filenames):
        for name in filenames:
            try:
                return Path(hf_hub_download(repo_id, name, **access.arguments))
            except errors.EntryNotFoundError as error:
                missing = error
        raise missing


def published_folder(entry: Published, access: Access = DEFAULT) -> Path:
    """The alignment folder of a published matrix: from the cache, else the Hub, else the authors' pinned commit.

    The authors' checkpoint is converted once, and their server never sees the token. Raises as `snapshot` does; the
    message names both sources.
    """

    def verify(folder: Path) -> None:
        _check_published(entry, folder)

    access = replace(access, revision=None)
    kept = access.published / f"{entry.name}-{entry.alignment}-{entry.matrix_sha256[:12]}"
    if not access.force_download:
        with suppress(OSError, ValueError):
            verify(kept)
            return kept
        with suppress(OSError, ValueError):
            return snapshot(entry.hub_repo, replace(access, local_files_only=True), verify=verify)
    otherwise = f"type: labclip convert {entry.file} FOLDER, and pass alignment=FOLDER."
    if access.off:
        raise FileNotFoundError(
            f"The matrix {entry} is not in the cache {kept.parent} and the network is off (HF_HUB_OFFLINE or "
            f"local_files_only). With a network, type: curl -LO {entry.url} ; then here, {otherwise}"
        )
    try:
        return snapshot(entry.hub_repo, access, verify=verify)
    except CacheError:
        raise
    except (OSError, ValueError) as error:
        on_hub = error
    try:
        checkpoint = _checkpoint(entry)
    except (OSError, ValueError, http.client.HTTPException) as error:
        kind = ValueError if isinstance(error, ValueError) else ConnectionError
        raise kind(
            f"The matrix {entry} could not be fetched. {_first_sentence(on_hub)}. The authors ({entry.url}): "
            f"{_first_sentence(error)}. Check the network and try again, or fetch that file otherwise, {otherwise}"
        ) from error
    with _explained(entry.hub_repo, access):
        alignment_of(checkpoint, entry.file).save_pretrained(kept)
    verify(kept)
    return kept


def _checkpoint(entry: Published) -> bytes:
    """The bytes of the authors' checkpoint, held against its hash."""
    if not entry.url.startswith(("https://", "http://")):
        raise ValueError(f"{entry.url} is not a web address; LABCLIP_AUTHORS_ENDPOINT must begin with https://")
    request = urllib.request.Request(entry.url, headers={"User-Agent": f"labclip/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            data: bytes = response.read(entry.size + 1)  # one more shows a longer file without fetching all of it
    except urllib.error.HTTPError as error:
        with error:
            raise ConnectionError(f"it answered {error.code}") from error
    if (found := hashlib.sha256(data).hexdigest()) != entry.file_sha256:
        raise ValueError(
            f"what arrived, {len(data):,} of {entry.size:,} bytes, has the SHA-256 {found[:16]}..., not "
            f"{entry.file_sha256[:16]}..."
        )
    return data


def _check_published(entry: Published, folder: Path) -> None:
    """Hold an alignment folder against what is published: the matrix by its hash, and what goes with it."""
    alignment = load(folder)
    for name, is_, should_be in (
        ("matrix", matrix_sha256(alignment.fitted), entry.matrix_sha256),
        ("base", alignment.base, entry.base),
        ("logit_scale", alignment.logit_scale, entry.logit_scale),
        ("strength", alignment.strength, 1.0),
    ):
        if is_ != should_be:
            raise ValueError(f"{folder} gives {entry} the {name} {is_}, not {should_be}.")


def push(saved: Any, repo_id: str, **options: Any) -> str:
    """`push_to_hub` of what has `save_pretrained`; `options` are those of `push_folder`."""
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
        saved.save_pretrained(folder)
        return push_folder(folder, repo_id, **options)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Upload with labclip",
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to the Hub, as `push_to_hub` does, into a repository that is made if it does not exist.

    Only what `snapshot` fetches goes up: weights, configs, the card, tokenizer files. Whatever else lies there stays.
    """
    check_repo_id(repo_id)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass one, as save_pretrained(FOLDER) makes.")
    names = sorted(os.listdir(folder))
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in _WANTED)]
    if not wanted:
        raise FileNotFoundError(f"{folder} holds nothing that labclip reads. Pass a folder that save_pretrained made.")
    if DEFAULT.off:
        raise ConnectionError(
            f"The network is off (HF_HUB_OFFLINE), so nothing was uploaded. "
            f"Type: HF_HUB_OFFLINE=0 labclip push {folder} {repo_id}"
        )
    if left := [name for name in names if name not in wanted]:
        logger.warning("Not uploaded, since labclip does not read it: %s", ", ".join(left))
    api = HfApi(token=token, **_WHO)
    with _explained(repo_id, remedy=f"Try again: labclip push {folder} {repo_id}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr,
            allow_patterns=wanted,
        )  # fmt: skip
        return str(commit.pr_url or commit.commit_url)


@contextmanager
def _explained(
    repo_id: str, access: Access = DEFAULT, files: Sequence[str] = (), *, remedy: str = ""
) -> Iterator[None]:
    """Turn the client's errors into FileNotFoundError, PermissionError and ConnectionError that say what to do."""
    # The base of the HTTP library behind the client: requests before 1.0, then httpx, whose name has changed.
    http: Any = errors.HTTPError  # type: ignore[attr-defined]
    library = next(base for base in reversed(http.__mro__) if base.__module__ == http.__module__)
    try:
        yield
    except (library, OSError, ValueError, KeyError, errors.EntryNotFoundError) as error:
        raise _plain(error, repo_id, access, files, remedy) from error


def _plain(error: Any, repo_id: str, access: Access, files: Sequence[str], remedy: str) -> OSError:
    if getattr(error, "errno", None) in _TROUBLE:
        return CacheError(
            f"The cache {access.cache} can't be used ({error.strerror}). Free some space there, or name another: "
            f"pass cache_dir=FOLDER, or set HF_HOME=FOLDER."
        )
    hub, revision = constants.ENDPOINT, access.revision
    if access.local_files_only or access.off:
        command = " ".join(["hf download", repo_id, *files[:1], *(["--revision", revision] if revision else [])])
        return FileNotFoundError(
            f"{repo_id} is not in the cache {access.cache} and the network is off (HF_HUB_OFFLINE or "
            f"local_files_only). With a network, type: {command} --cache-dir {access.cache}"
        )
    # From scratch, as clients before 1.4 go on with what a portal answered.
    command = " ".join(["hf download", repo_id, *files[:1], "--force-download"])
    remedy = remedy or f"Try again later, or where there is a network type: {command}"
    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{repo_id} has no revision {revision!r}. Leave revision out, or see {hub}/{repo_id}.")
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return FileNotFoundError(f"{repo_id} on the Hub lacks {' or '.join(files)}. Check the name.")
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return PermissionError(
            f"The Hub refuses {repo_id} ({status or 'no token is stored'}): it does not exist, is private or gated, or "
            f"the token is wrong. Check the name; type: hf auth login, or pass token=...; a gated one is asked for at "
            f"{hub}/{repo_id}."
        )
    if status == 404:
        return FileNotFoundError(
            f"{repo_id} is not on the Hub ({hub}). Check the name; a private one needs: hf auth login. "
            f"For a folder on this machine, pass './{repo_id}'."
        )
    if status is not None:
        return ConnectionError(f"The Hub ({hub}) answered {status} for {repo_id}. {remedy}")
    return ConnectionError(f"{repo_id} can't be fetched from {hub}: {_first_sentence(error)}. {remedy}")


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__
