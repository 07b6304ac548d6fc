"""A Hub repository's files in the Hub client's own cache: listed, fetched beside it, verified, moved in."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.io.hub._errors import check_repo_id, check_revision, explained, is_off, not_cached, verified
from labclip.io.hub._staging import (
    Verify,
    cache_errors,
    check_blobs,
    locked,
    publish,
    scratch,
    seed,
    snapshot_folder,
    write_ref,
)

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9A-Za-z]{7,64}")


def fetch(
    repo_id: str,
    *,
    choose: Callable[[Sequence[str]], list[str]],
    verify: Verify,
    wanted: Sequence[str] = (),
    revision: str | None = None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
) -> Path:
    """Bring a revision's chosen files into the cache, or find them there.

    Args:
        repo_id: "org/name".
        choose: Which of the repository's files, by name.
        verify: Raises ValueError or FileNotFoundError for a folder that is not sound; nothing of it is kept then.
        wanted: The names to tell the user when there are none.
        revision: A branch, tag or commit; None is "main".
        token: Hub token; None takes the stored one.
        cache_dir: The cache; None takes the Hub's own.
        force_download: Whether to fetch again what is cached.
        local_files_only: Whether to use the cache alone.

    Returns:
        The snapshot's folder in the cache.
    """
    from huggingface_hub import constants

    check_repo_id(repo_id)
    revision = check_revision(revision)
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    with cache_errors(cache):
        cached = snapshot_folder(repo, revision)
        if cached is not None and not choose(os.listdir(cached)):
            cached = None
    if is_off(force_download, local_files_only):
        if cached is None:
            raise not_cached(repo_id, revision, wanted, cache)
        return verified(repo_id, cached, verify, kept=True)
    try:
        commit, names = _list_files(repo_id, revision, token)
    except (ConnectionError, PermissionError) as error:
        if cached is None or force_download:
            raise
        logger.warning("Taking %s from the cache: %s", repo_id, error)
        return verified(repo_id, cached, verify, kept=True)
    names = choose(names)
    if not names:
        lacks = " or ".join(wanted) or "model.safetensors and config.json"
        raise FileNotFoundError(
            f"{repo_id} on the Hub lacks {lacks}. Check the name, or pass a folder on this machine."
        )
    folder = repo / "snapshots" / commit

    def is_complete() -> bool:
        return not force_download and all((folder / name).is_file() for name in names)

    if is_complete():
        verified(repo_id, folder, verify, kept=True)
    else:
        with scratch(cache) as temporary, locked(cache, repo.name):
            # Another process may have fetched it while this one waited.
            if not is_complete():
                _download(repo_id, commit, names, repo, temporary, verify, token=token, force=force_download)
    write_ref(repo, revision, commit)
    return folder


def _list_files(repo_id: str, revision: str, token: str | bool | None) -> tuple[str, list[str]]:
    """The commit a revision is now, and the names of its files."""
    from huggingface_hub import HfApi, constants

    with explained(repo_id, revision):
        # The client's own snapshot_download asks this without a timeout, and waits for ever on a server that is silent.
        info = HfApi(token=token, library_name="labclip", library_version=__version__).model_info(
            repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        if info.sha is None or info.siblings is None or not _COMMIT.fullmatch(info.sha):
            raise ValueError(f"commit {info.sha!r}")
        return info.sha, [sibling.rfilename for sibling in info.siblings]


def _download(
    repo_id: str,
    commit: str,
    names: Sequence[str],
    repo: Path,
    temporary: Path,
    verify: Verify,
    *,
    token: str | bool | None,
    force: bool,
) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    staged = temporary / repo.name
    if not force:
        seed(repo, staged)
    for name in names:
        with explained(repo_id, commit):
            # The client repeats a question that gets no answer for minutes; asked once, it fails in seconds.
            get_hf_file_metadata(
                hf_hub_url(repo_id, name, revision=commit), token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
            hf_hub_download(
                repo_id, name, revision=commit, cache_dir=temporary, token=token,
                library_name="labclip", library_version=__version__, **_patience(),
            )  # fmt: skip

    def check(folder: Path) -> None:
        check_blobs(staged)
        verify(folder)

    verified(repo_id, staged / "snapshots" / commit, check, kept=False)
    publish(staged, repo, commit, replace=force)


def _patience() -> dict[str, Any]:
    """A progress bar that gives up where the client does not: on a server that breaks off and starts anew for ever."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Patience(tqdm):
        breaks = 0

        def update(self, n: float | None = 1) -> bool | None:
            if n is not None and n < 0:
                self.breaks += 1
            if self.breaks > 2:
                raise OSError("the connection broke off again and again")
            return super().update(n)

    # Clients before 1.1 take no bar; they do not start anew either.
    return {"tqdm_class": Patience} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
