"""The published matrices: from the cache, else the Hub, else the authors' pinned commit. SHA-256 verifies each load."""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labclip.io.hub._errors import CacheError, first_sentence, is_off
from labclip.io.hub._snapshots import snapshot
from labclip.io.hub._web import own_folder, save, scratch
from labclip.messages import typed

if TYPE_CHECKING:
    from labclip.io.published import Published


def published_folder(
    entry: Published,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The alignment folder of a published matrix: from the cache, else the Hub, else the authors' pinned commit.

    Each load verifies the matrix by SHA-256, whatever the source. The authors' checkpoint is converted once.

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
    from_hub = partial(snapshot, entry.hub_repo, token=token, cache_dir=cache_dir, verify=partial(_check, entry))
    home = own_folder(cache_dir) / "published"
    kept = home / f"{entry.name}-{entry.alignment}-{entry.matrix_sha256[:12]}"
    off = is_off(force_download, local_files_only)
    if not force_download:
        with suppress(OSError, ValueError):
            _check(entry, kept)
            return kept
        with suppress(OSError, ValueError):
            return from_hub(local_files_only=True)
    if off:
        raise FileNotFoundError(
            f"The matrix {entry} is not in the cache {home} and the network is off (HF_HUB_OFFLINE or "
            f"local_files_only). With a network, type: curl -LO {entry.url} ; then here: "
            f"labclip convert {entry.file} FOLDER, and pass {typed('alignment=FOLDER', '--alignment FOLDER')}."
        )
    try:
        return from_hub(force_download=force_download)
    except CacheError:
        raise
    except (OSError, ValueError) as error:
        on_hub = error
    try:
        with scratch(home) as temporary:
            _convert(entry, temporary, kept)
    except CacheError:
        raise
    except (OSError, ValueError) as error:
        kinds = (ValueError, FileNotFoundError, ConnectionError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), OSError)
        raise kind(
            f"The matrix {entry} could not be fetched, and nothing was kept. "
            f"The Hub ({entry.hub_repo}): {first_sentence(on_hub)}. "
            f"The authors ({entry.url}): {first_sentence(error)}. "
            f"Check the network and try again, or fetch that file otherwise, type: "
            f"labclip convert {entry.file} FOLDER, and pass {typed('alignment=FOLDER', '--alignment FOLDER')}."
        ) from error
    return kept


def _convert(entry: Published, temporary: Path, folder: Path) -> None:
    """Make the alignment folder of a published matrix from the authors' checkpoint.

    Raises:
        ValueError: If another file than the published one arrives.
        OSError: If nothing, or half of it, arrives.
    """
    from safetensors import SafetensorError

    from labclip.io.converting import convert_checkpoint

    checkpoint = temporary / entry.file
    # One byte more than it has shows a file that goes on, without taking it all.
    found, size = save(entry.url, checkpoint, entry.size + 1)
    if size < entry.size:
        raise ConnectionError(f"{size:,} of {entry.size:,} bytes arrived")
    if found != entry.file_sha256:
        raise ValueError(f"what arrived has the SHA-256 {found[:16]}..., not {entry.file_sha256[:16]}...")
    if folder.is_file():
        folder.unlink()
    try:
        convert_checkpoint(checkpoint).save_pretrained(folder)
    except SafetensorError as error:
        # safetensors says a full disk with an error of its own.
        raise OSError(errno.ENOSPC, str(error)) from error
    _check(entry, folder)


def _check(entry: Published, folder: Path) -> None:
    """Hold an alignment folder against what is published: the matrix by its hash, and what goes with it.

    Raises:
        ValueError: If it is anything else.
        FileNotFoundError: If it is no alignment folder.
    """
    from labclip.io.folder import load, matrix_sha256

    alignment = load(folder)
    found = matrix_sha256(alignment.fitted)
    if found != entry.matrix_sha256:
        raise ValueError(f"{folder} holds the matrix {found[:16]}..., but {entry} is {entry.matrix_sha256[:16]}....")
    for name, is_, should_be in (
        ("base", alignment.base, entry.base),
        ("logit_scale", alignment.logit_scale, entry.logit_scale),
        ("strength", alignment.strength, 1.0),
    ):
        if is_ != should_be:
            raise ValueError(f"{folder} gives {entry} the {name} {is_}, not {should_be}.")
