"""Files at plain web addresses, not on the Hub: streamed, capped, held against the hash that their address names."""

from __future__ import annotations

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
from pathlib import Path

from labclip._version import __version__
from labclip.io.hub._access import DEFAULT, Access
from labclip.io.hub._errors import cache_errors

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
    """A temporary folder in `home`; what killed processes left there goes, once it is old enough to be nobody's."""
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
