"""Convert a folded OpenCLIP model to transformers' `CLIPModel`; load, run and write models of transformers."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from labclip.base import FINGERPRINT_CAPTION
from labclip.checks import first_line
from labclip.io.text_sides import VOCABULARY, check_form, is_openclip
from labclip.io.to_openai import openai_weights
from labclip.packages import require
from labclip.towers.openclip import SkipInitialisation, text_tower
from labclip.towers.text import evaluating

# Patterns in OpenAI's names of weights, and what replaces them in transformers' names; applied in this order.
_NAMES = {
    r"^visual\.transformer\.resblocks": "vision_model.encoder.layers",
    r"^transformer\.resblocks": "text_model.encoder.layers",
    r"\.ln_(\d)": r".layer_norm\1", r"\.attn\.": ".self_attn.", r"\.c_fc": ".fc1", r"\.c_proj": ".fc2",
    r"^token_embedding": "text_model.embeddings.token_embedding",
    r"^positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"^ln_final": "text_model.final_layer_norm",
    r"^visual\.class_embedding": "vision_model.embeddings.class_embedding",
    r"^visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.conv1": "vision_model.embeddings.patch_embedding",
    r"^visual\.ln_pre": "vision_model.pre_layrnorm", r"^visual\.ln_post": "vision_model.post_layernorm",
    r"^text_projection$": "text_projection.weight", r"^visual\.proj$": "visual_projection.weight",
}  # fmt: skip
_GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}


def load(folder: str | Path) -> Any:
    """Load the transformers model of a folder, in evaluation mode and frozen; ValueError if it can't be loaded."""
    try:
        model = _transformers().AutoModel.from_pretrained(str(Path(folder).expanduser()), local_files_only=True)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"transformers can't open {folder} ({first_line(error)}).") from error
    return model.eval().requires_grad_(False)


def text_features(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Unnormalised text embeddings of a transformers model, whose releases return a tensor or an object."""
    with torch.no_grad(), evaluating(model):
        output = model.get_text_features(**inputs) if hasattr(model, "get_text_features") else model(**inputs)
    if isinstance(output, torch.Tensor):
        return output
    features = getattr(output, "text_embeds", None)
    return output.pooler_output if features is None else features


def sample_features(model: Any) -> torch.Tensor:
    """The embedding of fixed token ids, float64 [1, dim] on the CPU, to compare a model before and after a fold."""
    config = getattr(model.config, "text_config", model.config)
    end = getattr(config, "eos_token_id", None)
    ids = [number % config.vocab_size for number in (3, 5, 7, 9, 11, end if isinstance(end, int) else 13)]
    return text_features(model, input_ids=torch.tensor([ids], device=model.device)).cpu().double()


def caption_features(model: Any) -> torch.Tensor | None:
    """The embedding of the fingerprint's caption, [1, dim]; None if the model's tokenizer is not known."""
    config = getattr(model.config, "text_config", model.config)
    length = config.max_position_embeddings
    if (tokenizer := _load_from_model_folder(model, "AutoTokenizer")) is not None:
        # Padded to the full context, as by OpenCLIP, since padding changes SigLIP's embeddings.
        encoded = tokenizer(
            [FINGERPRINT_CAPTION], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return text_features(model, **encoded.to(model.device))
    if config.vocab_size != VOCABULARY or config.model_type != "clip_text_model":
        return None
    tokens = SimpleTokenizer(context_length=length)([FINGERPRINT_CAPTION])
    return text_features(model, input_ids=tokens[:, : int(tokens.argmax()) + 1].to(model.device))


def quick_gelu_of(model: Any) -> bool | None:
    """Whether the text side uses QuickGELU; None if the config does not say."""
    activation = getattr(getattr(model.config, "text_config", model.config), "hidden_act", None)
    return activation == "quick_gelu" if isinstance(activation, str) else None


def convert(clip: Any) -> Any:
    """Convert an OpenCLIP model to a `CLIPModel` in evaluation mode; ValueError if that can't have its architecture.

    Both models are run on test inputs to compare their features.
    """
    transformers = _transformers()
    try:
        with SkipInitialisation():
            model = transformers.CLIPModel(_config(transformers, clip))
        model.load_state_dict(dict(_rename_weights(openai_weights(clip))))
        reference = clip.visual.conv1.weight
        model = model.to(reference.device, reference.dtype).eval().requires_grad_(False)

        def image_features(pixels: torch.Tensor) -> Any:
            output = model.get_image_features(pixel_values=pixels)
            return getattr(output, "pooler_output", output)

        check_form(clip, "transformers", lambda tokens: text_features(model, input_ids=tokens), image_features)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"transformers' CLIPModel can't hold this {type(clip).__name__} ({first_line(error).rstrip('.:')}): it "
            f"only has vision transformers with a class token, causal text transformers with CLIP's vocabulary, and "
            f"projections without a bias. Fold it into another form: openclip."
        ) from error
    return model


def _transformers() -> Any:
    return require("transformers", "A CLIPModel needs transformers", "pip install transformers")


def _config(transformers: Any, clip: Any) -> Any:
    """The `CLIPConfig` of an OpenCLIP model's architecture."""
    text: Any = text_tower(clip)
    dim, end = text.text_projection.shape[1], VOCABULARY - 1

    def tower(transformer: Any) -> dict[str, Any]:
        block = transformer.resblocks[0]
        gelu = block.mlp.gelu
        return {
            "hidden_size": transformer.width, "num_attention_heads": block.attn.num_heads,
            "num_hidden_layers": len(transformer.resblocks), "intermediate_size": block.mlp.c_fc.out_features,
            "hidden_act": "quick_gelu" if type(gelu).__name__ == "QuickGELU" else _GELU[gelu.approximate],
            "projection_dim": dim, "layer_norm_eps": block.ln_1.eps,
        }  # fmt: skip

    return transformers.CLIPConfig(
        text_config=tower(text.transformer) | {
            "vocab_size": VOCABULARY, "max_position_embeddings": len(text.positional_embedding),
            "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end,
        },
        vision_config=tower(clip.visual.transformer) | {
            "image_size": clip.visual.image_size[0], "patch_size": clip.visual.patch_size[0],
        },
        projection_dim=dim,
    )  # fmt: skip


def _rename_weights(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights with OpenAI's names -> with transformers' names; attention's input projection is split in three."""
    for key, value in weights.items():
        value = value.T if key in ("text_projection", "visual.proj") else value
        for old, new in _NAMES.items():
            key = re.sub(old, new, key)
        if "in_proj_" in key:
            for name, projection in zip("qkv", value.chunk(3), strict=True):
                yield key.replace("in_proj_", f"{name}_proj."), projection
        else:
            yield key, value


def write(model: Any, base: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write the files that `AutoModel`, `AutoProcessor` and a pipeline open.

    `base` is the model before the fold. For one of OpenCLIP, the tokenizer and image processor are converted; for one
    of transformers, they are copied from the folder that it was loaded from.
    """
    model.save_pretrained(folder)
    if is_openclip(base):
        _save_processor(base, tokenizer, folder)
    elif (processor := _load_from_model_folder(model, "AutoProcessor")) is not None:
        processor.save_pretrained(folder)
    else:
        warnings.warn(
            f"No tokenizer and image processor were found for this {type(model).__name__}. Save yours: "
            f"processor.save_pretrained(FOLDER).",
            stacklevel=3,
        )


def _load_from_model_folder(model: Any, kind: str) -> Any | None:
    """The "AutoTokenizer" or "AutoProcessor" from where a transformers model was loaded; None if it is not on disk."""
    if not (name := getattr(model, "name_or_path", "")):
        return None
    try:
        return getattr(_transformers(), kind).from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def _save_processor(clip: Any, tokenizer: Any, folder: Path) -> None:
    """Convert tokenizer and image processor of an OpenCLIP model to those of transformers, and write them."""
    transformers = _transformers()
    context: int = text_tower(clip).context_length  # type: ignore[assignment]
    tokenizer = SimpleTokenizer(context_length=context) if tokenizer is None else tokenizer
    if not isinstance(tokenizer, SimpleTokenizer):
        raise ValueError(
            f"A {type(tokenizer).__name__} can't be saved as transformers' CLIPTokenizer. Fold into openclip instead."
        )
    special = {tokenizer.sot_token_id: "<|startoftext|>", tokenizer.eot_token_id: "<|endoftext|>"}
    vocabulary = {special.get(number, token): number for token, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    converted = transformers.CLIPTokenizerFast.from_pretrained(str(folder), model_max_length=context)
    converted_ids = converted(FINGERPRINT_CAPTION)["input_ids"]
    if converted_ids != tokenizer([FINGERPRINT_CAPTION])[0].tolist()[: len(converted_ids)]:
        raise ValueError("This release of transformers makes other tokens of CLIP's vocabulary. Fold into openclip.")
    images = transformers.CLIPImageProcessor(**_image_settings(clip))
    transformers.CLIPProcessor(image_processor=images, tokenizer=converted).save_pretrained(str(folder))


def _image_settings(clip: Any) -> dict[str, Any]:
    """OpenCLIP's image transform as settings of `CLIPImageProcessor`."""
    config = dict(getattr(clip.visual, "preprocess_cfg", None) or {})
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    mode = config.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ValueError(f"CLIPImageProcessor has no resize mode {mode!r}. Fold into openclip instead.")
    return {
        "size": {"shortest_edge": height} if mode == "shortest" else {"height": height, "width": width},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": mode == "shortest",
        "resample": {"bicubic": 3, "bilinear": 2}.get(config.get("interpolation", "bicubic"), 3),
        "image_mean": list(config.get("mean", OPENAI_DATASET_MEAN)),
        "image_std": list(config.get("std", OPENAI_DATASET_STD)),
    }
