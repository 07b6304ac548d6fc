"""How the Hub and its cache may be used, and the names that are refused before any call."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class Access:
    """What every `from_pretrained` takes by these names, and means by them."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @property
    def off(self) -> bool:
        """Whether the network must not be used.

        Raises:
            ValueError: If a download is forced at the same time.
        """
        from huggingface_hub import constants

        # The client reads the variable on import only; here setting it later counts too.
        variable = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
        off = self.local_files_only or constants.HF_HUB_OFFLINE or variable
        if off and self.force_download:
            which = "local_files_only=True" if self.local_files_only else "HF_HUB_OFFLINE=1"
            raise ValueError(f"force_download=True needs the network, which {which} forbids. Leave one of them out.")
        return off

    @property
    def hub_cache(self) -> Path:
        """The Hub client's own cache."""
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser().absolute()

    @property
    def own_cache(self) -> Path:
        """Where files are kept that do not come from the Hub."""
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_ASSETS_CACHE).expanduser().absolute() / "labclip"

    def checked_revision(self) -> str:
        """The revision, "main" for None; ValueError if it can't be a branch, tag or commit."""
        name = "main" if self.revision is None else self.revision
        if not isinstance(name, str) or not _REVISION.fullmatch(name) or ".." in name or "//" in name:
            raise ValueError(f"{name!r} is not a revision. Pass a branch, tag or commit, for example 'main'.")
        return name


DEFAULT = Access()


def check_repo_id(repo_id: str) -> None:
    """Refuse with ValueError what is not "org/name", before it becomes part of a path or address."""
    sound = isinstance(repo_id, str) and _REPO_ID.fullmatch(repo_id) and not re.search(r"\.\.|--|[.-](/|$)", repo_id)
    if not sound:
        raise ValueError(
            f"{repo_id!r:.120} is not a Hub repository. One looks like 'org/name', of letters, digits, '-', '_', '.'. "
            f"For a folder on this machine, pass its path, for example './name'."
        )
