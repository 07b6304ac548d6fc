"""A Hub repository's files in the Hub client's own cache, through the client's public functions, verified at each load.

Files are fetched by commit, and the branch is named last: a failed update leaves the name on the older snapshot.
Nothing is deleted that this call did not fetch, as the cache is shared with whatever else uses the Hub.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.io.hub._errors import (
    Verify,
    cache_errors,
    check_repo_id,
    check_revision,
    explained,
    is_off,
    not_cached,
    unsound,
)

logger = logging.getLogger(__name__)

# Weights that hold only numbers, configs, the card and what tokenizers are made of; never a pickle or a script.
WANTED = re.compile(r"(open_clip_)?model\.safetensors|README\.md|[\w-][\w.-]*\.(json|txt|model)", re.ASCII)
_CONFIGS = ("config.json", "open_clip_config.json")  # every folder that labclip opens has one of them
_COMMIT = re.compile(r"[0-9A-Za-z]{7,64}")
_WHO: dict[str, Any] = {"library_name": "labclip", "library_version": __version__}


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
        choose=lambda names: sorted(name for name in names if WANTED.fullmatch(name)),
        verify=verify or (lambda folder: None),
        wanted=_CONFIGS,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
    )


def fetch(
    repo_id: str,
    *,
    choose: Callable[[Sequence[str]], list[str]],
    verify: Verify,
    wanted: Sequence[str],
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
        verify: Raises ValueError or FileNotFoundError for a folder that is not sound.
        wanted: The files one of which there must be.
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
    off = is_off(force_download, local_files_only)
    with cache_errors(cache):
        cached = _cached(repo_id, revision, cache, wanted)
        if off and cached is None:
            raise not_cached(repo_id, revision, "" if wanted is _CONFIGS else wanted[0], cache)
        if off and cached is not None:
            return _verified(repo_id, cached, verify)
        try:
            commit, listed = _list_files(repo_id, revision, token)
        except (ConnectionError, PermissionError) as error:
            if cached is None or force_download:
                raise
            logger.warning("Taking %s from the cache: %s", repo_id, error)
            return _verified(repo_id, cached, verify)
        if not (names := choose(listed)):
            lacks = "model.safetensors and config.json" if wanted is _CONFIGS else " or ".join(wanted)
            raise FileNotFoundError(
                f"{repo_id} on the Hub lacks {lacks}. Check the name, or pass a folder on this machine."
            )
        known = _cached(repo_id, commit, cache, listed)
        if known is not None and not force_download and all((known / name).is_file() for name in names):
            with suppress(ValueError, FileNotFoundError):
                verify(known)
                return _named(repo_id, revision, known, names[0], cache, token)
        try:
            folder = _download(repo_id, commit, names, cache, token=token, force=force_download)
            _verified(repo_id, folder, verify)
        except (ValueError, FileNotFoundError):
            if known is None:
                _remove(repo_id, commit, cache)
            raise
        return _named(repo_id, revision, folder, names[0], cache, token)


def _cached(repo_id: str, revision: str, cache: Path, names: Sequence[str]) -> Path | None:
    """The snapshot in which the cache has one of these files, or None. A branch is what it was when last fetched."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision) for name in names)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _verified(repo_id: str, folder: Path, verify: Verify) -> Path:
    try:
        verify(folder)
    except (ValueError, FileNotFoundError) as error:
        raise unsound(repo_id, folder, error) from error
    return folder


def _list_files(repo_id: str, revision: str, token: str | bool | None) -> tuple[str, list[str]]:
    """The commit a revision is now, and the names of its files."""
    from huggingface_hub import HfApi, constants

    with explained(repo_id, revision):
        # The client's own snapshot_download asks this without a timeout, and waits for ever on a server that is silent.
        info = HfApi(token=token, **_WHO).model_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if info.sha is None or info.siblings is None or not _COMMIT.fullmatch(info.sha):
            raise ValueError(f"commit {info.sha!r}")
        return info.sha, [sibling.rfilename for sibling in info.siblings]


def _download(
    repo_id: str, commit: str, names: Sequence[str], cache: Path, *, token: str | bool | None, force: bool
) -> Path:
    """Fetch files into the client's cache, and again those that are not what the Hub says they are.

    Raises:
        ValueError: If another file comes than the Hub says.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    path = Path()
    for name in names:
        with explained(repo_id, commit):
            # The client repeats a question that gets no answer for minutes; asked once, it fails in seconds.
            url, patience = hf_hub_url(repo_id, name, revision=commit), constants.HF_HUB_ETAG_TIMEOUT
            etag = get_hf_file_metadata(url, token=token, timeout=patience).etag
            for again in (force, True):
                path = Path(
                    hf_hub_download(
                        repo_id, name, revision=commit, cache_dir=cache, token=token, force_download=again,
                        etag_timeout=patience, **_WHO, **_patience(),
                    )
                )  # fmt: skip
                if is_intact := _is_named_by(path, etag or ""):
                    break
        if not is_intact:
            for wrong in (path.resolve(), path):
                wrong.unlink(missing_ok=True)
            raise ValueError(f"The Hub's {repo_id} is not sound: {name} came with another hash than the Hub names.")
    return path.parent


def _is_named_by(path: Path, etag: str) -> bool:
    """Whether a file is the one that an etag of the Hub names: by SHA-256, or as Git does; True for any other etag."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    found = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest() == etag


def _named(repo_id: str, revision: str, folder: Path, name: str, cache: Path, token: str | bool | None) -> Path:
    """Let the client note that a branch or tag is this snapshot; a cache that can't be written keeps its older note."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    noted = try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision)
    if not isinstance(noted, str) or Path(noted).parent != folder:
        with suppress(OSError), explained(repo_id, revision):
            hf_hub_download(
                repo_id, name, revision=revision, cache_dir=cache, token=token,
                etag_timeout=constants.HF_HUB_ETAG_TIMEOUT, **_WHO,
            )  # fmt: skip
    return folder


def _remove(repo_id: str, commit: str, cache: Path) -> None:
    """Take a snapshot out of the cache."""
    from huggingface_hub import scan_cache_dir

    with suppress(OSError, ValueError):
        scan_cache_dir(cache).delete_revisions(commit).execute()


def _patience() -> dict[str, Any]:
    """A progress bar that gives up where the client does not: on a server that breaks off and starts again for ever."""
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

    # Clients before 1.1 take no bar; they do not start again either.
    return {"tqdm_class": Patience} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
