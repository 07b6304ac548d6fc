"""A folded OpenCLIP model as transformers' `CLIPModel`; folders of transformers with tokenizer and image processor."""

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
from labclip.files import CONFIG
from labclip.io.architecture import VOCABULARY, openai_weights, plain_config
from labclip.io.folder import replacing
from labclip.io.text_sides import beside, check_features, mark_of, of_openclip, set_mark, text_features
from labclip.packages import require

# OpenAI's names of the parts of a block, and transformers'.
_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_OTHERS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_IN_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def transformers_module() -> Any:
    """The package; MissingPackageError says what to type."""
    return require("transformers", "A CLIPModel needs transformers", "pip install transformers")


def load(folder: str | Path) -> Any:
    """The model of transformers in a folder, in evaluation mode and frozen; ValueError if it can't be opened."""
    try:
        model = transformers_module().AutoModel.from_pretrained(str(Path(folder).expanduser()), local_files_only=True)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"transformers can't open {folder} ({first_line(error)}).") from error
    return model.eval().requires_grad_(False)


@torch.no_grad()
def convert(clip: Any) -> Any:
    """An OpenCLIP model as a `CLIPModel` in evaluation mode, with the mark of a fold.

    Both are run on a caption and an image: ValueError if the architecture is another, or the features differ.
    """
    transformers = transformers_module()
    config = plain_config(clip)
    if config is None or not isinstance(config["vision_cfg"]["layers"], int):
        raise ValueError(
            f"transformers' CLIPModel can't hold this {type(clip).__name__}: it has vision transformers with a class "
            f"token, causal text transformers over CLIP's vocabulary and projections without a bias only. Fold it into "
            f"another form: openclip."
        )
    model = transformers.CLIPModel(_config(transformers, config))
    model.load_state_dict(dict(_renamed(openai_weights(clip))))
    reference = clip.visual.conv1.weight
    model = model.to(reference.device, reference.dtype).eval().requires_grad_(False)
    set_mark(model, mark_of(clip))
    _check_same(model, clip, config)
    return model


def _config(transformers: Any, config: dict[str, Any]) -> Any:
    text, vision, dim = config["text_cfg"], config["vision_cfg"], config["embed_dim"]
    activation = "quick_gelu" if config["quick_gelu"] else "gelu"
    end = VOCABULARY - 1

    def tower(part: dict[str, Any], heads: int) -> dict[str, Any]:
        width = part["width"]
        return {
            "hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": part["layers"],
            "intermediate_size": int(part["mlp_ratio"] * width), "hidden_act": activation, "projection_dim": dim,
        }  # fmt: skip

    return transformers.CLIPConfig(
        text_config=tower(text, text["heads"]) | {
            "vocab_size": VOCABULARY, "max_position_embeddings": text["context_length"],
            "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end,
        },
        vision_config=tower(vision, vision["width"] // vision["head_width"]) | {
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
        },
        projection_dim=dim,
    )  # fmt: skip


def _renamed(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """OpenAI's weights by the names of transformers, attention's three projections apart."""
    for key, value in weights.items():
        if key in _OTHERS:
            yield _OTHERS[key], value
        elif key in _TRANSPOSED:
            yield _TRANSPOSED[key], value.T.contiguous()
        elif match := _IN_BLOCK.fullmatch(key):
            visual, number, part, kind = match.groups()
            block = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                for name, piece in zip("qkv", value.chunk(3), strict=True):
                    yield f"{block}.self_attn.{name}_proj.{kind}", piece.clone()
            else:
                yield f"{block}.{_BLOCK[part]}.{kind}", value


def _check_same(model: Any, clip: Any, config: dict[str, Any]) -> None:
    """Refuse with ValueError a conversion whose features differ, for releases whose layers mean something else."""
    device, dtype = clip.visual.conv1.weight.device, clip.visual.conv1.weight.dtype
    text = config["text_cfg"]
    tokens = torch.zeros(1, text["context_length"], dtype=torch.int64, device=device)
    tokens[0, : min(5, text["context_length"])] = torch.tensor([1, 5, 3, 2, VOCABULARY - 1])[-text["context_length"] :]
    size = config["vision_cfg"]["image_size"]
    image = torch.linspace(-1, 1, 3 * size * size, device=device, dtype=dtype).reshape(1, 3, size, size)
    pixels = model.get_image_features(pixel_values=image)
    pairs = {
        "text": (text_features(model, input_ids=tokens), clip.encode_text(tokens, normalize=False)),
        "image": (getattr(pixels, "pooler_output", pixels), clip.encode_image(image, normalize=False)),
    }
    for side, (ours, theirs) in pairs.items():
        said = f"This release of transformers gives other {side} features for the converted weights"
        check_features(ours, theirs, said, "Fold into openclip instead.", dtype=dtype)


def write(model: Any, base: nn.Module, tokenizer: Any, folder: str | Path) -> None:
    """Write a folder that `AutoModel`, `AutoProcessor` and a pipeline open.

    `base` is what was folded: of OpenCLIP, the tokenizer and image processor are made of its own; of transformers,
    they are those that lie where it was loaded from.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file() and b'"format_version"' in (folder / CONFIG).read_bytes():
        raise ValueError(f"{folder} holds an alignment, which would be overwritten. Pass another folder.")
    with replacing(folder) as scratch:
        model.save_pretrained(scratch)
        if of_openclip(base):
            _save_processor(base, tokenizer, scratch)
        elif (processor := beside(model, "AutoProcessor")) is not None:
            processor.save_pretrained(scratch)
        else:
            warnings.warn(
                f"No tokenizer and image processor lie where this {type(model).__name__} was loaded from. Save yours: "
                f'processor.save_pretrained("{folder}").',
                stacklevel=5,
            )


def _save_processor(clip: Any, tokenizer: Any, folder: Path) -> None:
    """Write tokenizer and image processor of an OpenCLIP model in the forms of transformers."""
    transformers = transformers_module()
    context = len(getattr(clip, "text", clip).positional_embedding)
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
    made = transformers.CLIPTokenizerFast.from_pretrained(str(folder), model_max_length=context)
    ours, theirs = made(FINGERPRINT_CAPTION)["input_ids"], tokenizer([FINGERPRINT_CAPTION])[0].tolist()
    if ours != theirs[: len(ours)]:
        raise ValueError("This release of transformers makes other tokens of CLIP's vocabulary. Fold into openclip.")
    images = transformers.CLIPImageProcessor(**_image_settings(clip))
    transformers.CLIPProcessor(image_processor=images, tokenizer=made).save_pretrained(str(folder))


def _image_settings(clip: Any) -> dict[str, Any]:
    """OpenCLIP's image transform as settings of `CLIPImageProcessor`."""
    config = dict(getattr(clip.visual, "preprocess_cfg", None) or {})
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    mode = config.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ValueError(f"CLIPImageProcessor can't resize images as {mode!r} does. Fold into openclip instead.")
    return {
        "size": {"shortest_edge": height} if mode == "shortest" else {"height": height, "width": width},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": mode == "shortest",
        "resample": {"bicubic": 3, "bilinear": 2}.get(config.get("interpolation", "bicubic"), 3),
        "image_mean": list(config.get("mean", OPENAI_DATASET_MEAN)),
        "image_std": list(config.get("std", OPENAI_DATASET_STD)),
    }
