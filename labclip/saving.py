"""Writing models: base and alignment as one folder, or folded into a plain OpenCLIP folder."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
from safetensors.torch import save_file
from torch import nn

from labclip.alignment import Alignment
from labclip.architecture import config_of
from labclip.bases import OPENCLIP_CONFIG, OPENCLIP_WEIGHTS, probe_of, text_tower
from labclip.storage import save

if TYPE_CHECKING:
    from labclip.model import LABCLIP


def save_model(model: LABCLIP, folder: str | Path) -> None:
    """Write a self-contained folder: the base as an OpenCLIP folder, the alignment's three files in it as well.

    Args:
        model: What to save.
        folder: Where to; made if it does not exist.

    Raises:
        ValueError: If the architecture of the base can't be told, or its tokenizer can't be saved.
    """
    alignment = model.alignment
    if alignment.probe is None and model.tokenizer is not None:
        alignment = Alignment(
            alignment.fitted,
            base=alignment.base,
            logit_scale=alignment.logit_scale,
            strength=alignment.strength,
            metadata=alignment.metadata,
            probe=probe_of(model.clip, model.tokenizer),
        )
    save_openclip(model.clip, openclip_config(model), model.tokenizer, folder)
    save(alignment, folder)


def save_folded(model: LABCLIP, folder: str | Path) -> None:
    """Write the folded model as a folder that `open_clip.create_model_and_transforms("local-dir:FOLDER")` opens.

    Args:
        model: What to fold and save.
        folder: Where to; made if it does not exist.

    Raises:
        ValueError: As `save_model`.
    """
    config = copy.deepcopy(openclip_config(model))
    text_cfg = config["model_cfg"]["text_cfg"]
    folded = model.fold()
    if "hf_model_name" in text_cfg:
        if not text_cfg.get("hf_proj_type"):
            text_cfg["hf_proj_type"] = "linear"
    elif text_cfg.get("proj_type") == "none" and getattr(text_tower(folded), "text_projection", None) is not None:
        text_cfg |= {"proj_type": "linear", "proj_bias": False}
    save_openclip(folded, config, model.tokenizer, folder)


def openclip_config(model: LABCLIP) -> dict[str, Any]:
    """The `open_clip_config.json` of a model's base: `model_cfg` and `preprocess_cfg`.

    Raises:
        ValueError: If the model was wrapped by hand and its architecture can't be told.
    """
    if model.openclip_config is not None:
        return model.openclip_config
    base = model.alignment.base
    config = config_of(model.clip, base.model if base else None)
    if config is None:
        raise ValueError(
            f"Cannot tell the OpenCLIP configuration of this {type(model.clip).__name__}. Load it by name, as in "
            f"labclip.create_model_and_transforms(NAME, alignment=...), or register its configuration first: "
            f"open_clip.add_model_config(FILE)."
        )
    return {"model_cfg": config, "preprocess_cfg": dict(getattr(model.clip.visual, "preprocess_cfg", None) or {})}


def save_openclip(clip: nn.Module, config: dict[str, Any], tokenizer: Any, folder: str | Path) -> None:
    """Write an ordinary OpenCLIP folder: config, weights as safetensors, and the tokenizer's files if it has any."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Pass the path of a folder.")
    config = copy.deepcopy(config)
    if tokenizer is not None and not isinstance(tokenizer, open_clip.SimpleTokenizer):
        if not hasattr(tokenizer, "save_pretrained"):
            raise ValueError(
                f"A {type(tokenizer).__name__} cannot be saved, and the folder would open with a wrong one."
            )
        # The name alone makes OpenCLIP look for the tokenizer's files in the folder.
        config["model_cfg"]["text_cfg"].setdefault("hf_tokenizer_name", "local")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".labclip-", dir=folder) as scratch:
        state = {key: value.detach().cpu().contiguous().clone() for key, value in clip.state_dict().items()}
        save_file(state, Path(scratch) / OPENCLIP_WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, default=list) + "\n"
        (Path(scratch) / OPENCLIP_CONFIG).write_text(text, encoding="utf-8")
        for name in (OPENCLIP_WEIGHTS, OPENCLIP_CONFIG):
            (Path(scratch) / name).chmod(0o644)
            os.replace(Path(scratch) / name, folder / name)
    if tokenizer is not None and not isinstance(tokenizer, open_clip.SimpleTokenizer):
        tokenizer.save_pretrained(str(folder))
