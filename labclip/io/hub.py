"""The only module that uses the network: download a name to a verified local folder, and upload a folder to the Hub.

Files are kept in the Hub client's own cache. The authors' checkpoints, which are not on the Hub, become alignment
folders in a small cache of labclip. The hash of a published matrix is checked at every load, whatever its source.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import constants, errors

from labclip._version import __version__
from labclip.alignment import Alignment
from labclip.base import Base
from labclip.checks import first_line
from labclip.files import WEIGHT_FILES
from labclip.io.folder import convert_checkpoint, load, matrix_sha256
from labclip.io.published import Published

logger = logging.getLogger(__name__)

# The files that labclip reads: safetensors, configs, the card and tokenizer files; never a pickle or a script.
_FILES = ("model.safetensors", "open_clip_model.safetensors", "README.md", "[!.]*.json", "[!.]*.txt", "[!.]*.model")
_USER_AGENT: dict[str, Any] = {"library_name": "labclip", "library_version": __version__}


@dataclass(frozen=True)
class Access:
    """The arguments of every `from_pretrained`, with the Hub client's names and meanings."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @property
    def off(self) -> bool:
        """Whether the network must not be used."""
        return self.local_files_only or constants.HF_HUB_OFFLINE

    @property
    def cache(self) -> Path:
        """The Hub client's own cache."""
        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the client's functions."""
        return {
            "revision": self.revision, "token": self.token, "cache_dir": self.cache, "local_files_only": self.off,
            "force_download": self.force_download, **_USER_AGENT,
        }  # fmt: skip


DEFAULT = Access()
Read = TypeVar("Read")


def snapshot(repo_id: str, access: Access = DEFAULT, *, read: Callable[[Path], Read]) -> Read:
    """Download the files of a Hub repository that labclip reads, unless they are cached, and call `read` on the folder.

    If `read` raises ValueError or FileNotFoundError, the folder is damaged. It is removed from the cache, so that the
    next call downloads it again.
    """
    with _explaining(repo_id, access):
        folder = huggingface_hub.snapshot_download(
            repo_id, allow_patterns=list(_FILES), ignore_patterns="*/*", **access.arguments
        )
    try:
        return read(Path(folder))
    except (ValueError, FileNotFoundError) as error:
        if not access.off:
            huggingface_hub.scan_cache_dir(access.cache).delete_revisions(Path(folder).name).execute()
        reason = str(error).replace(folder, repo_id)
        raise ValueError(f"The Hub's {repo_id} can't be loaded: {reason}") from error


def weights_file(base: Base, access: Access = DEFAULT) -> Path:
    """The weights file of a base: the one of its tag, cached or downloaded, or `base.pretrained` if that is a file."""
    import open_clip  # here, since loading only an alignment does not need it

    config = open_clip.get_pretrained_cfg(base.model, base.pretrained)
    if not config:
        return Path(base.pretrained)
    repository, _, file = config["hf_hub"].rpartition("/")
    names = [file] if file else WEIGHT_FILES
    access = replace(access, revision=None)
    with _explaining(repository, access, names[0]):
        for name in names:
            try:
                return Path(huggingface_hub.hf_hub_download(repository, name, **access.arguments))
            except errors.EntryNotFoundError as error:
                not_found = error
        raise not_found


def published_alignment(entry: Published, access: Access = DEFAULT) -> Alignment:
    """Load a published matrix from the cache, else the Hub, else the authors' pinned commit.

    The authors' checkpoint is converted once; their server never gets the token. Raises as `snapshot` does; the
    message gives the errors of both servers.
    """

    def read(folder: Path) -> Alignment:
        alignment = load(folder)
        record = (matrix_sha256(alignment.fitted), alignment.base, alignment.logit_scale, alignment.strength)
        if record != (entry.matrix_sha256, entry.base, entry.logit_scale, 1.0):
            raise ValueError(f"{folder} is not the published {entry}: its hash, base, scale or strength differs.")
        return alignment

    access = replace(access, revision=None)
    cache = Path(access.cache_dir or constants.HF_ASSETS_CACHE).expanduser().absolute() / "labclip" / "published"
    cached_folder = cache / f"{entry.name}-{entry.alignment}-{entry.matrix_sha256[:12]}"
    if not access.force_download:
        with suppress(OSError, ValueError):
            return read(cached_folder)
        with suppress(OSError, ValueError):
            return snapshot(entry.hub_repo, replace(access, local_files_only=True), read=read)
    conversion = f"type: labclip convert {entry.file} FOLDER, and pass alignment=FOLDER."
    if access.off:
        raise FileNotFoundError(
            f"The matrix {entry} is not in the cache {cache} and the network is off (HF_HUB_OFFLINE or "
            f"local_files_only). With a network, type: curl -LO {entry.url} ; then here, {conversion}"
        )
    try:
        return snapshot(entry.hub_repo, access, read=read)
    except (OSError, ValueError) as error:
        hub_error = str(error).partition(". ")[0].rstrip(".")
    try:
        response = huggingface_hub.get_session().get(entry.url, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        response.raise_for_status()
        if hashlib.sha256(response.content).hexdigest() != entry.file_sha256:
            raise ValueError(f"the {len(response.content):,} bytes received have another SHA-256 than the file")
        convert_checkpoint(entry.file, response.content).save_pretrained(cached_folder)
        return read(cached_folder)
    except Exception as error:  # also errors of the client's HTTP library
        kind = ValueError if isinstance(error, ValueError) else ConnectionError
        raise kind(
            f"The matrix {entry} could not be downloaded. {hub_error}. The authors ({entry.url}): {first_line(error)}. "
            f"Check the network and try again, or get that file in another way, {conversion}"
        ) from None  # the message has both errors


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Upload with labclip",
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to a Hub repository, which is made if it does not exist. See `Alignment.push_to_hub`.

    Only files that `snapshot` downloads are uploaded: weights, configs, the card, tokenizer files.
    """
    names = sorted(os.listdir(folder))
    uploaded = [name for name in names if any(fnmatch(name, pattern) for pattern in _FILES)]
    if skipped := [name for name in names if name not in uploaded]:
        logger.warning("Not uploaded, since labclip does not read it: %s", ", ".join(skipped))
    if DEFAULT.off:
        raise ConnectionError("The network is off (HF_HUB_OFFLINE), so nothing was uploaded.")
    api = huggingface_hub.HfApi(token=token, **_USER_AGENT)
    with _explaining(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr,
            allow_patterns=uploaded,
        )  # fmt: skip
        return str(commit.pr_url or commit.commit_url)


@contextmanager
def _explaining(repo_id: str, access: Access | None = None, file: str = "") -> Iterator[None]:
    """Turn the client's errors into a FileNotFoundError, PermissionError or ConnectionError that says what to do."""
    hub, revision = constants.ENDPOINT, access.revision if access is not None else None
    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(f"{error} A repository is 'org/name'; for a folder on this machine pass './name'.") from error
    except Exception as error:  # errors of the client, and of its HTTP library, which differs between releases
        if access is not None and access.off:
            command = " ".join(filter(None, ["hf download", repo_id, file, revision and f"--revision {revision}"]))
            raise FileNotFoundError(
                f"{repo_id} is not in the cache {access.cache} and the network is off (HF_HUB_OFFLINE or "
                f"local_files_only). With a network, type: {command} --cache-dir {access.cache}"
            ) from None
        cause: BaseException = error
        while isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is not None:
            cause = cause.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(cause, errors.LocalTokenNotFoundError):
            raise PermissionError(
                f"The Hub refuses {repo_id} ({status or 'no token is stored'}): it does not exist, is private or "
                f"gated, or the token is wrong. Check the name; type: hf auth login, or pass token=...; for a gated "
                f"repository, request access at {hub}/{repo_id}."
            ) from error
        if status == 404:
            location = " of ".join(filter(None, [file, repo_id, revision and f"revision {revision}"]))
            raise FileNotFoundError(
                f"{location} is not on the Hub ({hub}). Check the name; for a private repository, type: hf auth login. "
                f"For a folder on this machine, pass './{repo_id}'."
            ) from error
        reason = f"it answered {status}" if status else first_line(cause)
        raise ConnectionError(f"{repo_id} failed at the Hub ({hub}): {reason}. Try again later.") from error
