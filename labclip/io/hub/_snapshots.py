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
from functools import partial
from pathlib import Path
from typing import Any

from labclip._version import __version__
from labclip.files import hash_of
from labclip.io.hub._access import DEFAULT, Access, check_repo_id
from labclip.io.hub._errors import cache_errors, explained

logger = logging.getLogger(__name__)

# Weights that hold only numbers, configs, the card and what tokenizers are made of; never a pickle or a script.
WANTED = re.compile(r"(open_clip_)?model\.safetensors|README\.md|[\w-][\w.-]*\.(json|txt|model)", re.ASCII)
_CONFIGS = ("config.json", "open_clip_config.json")  # every folder that labclip opens has one of them
_COMMIT = re.compile(r"[0-9A-Za-z]{7,64}")
Verify = Callable[[Path], object]
"""Looks at a folder and raises ValueError or FileNotFoundError where it is not what it should be."""
_WHO: dict[str, Any] = {"library_name": "labclip", "library_version": __version__}


def snapshot(
    repo_id: str, access: Access = DEFAULT, *, files: Sequence[str] | None = None, verify: Verify | None = None
) -> Path:
    """Fetch a Hub repository's files into the cache, or find them there; without a network those fetched last.

    Args:
        repo_id: "org/name".
        access: How the Hub and its cache may be used.
        files: Only the first of these that the repository has; None is every weights, config, card and tokenizer file.
        verify: Raises ValueError or FileNotFoundError for a folder that is not sound; then nothing is kept.

    Raises:
        ValueError: If `repo_id` is none, or what came is not sound.
        FileNotFoundError: If the repository or revision does not exist, or is not cached and the network is off.
        PermissionError: If the Hub refuses it.
        OSError: If it can't be fetched (`ConnectionError`), or the cache can't be written.
    """
    from huggingface_hub import scan_cache_dir

    check_repo_id(repo_id)
    revision, cache, off = access.checked_revision(), access.hub_cache, access.off
    verified = partial(_verified, repo_id, verify or (lambda folder: None))
    with cache_errors(cache):
        cached = _cached(repo_id, revision, cache, files or _CONFIGS)
        if off:
            if cached is None:
                raise _not_cached(repo_id, revision, files, cache)
            return verified(cached)
        try:
            commit, listed = _list_files(repo_id, revision, access)
        except (ConnectionError, PermissionError) as error:
            if cached is None or access.force_download:
                raise
            logger.warning("Taking %s from the cache: %s", repo_id, error)
            return verified(cached)
        first = [name for name in files or () if name in listed][:1]
        names = first if files else sorted(filter(WANTED.fullmatch, listed))
        if not names:
            lacks = " or ".join(files) if files else "model.safetensors and config.json"
            raise FileNotFoundError(
                f"{repo_id} on the Hub lacks {lacks}. Check the name, or pass a folder on this machine."
            )
        known = _cached(repo_id, commit, cache, listed)
        if known is not None and not access.force_download and all((known / name).is_file() for name in names):
            with suppress(ValueError, FileNotFoundError):
                return _named(repo_id, revision, verified(known), names[0], access)
        try:
            folder = verified(_download(repo_id, commit, names, access))
        except (ValueError, FileNotFoundError):
            if known is None:
                with suppress(OSError, ValueError):
                    scan_cache_dir(cache).delete_revisions(commit).execute()
            raise
        return _named(repo_id, revision, folder, names[0], access)


def _not_cached(repo_id: str, revision: str, files: Sequence[str] | None, cache: Path) -> FileNotFoundError:
    command = f"hf download {repo_id}" + (f" {files[0]}" if files else "")
    command += "" if revision == "main" else f" --revision {revision}"
    return FileNotFoundError(
        f"{repo_id} is not in the cache {cache} and the network is off (HF_HUB_OFFLINE or local_files_only). "
        f"With a network, type: {command} --cache-dir {cache}"
    )


def _cached(repo_id: str, revision: str, cache: Path, names: Sequence[str]) -> Path | None:
    """The snapshot in which the cache has one of these files, or None. A branch is what it was when last fetched."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision) for name in names)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def _verified(repo_id: str, verify: Verify, folder: Path) -> Path:
    """The folder, if it is sound; else an error that names the repository instead of a place in the cache."""
    try:
        verify(folder)
    except (ValueError, FileNotFoundError) as error:
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        what = str(error).replace(str(folder), repo_id)
        raise kind(
            f"The Hub's {repo_id} is not sound: {what} It was not loaded; where there is a network it is fetched again."
        ) from error
    return folder


def _list_files(repo_id: str, revision: str, access: Access) -> tuple[str, list[str]]:
    """The commit a revision is now, and the names of its files."""
    from huggingface_hub import HfApi, constants

    with explained(repo_id, revision):
        # The client's own snapshot_download asks this without a timeout, and waits for ever on a server that is silent.
        api, patience = HfApi(token=access.token, **_WHO), constants.HF_HUB_ETAG_TIMEOUT
        info = api.model_info(repo_id, revision=revision, timeout=patience)
        if info.sha is None or info.siblings is None or not _COMMIT.fullmatch(info.sha):
            raise ValueError(f"commit {info.sha!r}")
        return info.sha, [sibling.rfilename for sibling in info.siblings]


def _download(repo_id: str, commit: str, names: Sequence[str], access: Access) -> Path:
    """Fetch files into the client's cache, and again those that are not what the Hub says they are."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    for name in names:
        with explained(repo_id, commit):
            # The client repeats a question that gets no answer for minutes; asked once, it fails in seconds.
            url, patience = hf_hub_url(repo_id, name, revision=commit), constants.HF_HUB_ETAG_TIMEOUT
            etag = get_hf_file_metadata(url, token=access.token, timeout=patience).etag
            for again in (access.force_download, True):
                path = _get(repo_id, name, commit, access, force_download=again, **_patience())
                if is_intact := _is_named_by(path, etag or ""):
                    break
        if not is_intact:
            for wrong in (path.resolve(), path):
                wrong.unlink(missing_ok=True)
            raise ValueError(f"The Hub's {repo_id} is not sound: {name} came with another hash than the Hub names.")
    return path.parent


def _get(repo_id: str, name: str, revision: str, access: Access, **more: Any) -> Path:
    from huggingface_hub import constants, hf_hub_download

    patience = constants.HF_HUB_ETAG_TIMEOUT
    more |= {"cache_dir": access.hub_cache, "token": access.token, "etag_timeout": patience, **_WHO}
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision, **more))
    except OSError as error:
        # "Of another size". Clients before 1.4 continue what they have, a wrong answer too, unless told to start again.
        if type(error) is not OSError or error.errno or more.get("force_download"):
            raise
        return Path(hf_hub_download(repo_id, name, revision=revision, **more | {"force_download": True}))


def _is_named_by(path: Path, etag: str) -> bool:
    """Whether a file is the one that an etag of the Hub names: by SHA-256, or as Git does; True for any other etag."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    return bool(hash_of(path, into=None if len(etag) == 64 else git).hexdigest() == etag)


def _named(repo_id: str, revision: str, folder: Path, name: str, access: Access) -> Path:
    """Let the client note that a branch or tag is this snapshot; a cache that can't be written keeps its older note."""
    if _cached(repo_id, revision, access.hub_cache, [name]) != folder:
        with suppress(OSError), explained(repo_id, revision):
            _get(repo_id, name, revision, access)
    return folder


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
                raise ConnectionError("the connection broke off again and again")
            return super().update(n)

    # Clients before 1.1 take no bar: they ask a server that falls silent in every answer again and again.
    return {"tqdm_class": Patience} if "tqdm_class" in inspect.signature(hf_hub_download).parameters else {}
