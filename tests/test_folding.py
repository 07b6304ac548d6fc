"""A folded model gives the wrapper's numbers, whatever the library and wherever its projection is."""

import copy
import math

import models
import pytest
import torch
from torch import nn

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.io.folding import fold

KINDS = list(models.KINDS)
UNPROJECTED = {"text.text_projection"}


def skewed(**options):
    return Alignment(models.matrix(), **options)


def parameters(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_close(one, other):
    """Equal to float32 rounding at the scale of the features."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_is_wrapped(kind, strength):
    clip, alignment = models.make(kind), skewed(logit_scale=1.5, strength=strength)
    before = parameters(clip)
    folded, wrapped = fold(clip, alignment), LABCLIP(clip, alignment)
    assert type(folded) is type(clip)
    tokens, images = models.tokens(), models.images()
    with torch.no_grad():
        for normalize in (False, True):
            got = folded.encode_text(tokens, normalize=normalize)
            assert_close(got, wrapped.encode_text(tokens, normalize=normalize))
            assert not torch.allclose(got, clip.encode_text(tokens, normalize=normalize), rtol=0.1, atol=0.1)
        assert torch.equal(folded.encode_image(images), clip.encode_image(images))
        assert_close(folded.logit_scale, wrapped.logit_scale)
        if kind != "coca":
            assert_close(folded.get_logits(images, tokens)[0], wrapped.get_logits(images, tokens)[0])
    after = parameters(clip)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(parameters(folded)) - set(before) == (UNPROJECTED if kind == "unprojected" else set())
    assert not {id(value) for value in folded.parameters()} & {id(value) for value in clip.parameters()}


def test_the_wrappers_own_method_folds_its_clip():
    wrapped = LABCLIP(models.make("clip"), skewed())
    assert_close(wrapped.fold().encode_text(models.tokens()), wrapped.encode_text(models.tokens()))


@pytest.mark.parametrize("kind", ["linear", "siglip"])
def test_a_bias_is_mapped_too(kind):
    clip = models.make(kind)
    projection = (clip if kind == "linear" else clip.text).text_projection
    nn.init.normal_(projection.bias, std=5.0, generator=torch.Generator().manual_seed(3))
    assert_close(
        fold(clip, skewed()).encode_text(models.tokens()), clip.encode_text(models.tokens()) @ models.matrix().T
    )


@pytest.mark.parametrize(
    "alignment",
    [
        Alignment.identity(models.DIM),
        Alignment(models.matrix(), logit_scale=1.5).at(0),
        Alignment(torch.eye(models.DIM), logit_scale=1.5, strength=0.5),
    ],
    ids=["identity", "strength 0", "identity with a scale"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_folds_to_equal_weights_bit_for_bit(kind, alignment):
    clip = models.make(kind)
    after = parameters(fold(clip, alignment))
    for name, value in parameters(clip).items():
        if name == "logit_scale" and alignment.strength == 0.5:
            assert float(after[name]) == pytest.approx(0.5 * float(value) + 0.75)
        else:
            assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(("strength", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (1.5, 1.5)])
@pytest.mark.parametrize("kind", ["clip", "nonscalar"])
def test_the_logit_scale_is_folded_by_strength(kind, strength, share):
    clip = models.make(kind)
    folded = fold(clip, skewed(logit_scale=1.5, strength=strength))
    own = clip.logit_scale.item()
    assert folded.logit_scale.item() == pytest.approx(own + share * (1.5 - own))
    assert folded.logit_scale.shape == clip.logit_scale.shape
    assert torch.equal(fold(clip, skewed()).logit_scale, clip.logit_scale)  # none fitted: the base's own


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["clip", "siglip", "unprojected"])
def test_parameters_keep_their_dtype_and_are_rounded_once(kind, dtype):
    clip = models.make(kind).to(dtype)
    folded = fold(clip, skewed(logit_scale=1.5))
    assert {value.dtype for value in folded.parameters()} == {dtype}
    owner, before = (folded, clip) if kind == "clip" else (folded.text, clip.text)
    matrix = models.matrix().double()
    if kind == "clip":
        exact = before.text_projection.double() @ matrix.T
    elif kind == "siglip":
        exact = matrix @ before.text_projection.weight.double()
        owner = owner.text_projection.weight
    else:
        exact = matrix.T
    assert torch.equal(owner if kind == "siglip" else owner.text_projection, exact.to(dtype))


@pytest.mark.parametrize("kind", ["clip", "siglip", "unprojected", "hf"])
@pytest.mark.parametrize("wanted", [False, True])
def test_requires_grad_is_kept(kind, wanted):
    clip = models.make(kind).requires_grad_(wanted)
    folded = fold(clip, Alignment(models.matrix().requires_grad_(), logit_scale=1.5))
    assert {value.requires_grad for value in folded.parameters()} == {wanted}
    assert all(value.is_leaf for value in folded.parameters())


def test_an_added_projection_is_a_parameter_that_moves_and_is_saved():
    folded = fold(models.make("unprojected"), skewed())
    assert isinstance(folded.text.text_projection, nn.Parameter)
    assert "text.text_projection" in dict(folded.named_parameters())
    assert folded.double().text.text_projection.dtype == torch.float64


# Hugging Face towers inside OpenCLIP


def test_an_mlp_projection_is_mapped_in_its_last_layer():
    clip = models.make("hf")
    clip.text.proj = nn.Sequential(
        nn.Linear(24, 20, bias=False), nn.GELU(), nn.Linear(20, models.DIM, bias=False)
    ).requires_grad_(False)
    folded = fold(clip, skewed())
    assert_close(folded.encode_text(models.tokens()), clip.encode_text(models.tokens()) @ models.matrix().T)
    assert torch.equal(folded.text.proj[0].weight, clip.text.proj[0].weight)


def test_an_identity_projection_is_replaced_by_a_linear_one():
    clip = models.make("hf")
    width = clip.text.config.hidden_size
    clip.text.proj, clip.text.output_dim = nn.Identity(), width
    alignment = Alignment(models.matrix(dim=width))
    folded = fold(clip, alignment)
    assert isinstance(folded.text.proj, nn.Linear)
    assert_close(folded.encode_text(models.tokens()), alignment(clip.encode_text(models.tokens())))


# Other libraries


class OpenAIClip(nn.Module):
    """As OpenAI's `clip` keeps it: half-precision projection [width, dim], scale as a Parameter."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Linear(24, 24)
        self.text_projection = nn.Parameter(torch.randn(24, models.DIM, generator=torch.Generator().manual_seed(4)))
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))

    def encode_text(self, hidden):
        return self.transformer(hidden) @ self.text_projection


def test_openai_clip():
    model, hidden = OpenAIClip(), torch.randn(5, 24, generator=torch.Generator().manual_seed(5))
    folded = fold(model, skewed(logit_scale=4.2))
    assert isinstance(folded, OpenAIClip)
    assert_close(folded.encode_text(hidden), skewed()(model.encode_text(hidden)))
    assert folded.logit_scale.item() == pytest.approx(4.2)


SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 16}
VISION = SMALL | {"image_size": 16, "patch_size": 8}


def transformers_model(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(6)
    if kind == "clip":
        text = TEXT | {"projection_dim": models.DIM, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 1}
        config = transformers.CLIPConfig(
            text_config=text, vision_config=VISION | {"projection_dim": models.DIM}, projection_dim=models.DIM
        )
        return transformers.CLIPModel(config).eval()
    text = TEXT | {"projection_size": models.DIM, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 1}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    model = transformers.SiglipModel(config).eval()
    nn.init.normal_(model.text_model.head.bias, generator=torch.Generator().manual_seed(7))
    return model


def text_features(model, tokens):
    """A tensor in transformers 4, an object in 5."""
    with torch.no_grad():
        output = model.get_text_features(input_ids=tokens)
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers(kind):
    model = transformers_model(kind)
    tokens = torch.randint(2, 97, (4, 16), generator=torch.Generator().manual_seed(8))
    tokens[:, 9] = 98
    alignment = skewed(logit_scale=1.5)
    before = parameters(model)
    folded = fold(model, alignment)
    plain = text_features(model, tokens)
    assert plain.shape == (4, models.DIM)
    assert type(folded) is type(model)
    assert_close(text_features(folded, tokens), alignment(plain))
    assert not torch.allclose(text_features(folded, tokens), plain, atol=1e-2)
    assert folded.logit_scale.item() == pytest.approx(1.5)
    assert all(torch.equal(before[name], value) for name, value in parameters(model).items())


def test_a_transformers_text_model_alone():
    model = transformers_model("siglip")
    tower = copy.deepcopy(model)
    del tower.logit_scale
    folded = fold(tower, skewed(logit_scale=1.5))
    head, before = folded.text_model.head, model.text_model.head
    assert_close(head.weight, models.matrix() @ before.weight)
    assert_close(head.bias, models.matrix() @ before.bias)


# What is refused


def test_a_module_without_a_projection_is_refused():
    with pytest.raises(
        ValueError, match=r"no text projection in a Linear \(looked for text_projection, text.text_pro.*"
    ):
        fold(nn.Linear(2, 2), skewed())


def test_a_projection_of_an_unknown_type_is_refused():
    clip = models.make("siglip")
    clip.text.text_projection = nn.Bilinear(2, 2, models.DIM)
    with pytest.raises(ValueError, match="Cannot fold into a text projection of type Bilinear"):
        fold(clip, skewed())


@pytest.mark.parametrize("kind", KINDS)
def test_another_dim_is_refused(kind):
    with pytest.raises(ValueError, match="Alignment has dim 8 but the model's text projection gives 16"):
        fold(models.make(kind), Alignment(models.matrix(dim=8)))


def test_a_labclip_folds_its_own_alignment_or_another():
    model = LABCLIP(models.make("clip"), Alignment(models.matrix()))
    tokens = models.tokens()
    assert torch.equal(labclip.fold(model).encode_text(tokens), model.fold().encode_text(tokens))
    other = Alignment(models.matrix(1))
    assert torch.equal(labclip.fold(model, other).encode_text(tokens), fold(model.clip, other).encode_text(tokens))
    base = Base("tiny", "own", quick_gelu=True, embed_dim=models.DIM)
    with pytest.raises(ValueError, match="which runs QuickGELU, but this model runs GELU"):
        labclip.fold(model, Alignment(models.matrix(), base=base))


@pytest.mark.parametrize("alignment", [None, "ViT-B-32", torch.eye(models.DIM)])
def test_folding_needs_an_alignment(alignment):
    kind = type(alignment).__name__
    with pytest.raises(ValueError, match=rf"The alignment is a {kind}. Pass a labclip.Alignment: of a matrix"):
        labclip.fold(models.make("clip"), alignment)
