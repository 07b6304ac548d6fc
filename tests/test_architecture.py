"""Whether a configuration is that of a model: also where no weight shows the difference."""

import models
import open_clip
import pytest
import torch
from torch import nn

from labclip.io.saving import config_of, matches


def tiny(custom=False, vision=(), text=(), **options):
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(models.DIM, models.VISION | dict(vision), models.TEXT | dict(text), **options).eval()


def on_meta(name, **changes):
    """A model of a registered name without memory for its weights."""
    config = open_clip.get_model_config(name) | changes
    custom = config.pop("custom_text", False)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        return kind(**config)


def config(custom=False, vision=(), text=(), **options):
    """The `model_cfg` that `tiny` takes as arguments."""
    config = {"embed_dim": models.DIM, "vision_cfg": models.VISION | dict(vision), "text_cfg": models.TEXT | dict(text)}
    return config | options | ({"custom_text": True} if custom else {})


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


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("change", SILENT)
def test_what_no_weight_shows_is_told_apart(change, custom):
    if change == "end token":
        models.make("eos")  # skips where OpenCLIP has no such pooling
    common = {"vision": {"pool_type": "avg"}, "text": {"pool_type": "eos"} if change == "end token" else {}}
    changed = common | {
        key: common.get(key, {}) | value if isinstance(value, dict) else value for key, value in SILENT[change].items()
    }
    plain, clip = tiny(custom, **common), tiny(custom, **changed)
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in clip.state_dict().items()
    }
    assert matches(clip, config(custom, **changed)) is True
    assert matches(clip, config(custom, **common)) is False
    assert matches(plain, config(custom, **changed)) is False


def test_a_class_or_a_tower_of_somebodys_own_matches_nothing():
    class Own(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return -super().encode_text(text, normalize)

    assert matches(Own(models.DIM, models.VISION, models.TEXT), config()) is False
    clip = tiny()
    clip.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, models.DIM))
    assert matches(clip, config()) is False


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA"])
def test_registered_models_have_the_configuration_of_their_name(name):
    assert config_of(on_meta(name), name) == open_clip.get_model_config(name)
    for other in ("ViT-B-16", "nonsense", "hf-hub:org/name", "local-dir:nowhere"):
        assert config_of(on_meta(name), other) is None


@pytest.mark.parametrize(
    ("config", "matched"),
    [
        ({"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"nonsense": 1}}, False),
        # Towers of other libraries are not built.
        ({"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert-base-uncased"}}, None),
    ],
)
def test_a_config_that_openclip_cannot_build_matches_nothing(config, matched):
    assert matches(models.make("clip"), config) is matched
