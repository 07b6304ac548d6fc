"""The only module that talks to the network: a name becomes a verified local folder, and a folder goes to the Hub.

Files are kept in the Hub client's own cache, those of other servers in a small folder of labclip's. Both are verified
at every load.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from labclip._version import __version__
from labclip.io.hub._access import DEFAULT, Access, check_repo_id
from labclip.io.hub._errors import CacheError, explained
from labclip.io.hub._snapshots import WANTED, snapshot
from labclip.io.hub._web import published_folder, url_weights

__all__ = [
    "DEFAULT", "Access", "CacheError", "base_weights", "check_repo_id", "published_folder", "push_folder", "snapshot",
    "url_weights",
]  # fmt: skip

logger = logging.getLogger(__name__)


def base_weights(repo_id: str, filenames: Sequence[str], access: Access = DEFAULT) -> Path:
    """Fetch the weights of an OpenCLIP tag: the first of `filenames` that the repository has. Raises as `snapshot`."""
    from safetensors import SafetensorError, safe_open

    def first(folder: Path) -> Path:
        return next(folder / name for name in filenames if os.path.lexists(folder / name))

    def verify(folder: Path) -> None:
        try:
            if (path := first(folder)).suffix == ".safetensors":
                with safe_open(path, framework="np"):
                    pass
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error

    return first(snapshot(repo_id.rstrip("/"), access, files=filenames, verify=verify))


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
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Pass one, as save_pretrained(FOLDER) makes.")
    names = sorted(os.listdir(folder))
    wanted = [name for name in names if WANTED.fullmatch(name)]
    if not wanted:
        raise FileNotFoundError(f"{folder} holds nothing that labclip reads. Pass a folder that save_pretrained made.")
    if DEFAULT.off:
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
