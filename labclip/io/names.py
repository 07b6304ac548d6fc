"""Resolve what the user typed: a known name, else a folder, else MODEL:TAG, else a repository on the Hub.

Imports OpenCLIP only for its models, so that an alignment without its base loads at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labclip.base import Base
from labclip.checks import describe, suggestion
from labclip.files import CONFIG, OPENCLIP_CONFIG, WEIGHT_FILES, is_alignment_folder, read_json_object
from labclip.io.published import Published, find_entry, is_known, list_pretrained
from labclip.packages import EMBEDDED, embedded_folder

if TYPE_CHECKING:
    from labclip.alignment import Alignment
    from labclip.io.hub import Access


@dataclass(frozen=True)
class Source:
    """The base and the alignment that a name stands for."""

    name: str  # as the user typed it
    folder: Path | None = None  # of the base
    base: Base | None = None  # from "MODEL:TAG" or the alignment's record
    saved_alignment: Alignment | None = None  # in the folder
    entry: Published | None = None  # of a published matrix, which is downloaded only when `alignment` is called

    def alignment(self, access: Access) -> Alignment | None:
        """The alignment, cached or downloaded; None for a base without one."""
        from labclip.io.hub import published_alignment  # here, since it imports torch

        return self.saved_alignment if self.entry is None else published_alignment(self.entry, access)


def resolve(name_or_path: str | Path, access: Access | None) -> Source:
    """Resolve a name: a known name, else an existing path, else "MODEL:TAG", else a Hub repository.

    "./name", "local-dir:name" and `Path` objects are always paths; "hf-hub:org/name" is always a repository. Without
    `access` nothing is downloaded or imported, so a folder, "MODEL:TAG" or repository is not opened.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"The name is {describe(name_or_path)}. Pass a str or Path; pass a loaded model as base=.")
    name = str(name_or_path)
    known = ", ".join(list_pretrained())
    if isinstance(name_or_path, str):
        schema, _, rest = name.partition(":")  # OpenCLIP's schemas
        if schema == "local-dir":
            return resolve(Path(rest), access)
        if schema == "hf-hub":
            return _open_repository(name, rest, access)
        if name == EMBEDDED:
            return _open_folder(name, embedded_folder(), access)
        if entry := find_entry(name):
            return Source(name, entry=entry, base=entry.base)
    path = Path(name).expanduser()
    if name.strip() and os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return _open_folder(name, path, access)
    if os.path.isfile(path):
        raise ValueError(
            f"{name} is a file, not a folder that labclip made. To convert a torch checkpoint, type: labclip convert "
            f"{path} FOLDER"
        )
    if isinstance(name_or_path, Path) or name.startswith((".", "~", "/")) or path.is_absolute():
        raise FileNotFoundError(
            f"There is no folder {name}. Pass a folder that labclip made, or a known name: {known}."
        )
    model, colon, tag = name.partition(":")
    if colon and "/" not in model and "://" not in name:
        return Source(name, base=named_base(model, tag) if access else None)
    if "/" in name:
        return _open_repository(name, name, access)
    folders = [config.parent.name for config in (*Path().glob(f"*/{CONFIG}"), *Path().glob(f"*/{OPENCLIP_CONFIG}"))]
    raise ValueError(
        f"{name!r:.120} is not a known name, a folder, MODEL:TAG or a Hub repository 'org/name'."
        f"{suggestion(name, [*list_pretrained(), *folders])} Known names: {known}."
    )


def _open_folder(name: str, folder: Path, access: Access | None) -> Source:
    """The base, the alignment or both in a folder; raises as `load` does if it has neither."""
    if access is None:
        return Source(name)
    from labclip.io.folder import load

    has_base = (folder / OPENCLIP_CONFIG).is_file() and any((folder / file).is_file() for file in WEIGHT_FILES)
    if has_base and not is_alignment_folder(folder):
        return Source(name, folder)
    alignment = load(folder)
    is_of_embedded = alignment.base is not None and alignment.base.model == EMBEDDED
    base_folder = folder if has_base else embedded_folder() if is_of_embedded else None
    return Source(name, base_folder, alignment.base, alignment)


def _open_repository(name: str, repo_id: str, access: Access | None) -> Source:
    """The base, the alignment or both in a Hub repository."""
    if repo_id.startswith("openai/clip-vit-"):  # these hold transformers models only
        raise ValueError(
            f"{repo_id} is transformers' name for OpenAI's weights. Pass OpenCLIP's, for example 'ViT-B-32', which "
            f"loads a matrix with them, or 'ViT-L-14-336-quickgelu:openai'. To merge a matrix into a model that "
            f"transformers loaded, call labclip.fold(model, alignment)."
        )
    if access is None:
        return Source(name)
    from labclip.io.hub import snapshot

    return snapshot(repo_id, access, read=lambda folder: _open_folder(name, folder, access))


def load_alignment(name_or_path: str | Path, access: Access) -> Alignment:
    """Load an alignment; see `Alignment.from_pretrained`."""
    source = resolve(name_or_path, access)
    if (alignment := source.alignment(access)) is None:
        raise ValueError(
            f"{source.name} is a base, not an alignment. Known alignments: {', '.join(list_pretrained())}."
        )
    return alignment


def name_of(model: Any) -> str | None:
    """The name of a model or alignment that is given by name, for records; of a path only the last part."""
    name = model if isinstance(model, str | Path) else getattr(model, "name_or_path", None)
    if not name or not isinstance(name, str | Path):
        return None
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else str(name)


def form_of(name: str | Path) -> str | None:
    """The form of a name: "transformers" for a folder of transformers, "onnx" for an ONNX file, else None."""
    path = Path(name).expanduser()
    if is_known(name):
        return None
    if path.suffix == ".onnx" and path.is_file():
        return "onnx"
    try:
        return "transformers" if "model_type" in read_json_object(path / CONFIG) else None
    except (OSError, ValueError):
        return None


def named_base(model_name: str, pretrained: str, *, force_quick_gelu: bool = False) -> Base:
    """The record of an OpenCLIP name and tag, with the activation that the tag's weights were trained with.

    `pretrained` may be a weights file instead of a tag; `force_quick_gelu` says that these were trained with QuickGELU.
    Raises ValueError if OpenCLIP has no such name or tag, or the name's activation is not that of the tag's weights.
    """
    import open_clip

    name = model_name.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"OpenCLIP has no model {model_name!r}.{suggestion(name, open_clip.list_models())}")
    quick_gelu = force_quick_gelu or bool(config.get("quick_gelu", False))
    tag_config = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag_config and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"{pretrained!r} is neither a tag of {name} nor a weights file. Its tags: {tags}.")
    if tag_config:
        trained_with_quick_gelu = bool(tag_config.get("quick_gelu", False))
        if quick_gelu and not trained_with_quick_gelu:
            raise ValueError(
                f"The weights {pretrained!r} were trained with GELU, but {model_name} runs QuickGELU. "
                f"Pass {name.removesuffix('-quickgelu')!r}."
            )
        quick_gelu = trained_with_quick_gelu
    return Base(name, pretrained, quick_gelu=quick_gelu, embed_dim=config["embed_dim"])
