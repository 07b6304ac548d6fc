"""The real shapes: ViT-B-32 with random weights from a stand-in Hub, the published matrices where they are found."""

from pathlib import Path

import open_clip
import pytest
import torch
from close import rounding
from safetensors.torch import save_file

from labclip import LABCLIP
from labclip.io.published import PUBLISHED

CHECKPOINTS = Path(__file__).parents[2] / "shared" / "data" / "published-matrices"
CAPTIONS = [
    "a red cube and a blue sphere",
    "A man riding a wave on top of a surfboard.",
    "two dogs",
    "a blue cube and a red sphere",
    "a kitchen with " + "a pan and a pot and " * 6 + "a window",
]

TERMS = 12 * (512 + 64 + 77 + 512 + 512 + 2048) + 2 * 512  # of twelve layers of width 512, a projection, a matrix

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32-quickgelu", load_weights=False).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("base") / "open_clip_model.safetensors"
    save_file(clip.state_dict(), path)
    return clip, path


@pytest.fixture
def served(hub, base, monkeypatch):
    """A stand-in Hub with the base, to whom the client gives the time that hashing 600 MB takes."""
    from huggingface_hub import constants

    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 60)
    hub.repos["timm/vit_base_patch32_clip_224.openai"] = {"open_clip_model.safetensors": base[1]}
    return hub


@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the published matrices are not on this machine")
def test_the_published_names_are_the_published_modules(served, base):
    clip, _ = base
    tokens = open_clip.get_tokenizer("ViT-B-32")(CAPTIONS)
    plain = open_clip.create_model("ViT-B-32", load_weights=False)
    for entry in (entry for entry in PUBLISHED if entry.name == "ViT-B-32"):
        served.add_published(entry, (CHECKPOINTS / entry.file).read_bytes())
        model = LABCLIP.from_pretrained("ViT-B-32", alignment=entry.alignment).requires_grad_(False)
        module = torch.nn.Linear(512, 512, bias=False)
        state = torch.load(CHECKPOINTS / entry.file, map_location="cpu", weights_only=True)
        module.weight.data = state["linear.weight"]
        expected = torch.nn.functional.normalize(module(clip.encode_text(tokens, normalize=True)), dim=-1)
        assert (model.encode_text(tokens, normalize=True) - expected).abs().max() < rounding(TERMS)
        assert (model.fold().encode_text(tokens, normalize=True) - expected).abs().max() < rounding(TERMS)
        assert model.logit_scale.exp().item() == pytest.approx(state["t"].exp().item())
        with pytest.raises(ValueError, match="Create it with force_quick_gelu=True"):
            LABCLIP.from_pretrained("ViT-B-32", alignment=entry.alignment, base=plain)
