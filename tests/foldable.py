"""Tiny random models of transformers and of OpenAI's architecture, and what tests of folding share."""

import models
import pytest
import torch
from torch import nn

from labclip import Alignment
from labclip.io.folding import fold
from labclip.towers.openclip import fingerprint_of as own_fingerprint_of

SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 16}
VISION = SMALL | {"image_size": 16, "patch_size": 8}


def text_features(model, tokens):
    """A tensor in transformers 4, an object in 5."""
    with torch.no_grad():
        output = model.get_text_features(input_ids=tokens)
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def text_features_of(model, tokens):
    with torch.no_grad():
        output = model(input_ids=tokens)
    return output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output


def family(name):
    """A tiny random model of a family of transformers, float32 in evaluation mode."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{name}Model"):
        pytest.skip(f"this transformers has no {name}Model")
    torch.manual_seed(6)
    ends = {"bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 1}
    text, vision, top = TEXT | ends, VISION, {"projection_dim": models.DIM}
    if name == "AltCLIP":
        text = text | {"max_position_embeddings": 20, "project_dim": 24}
    if name.startswith("Siglip"):
        text, top = text | {"projection_size": models.DIM}, {}
    if name == "Siglip2":
        vision = SMALL | {"num_patches": 16, "patch_size": 4}
    if name in ("CLIP", "MetaClip2"):
        text, vision = text | top, vision | top
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **top)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)  # biases, the head's among them, are zero at first
    return model


def skewed(**options):
    return Alignment(models.matrix(), **options)


def fingerprint_of(kind):
    """Of a tiny OpenCLIP model, by the ordinary tokenizer."""
    return own_fingerprint_of(models.make(kind), models.tokenizer())


def as_transformers(kind="clip"):
    """A tiny OpenCLIP model in transformers, nothing merged into it."""
    pytest.importorskip("transformers")
    return fold(models.make(kind), Alignment.identity(models.DIM), to="transformers")
