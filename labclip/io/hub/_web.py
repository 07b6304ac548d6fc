"""Files at plain web addresses: weights of OpenCLIP and the published matrices, streamed, capped, verified by hash."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from labclip._version import __version__
from labclip.io.hub._access import DEFAULT, Access
from labclip.io.hub._errors import CacheError, cache_errors, first_sentence
from labclip.io.hub._snapshots import snapshot
from labclip.io.published import Published

MAX_WEIGHTS_BYTES = 20_000_000_000
"""Cap on a weights file: the largest that OpenCLIP names at an address has 3.5 GB."""

_STALE_SECONDS = 2 * 24 * 3600


def url_weights(url: str, access: Access = DEFAULT) -> Path:
    """Fetch the weights of an OpenCLIP tag that lie at a web address, not on the Hub; raises as `snapshot` does.

    The file is verified by the SHA-256 in the address, whole or by its first digits, where it has one.
    """
    home, off, name = access.own_cache / "weights", access.off, url.rsplit("/", 1)[-1]
    # OpenAI's addresses have the hash as a folder, OpenCLIP's own eight digits of it at the file's end.
    digest = re.search(r"/([0-9a-f]{64})/[^/]+$", url) or re.search(r"-([0-9a-f]{8})\.\w+$", url)
    kept = home / (hashlib.sha256(url.encode()).hexdigest()[:12] + "-" + name)
    if kept.is_file() and not access.force_download:
        return kept
    if off:
        raise FileNotFoundError(
            f"{name} is not in the cache {home} and the network is off (HF_HUB_OFFLINE or local_files_only). "
            f"With a network, type: curl -L --create-dirs -o {kept} {url}"
        )
    try:
        with scratch(home) as temporary:
            found, _ = save(url, temporary / name, MAX_WEIGHTS_BYTES)
            if digest and not found.startswith(digest[1]):
                raise ValueError(f"what arrived has the SHA-256 {found[:16]}..., not {digest[1][:16]}...")
            (temporary / name).replace(kept)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise type(error)(f"{url} could not be fetched, and nothing was kept: {error}. Try again later.") from error
    return kept


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A temporary folder in `home`; those that killed processes left there are removed after two days."""
    with cache_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        for left in home.glob(".labclip-*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".labclip-", dir=home, ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)


def save(url: str, path: Path, limit: int) -> tuple[str, int]:
    """Write at most `limit` bytes of a web address to a file; their SHA-256, and how many there were."""
    found, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in _stream(url, limit):
            found.update(chunk)
            size += file.write(chunk)
    return found.hexdigest(), size


def _stream(url: str, limit: int) -> Iterator[bytes]:
    """At most `limit` bytes of a web address; every failure is an OSError that says what it was."""
    from huggingface_hub import constants

    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is not a web address; LABCLIP_AUTHORS_ENDPOINT must begin with https://")
    request = urllib.request.Request(url, headers={"User-Agent": f"labclip/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            while limit > 0 and (chunk := response.read(min(limit, 1 << 16))):
                limit -= len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        kind = FileNotFoundError if error.code in (404, 410) else ConnectionError
        raise kind(f"it answered {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ConnectionError(f"it can't be reached ({reason})") from error


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
    otherwise = f"type: labclip convert {entry.file} FOLDER, and pass alignment=FOLDER."
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
            f"The matrix {entry} could not be fetched. {first_sentence(on_hub)}. "
            f"The authors ({entry.url}): {first_sentence(error)}. "
            f"Check the network and try again, or fetch that file otherwise, {otherwise}"
        ) from error
    return kept


def _convert(entry: Published, temporary: Path, folder: Path) -> None:
    """Make the alignment folder of a published matrix from the authors' checkpoint."""
    from safetensors import SafetensorError

    from labclip.io.converting import convert_checkpoint

    checkpoint = temporary / entry.file
    # One byte more than expected shows a longer file without fetching all of it.
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
