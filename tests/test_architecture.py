"""The configuration of a loaded model: found, right, and none rather than a wrong one."""

import models
import open_clip
import pytest
import torch
from torch import nn

from labclip.io.architecture import config_of, matches, same_architecture

NATIVE = ["clip", "quickgelu", "resnet", "dict", "linear", "custom", "eos", "siglip", "unprojected", "nonscalar"]


def tiny(custom=False, vision=(), text=(), **options):
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(models.DIM, models.VISION | dict(vision), models.TEXT | dict(text), **options).eval()


def rebuilt(clip, config):
    """The model OpenCLIP makes of a config, with the weights of `clip`, in the class that its factory would take."""
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    other = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    other.load_state_dict(clip.state_dict())
    return other.eval()


def assert_same_numbers(clip, config, images=None):
    images, tokens = models.images() if images is None else images, models.tokens()
    other = rebuilt(clip, config)
    with torch.no_grad():
        for one, two in (
            (clip.encode_image(images), other.encode_image(images)),
            (clip.encode_text(tokens), other.encode_text(tokens)),
        ):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * float(one.abs().max()))


def on_meta(name, **changes):
    """A model of a registered name without memory for its weights."""
    config = open_clip.get_model_config(name) | changes
    custom = config.pop("custom_text", False)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        return kind(**config)


@pytest.mark.parametrize("kind", NATIVE)
def test_the_config_of_every_native_model_is_found(kind):
    clip = models.make(kind)
    config = config_of(clip)
    assert config is not None
    assert matches(clip, config)
    assert_same_numbers(clip, config)


# Changes that leave every weight's name and shape as it is, so that loading would not notice a wrong config.
SILENT = {
    "heads of the pictures": {"vision": {"head_width": 8}},
    "heads of the text": {"text": {"heads": 3}},
    "pooling of the pictures": {"vision": {"pool_type": "tok"}},
    "norm after pooling": {"vision": {"final_ln_after_pool": True}},
    "pooling of the text": {"text": {"pool_type": "last"}},
    "end token": {"text": {"eos_id": 320}},
    "no mask": {"text": {"no_causal_mask": True}},
    "epsilon of the pictures": {"vision": {"norm_kwargs": {"eps": 0.1}}},
    "epsilon of the text": {"text": {"norm_kwargs": {"eps": 0.1}}},
    "GELU of the pictures": {"vision": {"act_kwargs": {"approximate": "tanh"}}},
    "GELU of the text": {"text": {"act_kwargs": {"approximate": "tanh"}}},
    "QuickGELU": {"quick_gelu": True},
}


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("change", SILENT)
def test_what_no_weight_shows_is_read_off_and_told_apart(change, custom):
    if change == "end token":
        models.make("eos")  # skips where OpenCLIP has no such pooling
    common = {"vision": {"pool_type": "avg"}, "text": {"pool_type": "eos"} if change == "end token" else {}}
    changed = {
        key: common.get(key, {}) | value if isinstance(value, dict) else value for key, value in SILENT[change].items()
    }
    plain, clip = tiny(custom, **common), tiny(custom, **common | changed)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in clip.state_dict().items()
    }
    config, other = config_of(clip), config_of(plain)
    assert matches(clip, config)
    assert not matches(clip, other)
    assert not matches(plain, config)
    assert_same_numbers(clip, config)


@pytest.mark.parametrize(
    "change",
    [
        {"vision": {"no_ln_pre": True}},
        {"vision": {"image_size": [32, 16]}},
        {"vision": {"mlp_ratio": 2.7}, "text": {"mlp_ratio": 1.3}},
        {"vision": {"layers": 1}, "text": {"layers": 3}},
        {"text": {"pool_type": "first"}},
        {"init_logit_bias": -5.0},
        {"nonscalar_logit_scale": True},
    ],
)
def test_other_changes_are_read_off(change):
    clip = tiny(**change)
    size = change.get("vision", {}).get("image_size", [32, 32])
    assert_same_numbers(clip, config_of(clip), torch.randn(2, 3, *size))


@pytest.mark.parametrize(
    "change",
    [
        {"vision": {"ls_init_value": 0.1}},
        {"text": {"ls_init_value": 0.1}},
        {"vision": {"attentional_pool": True, "attn_pooler_heads": 2}},
        {"vision": {"qk_norm": True}},
        {"text": {"scale_fc": True}},
        {"vision": {"output_tokens": True}},
    ],
)
def test_what_cannot_be_read_off_gives_none_rather_than_a_wrong_config(change):
    assert config_of(tiny(**change)) is None


@pytest.mark.parametrize("kind", ["coca", "hf"])
def test_other_towers_give_none(kind):
    assert config_of(models.make(kind)) is None


def test_a_class_of_somebodys_own_gives_none(monkeypatch):
    class Own(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return -super().encode_text(text, normalize)

    config = {"embed_dim": models.DIM, "vision_cfg": models.VISION, "text_cfg": models.TEXT}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    assert config_of(models.make("clip"), "tiny") == config
    assert config_of(Own(models.DIM, models.VISION, models.TEXT), "tiny") is None


def test_a_tower_of_somebodys_own_gives_none():
    clip = tiny()
    clip.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, models.DIM))
    assert config_of(clip) is None


# Registered names


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-32-quickgelu", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA", "ViT-B-16-plus-240"]
)
@pytest.mark.parametrize("told", [False, True])
def test_registered_models_are_found(name, told):
    clip = on_meta(name)
    config = config_of(clip, name if told else None)
    assert matches(clip, config)
    if told:
        assert config == open_clip.get_model_config(name)


def test_the_tokenizer_of_a_registered_model_comes_with_its_config():
    text_cfg = config_of(on_meta("ViT-L-14-CLIPA"))["text_cfg"]
    assert text_cfg["hf_tokenizer_name"] == "bert-base-uncased"
    assert text_cfg["tokenizer_kwargs"] == {"strip_sep_token": True}


def test_a_wrong_name_does_no_harm():
    clip = models.make("clip")
    for name in ("ViT-B-32", "RN50", "nonsense", "ViT-B-16-SigLIP", "hf-hub:org/name", "local-dir:nowhere"):
        assert_same_numbers(clip, config_of(clip, name))


def test_a_model_of_ones_own_is_found_once_it_is_registered(monkeypatch):
    config = {
        "embed_dim": models.DIM, "vision_cfg": models.COCA_VISION, "text_cfg": models.COCA_TEXT,
        "multimodal_cfg": models.MULTIMODAL, "custom_text": True,
    }  # fmt: skip
    clip = models.make("coca")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-coca", config)
    assert config_of(clip) == config
    assert config_of(clip, "tiny-coca") == config


@pytest.mark.parametrize(
    "config",
    [
        {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"nonsense": 1}},
        {"embed_dim": 16, "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}, "text_cfg": {}},
        {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert-base-uncased"}},
        {"embed_dim": 16, "vision_cfg": {"width": 30, "head_width": 64}, "text_cfg": {}},
        {"embed_dim": 16, "vision_cfg": {}},
        {},
    ],
)
def test_a_config_that_openclip_cannot_build_matches_nothing(config):
    assert matches(models.make("clip"), config) is False


def test_same_architecture():
    assert same_architecture(on_meta("ViT-B-32"), "ViT-B-32") is True
    assert same_architecture(on_meta("ViT-B-32", quick_gelu=True), "ViT-B-32") is True
    assert same_architecture(on_meta("ViT-B-32", custom_text=True), "ViT-B-32-quickgelu") is True
    assert same_architecture(on_meta("ViT-B-16"), "ViT-B-32") is False
    assert same_architecture(models.make("clip"), "ViT-B-32") is False
    for unknown in ("nonsense", "ViT-B-16-SigLIP", "roberta-ViT-B-32", "hf-hub:org/name", "local-dir:nowhere"):
        assert same_architecture(models.make("clip"), unknown) is None
