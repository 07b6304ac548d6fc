"""The only module that talks to the network: a name becomes a verified local folder, and a folder goes to the Hub.

Files are kept in the Hub client's own cache, those of other servers in a small folder of labclip's. Both are verified at
every load.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labclip._version import __version__
from labclip.io.hub import _authors, _web
from labclip.io.hub._errors import CacheError, Verify, check_repo_id, explained, is_off
from labclip.io.hub._snapshots import fetch

if TYPE_CHECKING:
    from labclip.io.published import Published

__all__ = [
    "CacheError", "base_weights", "is_off", "published_folder", "push_folder", "push_saved", "snapshot", "url_weights",
]  # fmt: skip

logger = logging.getLogger(__name__)

# Weights that hold only numbers, configs, the card and what tokenizers are made of; never a pickle or a script.
_WANTED = re.compile(r"(open_clip_)?model\.safetensors|README\.md|[\w-][\w.-]*\.(json|txt|model)", re.ASCII)


class Saveable(Protocol):
    """What can be saved to a folder: an `Alignment`, a `LABCLIP`."""

    def save_pretrained(self, folder: Path, /) -> object:
        """Save to a folder."""


def snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    verify: Verify | None = None,
) -> Path:
    """Fetch a Hub repository's weights, configs, card and tokenizer files, or take them from the cache.

    Args:
        repo_id: "org/name".
        revision: A branch, tag or commit; None is "main".
        token: Hub token; None takes the stored one.
        cache_dir: The cache; None takes the Hub's own.
        force_download: Whether to fetch again what is cached.
        local_files_only: Whether to use the cache alone, as `HF_HUB_OFFLINE=1` does.
        verify: Looks at the folder and raises ValueError or FileNotFoundError if it is not sound; then nothing is kept.

    Returns:
        The folder, in the cache. Without a network it is the one fetched last.

    Raises:
        ValueError: If `repo_id` is none, or what came is not sound.
        FileNotFoundError: If the repository or revision does not exist, or is not cached and the network is off.
        PermissionError: If the Hub refuses it.
        OSError: If it can't be fetched (`ConnectionError`), or the cache can't be written.
    """
    return fetch(
        repo_id,
        choose=lambda names: sorted(name for name in names if _WANTED.fullmatch(name)),
        verify=verify or (lambda folder: None),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
    )


def base_weights(
    hub_repo_id: str,
    filenames: Sequence[str],
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Fetch the weights of an OpenCLIP tag: the first of `filenames` that the repository has.

    Raises:
        ValueError, FileNotFoundError, PermissionError, OSError: As `snapshot` does.
    """

    def choose(names: Sequence[str]) -> list[str]:
        return [name for name in filenames if name in names][:1]

    def verify(folder: Path) -> None:
        for name in choose(os.listdir(folder)):
            if name.endswith(".safetensors"):
                _check_safetensors(folder / name)

    folder = fetch(
        hub_repo_id.rstrip("/"),
        choose=choose,
        verify=verify,
        wanted=filenames,
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
    )
    return folder / choose(os.listdir(folder))[0]


def url_weights(
    url: str,
    *,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Fetch the weights of an OpenCLIP tag that lie at a web address, not on the Hub.

    Args:
        url: The address. Where it names the file's SHA-256, whole or by its first digits, that decides.
        cache_dir: The cache; None takes the Hub's own.
        force_download: Whether to fetch again what is cached.
        local_files_only: Whether to use the cache alone, as `HF_HUB_OFFLINE=1` does.

    Raises:
        FileNotFoundError: If it is not there, or not cached and the network is off.
        ValueError: If another file arrives than the address names.
        OSError: If it can't be fetched (`ConnectionError`), or the cache can't be written.
    """
    return _web.weights(
        url, home=_assets(cache_dir) / "weights", force_download=force_download, local_files_only=local_files_only
    )


def published_folder(
    entry: Published,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The alignment folder of a published matrix: from the cache, else the Hub, else the authors' pinned commit.

    Whatever the source, the SHA-256 of the matrix decides. The authors' checkpoint is converted once.

    Args:
        entry: A row of `labclip.io.published.PUBLISHED`.
        token: Hub token; None takes the stored one. The authors' server never sees it.
        cache_dir: The cache; None takes the Hub's own.
        force_download: Whether to fetch again what is cached.
        local_files_only: Whether to use the cache alone, as `HF_HUB_OFFLINE=1` does.

    Raises:
        FileNotFoundError: If it is not cached and the network is off, or neither source has it.
        ValueError: If what the authors' address serves is not that matrix.
        OSError: If neither source can be reached (`ConnectionError`), or the cache can't be written.
    """
    return _authors.folder(
        entry,
        partial(snapshot, entry.hub_repo, token=token, cache_dir=cache_dir),
        home=_assets(cache_dir) / "published",
        force_download=force_download,
        local_files_only=local_files_only,
    )


def _assets(cache_dir: str | Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_ASSETS_CACHE).expanduser().absolute() / "labclip"


def push_saved(
    saveable: Saveable,
    repo_id: str,
    *,
    commit_message: str = "Upload with labclip",
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Save to a temporary folder and upload that: `push_folder` for what is in memory."""
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
        saveable.save_pretrained(Path(folder))
        return push_folder(
            folder, repo_id, commit_message=commit_message, private=private, token=token, create_pr=create_pr
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Upload with labclip",
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to the Hub, into a repository that is made if it does not exist.

    Only what `snapshot` fetches goes up: weights, configs, the card, tokenizer files. Whatever else lies there stays.

    Args:
        folder: The folder.
        repo_id: "org/name".
        commit_message: The commit's subject.
        private: Whether a new repository is private; None takes the organisation's default.
        token: Hub token; None takes the stored one.
        create_pr: Whether to open a pull request instead of committing.

    Returns:
        The URL of the commit, or of the pull request.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing in it that labclip reads.
        ValueError: If `repo_id` is none.
        PermissionError: If the Hub refuses the token or the repository.
        OSError: If the network is off (`HF_HUB_OFFLINE`), or the Hub can't be reached or does not take it.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass one, as save_pretrained(FOLDER) makes.")
    names = sorted(os.listdir(folder))
    wanted = [name for name in names if _WANTED.fullmatch(name)]
    if not wanted:
        raise FileNotFoundError(f"{folder} holds nothing that labclip reads. Pass a folder that save_pretrained made.")
    if is_off(force_download=False, local_files_only=False):
        raise ConnectionError(
            f"The network is off (HF_HUB_OFFLINE), so nothing was uploaded. "
            f"Type: HF_HUB_OFFLINE=0 labclip push {folder} {repo_id}"
        )
    if left := [name for name in names if name not in wanted]:
        logger.warning("Not uploaded, since labclip does not read it: %s", ", ".join(left))
    api = HfApi(token=token, library_name="labclip", library_version=__version__)
    with explained(repo_id, remedy=f"Try again: labclip push {folder} {repo_id}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr,
            allow_patterns=wanted,
        )  # fmt: skip
        return str(commit.pr_url or commit.commit_url)


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error
