"""Resolves a name, once, in this order: a known name, a folder, MODEL:TAG, a repository on the Hub.

Loads no OpenCLIP, unless it is asked for one of its models: an alignment alone is there in a moment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labclip.base import Base
from labclip.checks import describe, suggestion
from labclip.files import CONFIG, OPENCLIP_CONFIG, is_alignment_folder, read_json_object, weights_in
from labclip.io.published import Published, find_entry, is_known, list_pretrained
from labclip.packages import EMBEDDED, embedded_folder

if TYPE_CHECKING:
    from labclip.alignment import Alignment
    from labclip.io.hub import Access


@dataclass(frozen=True)
class Source:
    """The base and alignment that a name stands for."""

    name: str
    folder: Path | None = None  # of an OpenCLIP model
    base: Base | None = None  # by OpenCLIP's name and tag: that of "MODEL:TAG" or of the alignment; None where unknown
    own: Alignment | None = None  # of a folder
    entry: Published | None = None  # a published matrix, which is fetched only when it is asked for

    def alignment(self, access: Access) -> Alignment | None:
        """Its alignment, from the cache or fetched; None for a base alone."""
        from labclip.io.hub import published_alignment  # torch, which a first look at a name does without

        return self.own if self.entry is None else published_alignment(self.entry, access)


def resolve(name_or_path: str | Path, access: Access | None) -> Source:
    """Resolve a name once: a known name, then an existing path, then "MODEL:TAG", then a Hub repository.

    "./name", "local-dir:name" and `Path` objects are always paths, "hf-hub:org/name" is always a repository. Without
    `access` nothing is fetched or imported: what may be a base or a repository is not looked up.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"The name is {describe(name_or_path)}. Pass a str or Path; a loaded model goes in as base=.")
    name = str(name_or_path)
    known = ", ".join(list_pretrained())
    if isinstance(name_or_path, str):
        schema, _, rest = name.partition(":")  # as OpenCLIP has them
        if schema == "local-dir":
            return resolve(Path(rest), access)
        if schema == "hf-hub":
            return _fetched(name, rest, access)
        if name == EMBEDDED:
            return _held(name, embedded_folder(), access)
        if entry := find_entry(name):
            return Source(name, entry=entry, base=entry.base)
    path = Path(name).expanduser()
    if name.strip() and os.path.isdir(path):  # pathlib's raises for a name that is too long
        return _held(name, path, access)
    if os.path.isfile(path):
        raise ValueError(
            f"{name} is a file, not a folder that labclip made. A torch checkpoint becomes one with: labclip convert "
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
        return _fetched(name, name, access)
    here = [config.parent.name for config in (*Path().glob(f"*/{CONFIG}"), *Path().glob(f"*/{OPENCLIP_CONFIG}"))]
    raise ValueError(
        f"{name!r:.120} is not a known name, a folder, MODEL:TAG or a Hub repository 'org/name'."
        f"{suggestion(name, [*list_pretrained(), *here])} Known names: {known}."
    )


def _held(name: str, folder: Path, access: Access | None) -> Source:
    """The source in a folder: a base, an alignment, or both; with neither, the error says so."""
    if access is None:
        return Source(name)
    from labclip.io.folder import load

    has_base = (folder / OPENCLIP_CONFIG).is_file() and weights_in(folder) is not None
    own = None if has_base and not is_alignment_folder(folder) else load(folder)
    return Source(name, folder if has_base else None, None if own is None else own.base, own)


def _fetched(name: str, repo_id: str, access: Access | None) -> Source:
    if repo_id.startswith("openai/clip-vit-"):  # which hold a model of transformers alone
        raise ValueError(
            f"{repo_id} is transformers' name of OpenAI's weights. Pass OpenCLIP's, for example 'ViT-B-32', which "
            f"loads a matrix with them, or 'ViT-L-14-336-quickgelu:openai'. A model that transformers loaded takes a "
            f"matrix with labclip.fold(model, alignment)."
        )
    if is_known(repo_id.replace("/", "-")):
        raise ValueError(f"{repo_id} is OpenAI's name. Pass {repo_id.replace('/', '-')!r}.")
    if access is None:
        return Source(name)
    from labclip.io.hub import snapshot

    return snapshot(repo_id, access, read=lambda folder: _held(name, folder, access))


def load_alignment(name_or_path: str | Path, access: Access) -> Alignment:
    """`Alignment.from_pretrained`."""
    source = resolve(name_or_path, access)
    if (alignment := source.alignment(access)) is None:
        raise ValueError(
            f"{source.name} is a base, not an alignment. Known alignments: {', '.join(list_pretrained())}."
        )
    return alignment


def name_of(given: Any) -> str | None:
    """The name of a model or alignment as it was given; of a folder the last part, never where it lay."""
    name = given if isinstance(given, str | Path) else getattr(given, "name_or_path", None)
    if not name or not isinstance(name, str | Path):
        return None
    return Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else str(name)


def form_of(name: str | Path) -> str | None:
    """The form of a folder of transformers or an ONNX file, as `fold` calls it; None for any other name."""
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
    """The base of an OpenCLIP name and tag, with the activation that the tag's weights were trained with.

    `force_quick_gelu` is for a weights file in the tag's place. ValueError if OpenCLIP knows no such name or tag, or
    the tag's weights do not run with the name's activation.
    """
    import open_clip

    name = model_name.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"OpenCLIP knows no model {model_name!r}.{suggestion(name, open_clip.list_models())}")
    quick_gelu = force_quick_gelu or bool(config.get("quick_gelu", False))
    tag_config = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag_config and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"{pretrained!r} is neither a tag of {name} nor a weights file. Its tags: {tags}.")
    if tag_config:
        needed = bool(tag_config.get("quick_gelu", False))
        if quick_gelu and not needed:
            raise ValueError(
                f"The weights {pretrained!r} were trained with GELU, but {model_name} runs QuickGELU. "
                f"Pass {name.removesuffix('-quickgelu')!r}."
            )
        quick_gelu = needed
    return Base(name, pretrained, quick_gelu=quick_gelu, embed_dim=config["embed_dim"])
