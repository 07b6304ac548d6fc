"""Tiny random models of every OpenCLIP class and text side, dim 16, for the ordinary vocabulary at context 16."""

import copy
import functools

import open_clip
import pytest
import torch
import torch.nn.functional as F

from labclip import LABCLIP, Alignment

DIM = 16
CONTEXT = 16
VISION = {"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32}
CAPTIONS = [
    "a red cube and a blue sphere",
    "cat",
    "a photo of two very small dogs that sleep",
    "a blue cube and a red sphere",
]


class _MainLayoutCLIP(open_clip.CLIP):
    """As OpenCLIP's main branch has it: everything calls a private `_encode_text`, and `encode_text` is a shell."""

    def _encode_text(self, text, normalize=False):
        return super().encode_text(text, normalize=normalize)

    def encode_text(self, text, normalize=False):
        return self._encode_text(text, normalize=normalize)

    def get_logits(self, image, text):
        logits = self.logit_scale.exp() * self.encode_image(image, True) @ self._encode_text(text, True).T
        return logits, logits.T

    def forward(self, image=None, text=None):
        image_features = self.encode_image(image, normalize=True) if image is not None else None
        text_features = self._encode_text(text, normalize=True) if text is not None else None
        return image_features, text_features, self.logit_scale.exp()


MainLayoutCLIP = open_clip.CLIP if hasattr(open_clip.CLIP, "_encode_text") else _MainLayoutCLIP


def _hf_text():
    transformers = pytest.importorskip("transformers")
    from open_clip.hf_model import HFTextEncoder

    config = transformers.BertConfig(
        vocab_size=49408, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=CONTEXT, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return HFTextEncoder("tiny", DIM, config=config, pooler_type="mean_pooler", proj_type="linear")


SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
COCA_TEXT = TEXT | {"width": DIM, "embed_cls": True, "output_tokens": True}
COCA_VISION = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
MULTIMODAL = {"context_length": CONTEXT, "vocab_size": 49408, "width": DIM, "heads": 2, "layers": 1}
_CONFIG = {"embed_dim": DIM, "vision_cfg": VISION, "text_cfg": TEXT}
CONFIGS = {
    "clip": _CONFIG,
    "quickgelu": _CONFIG | {"quick_gelu": True},
    "resnet": _CONFIG | {"vision_cfg": RESNET},
    "dict": _CONFIG,
    "linear": _CONFIG | {"text_cfg": TEXT | {"proj_bias": True}},
    "custom": _CONFIG | {"custom_text": True},
    "eos": _CONFIG | {"text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}, "custom_text": True},
    "siglip": _CONFIG | {"text_cfg": SIGLIP_TEXT, "custom_text": True, "init_logit_bias": -10.0},
    "unprojected": _CONFIG | {
        "text_cfg": TEXT | {"width": DIM, "proj_type": "none", "no_causal_mask": True},
        "custom_text": True, "init_logit_bias": -10.0,
    },
    "nonscalar": _CONFIG | {"init_logit_bias": -1.0, "nonscalar_logit_scale": True},
    "coca": _CONFIG | {
        "vision_cfg": COCA_VISION, "text_cfg": COCA_TEXT, "multimodal_cfg": MULTIMODAL, "custom_text": True,
    },
}  # fmt: skip
"""OpenCLIP's `model_cfg` of each kind that it builds itself."""

KINDS = (*CONFIGS, "main", "hf")


def built(config):
    """OpenCLIP's model of a `model_cfg`."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    custom = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    return (open_clip.CoCa if "multimodal_cfg" in config else custom)(**arguments)


def _build(kind):
    if kind == "eos" and "eos_id" not in open_clip.CLIPTextCfg.__dataclass_fields__:
        pytest.skip("this OpenCLIP has no end-of-text pooling")
    if kind == "main":
        return MainLayoutCLIP(**_CONFIG)
    model = built(CONFIGS.get(kind, CONFIGS["custom"]))
    model.output_dict = kind == "dict"
    if kind == "hf":
        model.text = _hf_text()
    return model


@functools.cache
def _made(kind):
    torch.manual_seed(1)
    model = _build(kind)
    if kind == "coca":
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.02)  # which OpenCLIP leaves uninitialised
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # the real models' scale: at OpenCLIP's initial one all captions look alike
                parameter.mul_(3.0)
    return model.eval()


def make(kind):
    """A fresh copy of the tiny model of a kind."""
    return copy.deepcopy(_made(kind))


@functools.cache
def tokenizer():
    """The ordinary tokenizer at the tiny models' context."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


def tokens():
    """Token ids of `CAPTIONS`, [4, 16]."""
    return tokenizer()(CAPTIONS)


def images(n=3):
    """Random images, [n, 3, 32, 32]."""
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def matrix(seed=0, dim=DIM):
    """A matrix far from the identity and from symmetry."""
    return torch.eye(dim) + 0.5 * torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))


def expected(features, weight):
    """The published module's output: a bias-free linear layer, then unit length."""
    return F.normalize(F.normalize(features.float(), dim=-1) @ weight.T, dim=-1)


def wrap(kind, alignment=None, *, trim=True, **options):
    """The tiny model of a kind, wrapped with a matrix far from the identity unless another alignment is given."""
    model = LABCLIP(make(kind), alignment or Alignment(matrix(), **options), tokenizer=tokenizer())
    model.trim = trim
    return model


# Changes that leave every weight's name and shape as it is, so that loading would not notice a wrong config.
SILENT = {
    "heads of the images": {"vision": {"head_width": 8}},
    "heads of the text": {"text": {"heads": 3}},
    "pooling of the images": {"vision": {"pool_type": "tok"}},
    "norm after pooling": {"vision": {"final_ln_after_pool": True}},
    "pooling of the text": {"text": {"pool_type": "last"}},
    "end token": {"text": {"eos_id": 320}},
    "no mask": {"text": {"no_causal_mask": True}},
    "epsilon of the images": {"vision": {"norm_kwargs": {"eps": 0.1}}},
    "epsilon of the text": {"text": {"norm_kwargs": {"eps": 0.1}}},
    "GELU of the images": {"vision": {"act_kwargs": {"approximate": "tanh"}}},
    "GELU of the text": {"text": {"act_kwargs": {"approximate": "tanh"}}},
    "QuickGELU": {"quick_gelu": True},
}


def variant(vision=(), text=(), **options):
    """The `model_cfg` of the tiny model with some of it changed."""
    return _CONFIG | {"vision_cfg": VISION | dict(vision), "text_cfg": TEXT | dict(text)} | options


class Bomb:
    """Says that it ran when it is unpickled."""

    WORDS = "code of the file ran"

    def __reduce__(self):
        return print, (self.WORDS,)
