"""The published matrices: from the cache, else the Hub, else the authors' pinned commit. SHA-256 verifies each load."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labclip.io.hub._access import DEFAULT, Access
from labclip.io.hub._errors import CacheError, first_sentence
from labclip.io.hub._snapshots import snapshot
from labclip.io.hub._web import save, scratch
from labclip.messages import typed

if TYPE_CHECKING:
    from labclip.io.published import Published


def published_folder(entry: Published, access: Access = DEFAULT) -> Path:
    """The alignment folder of a published matrix: from the cache, else the Hub, else the authors' pinned commit.

    Each load verifies the matrix by SHA-256, whatever the source. The authors' checkpoint is converted once, and their
    server never sees the token. Raises as `snapshot` does; the message names both sources.
    """
    home, off, access = access.own_cache / "published", access.off, replace(access, revision=None)
    kept = home / f"{entry.name}-{entry.alignment}-{entry.matrix_sha256[:12]}"
    check = partial(_check, entry)
    if not access.force_download:
        with suppress(OSError, ValueError):
            check(kept)
            return kept
        with suppress(OSError, ValueError):
            return snapshot(entry.hub_repo, replace(access, local_files_only=True), verify=check)
    otherwise = (
        f"type: labclip convert {entry.file} FOLDER, and pass {typed('alignment=FOLDER', '--alignment FOLDER')}."
    )
    if off:
        raise FileNotFoundError(
            f"The matrix {entry} is not in the cache {home} and the network is off (HF_HUB_OFFLINE or "
            f"local_files_only). With a network, type: curl -LO {entry.url} ; then here, {otherwise}"
        )
    try:
        return snapshot(entry.hub_repo, access, verify=check)
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
            f"Check the network and try again, or fetch that file otherwise, {otherwise}"
        ) from error
    return kept


def _convert(entry: Published, temporary: Path, folder: Path) -> None:
    """Make the alignment folder of a published matrix from the authors' checkpoint."""
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
    """Hold an alignment folder against what is published: the matrix by its hash, and what goes with it."""
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
