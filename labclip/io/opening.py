"""A base by its name, with or without a matrix: features are the base's own, so none is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labclip.alignment import Alignment
from labclip.io.bases import check_base, check_device, is_openclip_folder, read_openclip_config
from labclip.io.folder import is_alignment_folder
from labclip.io.loading import check_same_base, load_folder, load_named, named_base
from labclip.io.names import alignment_for, resolve
from labclip.model import LABCLIP

_HUB: dict[str, Any] = {"token": None, "cache_dir": None, "force_download": False, "local_files_only": False}


def open_base(name: str, *, device: str | None = None, precision: str = "fp32") -> LABCLIP:
    """Load the base that a name means.

    Args:
        name: What `LABCLIP.from_pretrained` takes; an OpenCLIP folder or Hub repository without an alignment; or
            "MODEL:TAG", any architecture and weights of OpenCLIP, for example "ViT-B-16:laion2b_s34b_b88k".
        device: Where to put it; None is the CPU.
        precision: OpenCLIP's precision.

    Returns:
        The base, wrapped: with its matrix if it has one, else with the identity.

    Raises:
        FileNotFoundError: If the name, folder or repository does not exist.
        ValueError: If OpenCLIP does not know the model or tag, or what is there is not sound.
    """
    check_device(device)
    model, colon, tag = name.partition(":")
    if colon and "/" not in model and not model.startswith("."):
        base = named_base(model, tag)
        identity = Alignment(Alignment.identity(base.embed_dim).matrix, base=base)
        return load_named(base, identity, precision=precision, device=device, hub=_HUB)[0]
    source = resolve(name)
    folder = source.folder
    if folder is not None and is_openclip_folder(folder) and not is_alignment_folder(folder):
        dim = read_openclip_config(folder)["model_cfg"].get("embed_dim")
        if not isinstance(dim, int):
            raise ValueError(f"{folder}: model_cfg.embed_dim is {dim!r}, not a whole number.")
        return load_folder(folder, Alignment.identity(dim), precision=precision, device=device)[0]
    return LABCLIP.from_pretrained(name if folder is None else folder, device=device, precision=precision)


def open_alignment(name: Alignment | str | Path, model: LABCLIP) -> Alignment:
    """Load an alignment for a base that is loaded already.

    Args:
        name: What `Alignment.from_pretrained` takes, "cc3m" and the like for the base's own published ones, or an
            alignment, which is only checked.
        model: The base, wrapped with whatever matrix.

    Raises:
        FileNotFoundError: If there is none of that name.
        ValueError: If it was fitted on another base, as far as its record or its fingerprint tells.
    """
    base = model.alignment.base
    if isinstance(name, Alignment):
        alignment = name
    else:
        alignment = (
            Alignment.from_pretrained(name) if base is None else alignment_for(base, name, {"revision": None, **_HUB})
        )
    if base is not None:
        check_same_base(alignment, base)
    check_base(model.clip, alignment, model.tokenizer)
    return alignment
