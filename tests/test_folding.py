"""A folded model gives the wrapper's numbers, whatever the library and wherever its projection is."""

import copy
import json
import math

import models
import open_clip
import pytest
import torch
from close import UNIT, assert_close
from foldable import as_transformers, family, fingerprint_of, skewed, text_features, text_features_of
from huggingface_hub import ModelCard
from torch import nn

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.alignment import with_record
from labclip.io.folder import matrix_sha256
from labclip.io.folding import fold
from labclip.io.text_sides import mark_of

KINDS = list(models.KINDS)
UNPROJECTED = {"text.text_projection"}


def parameters(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


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


def biased(kind):
    clip = models.make(kind)
    projection = (clip if kind == "linear" else clip.text).text_projection
    nn.init.normal_(projection.bias, std=5.0, generator=torch.Generator().manual_seed(3))
    return clip


def with_mlp():
    clip = models.make("hf")
    clip.text.proj = nn.Sequential(nn.Linear(24, 20, bias=False), nn.GELU(), nn.Linear(20, models.DIM, bias=False))
    return clip.requires_grad_(False)


def without_projection():
    clip = models.make("hf")
    clip.text.proj, clip.text.output_dim = nn.Identity(), clip.text.config.hidden_size
    return clip


@pytest.mark.parametrize(
    "make", [lambda: biased("linear"), lambda: biased("siglip"), with_mlp, without_projection],
    ids=["bias", "bias of a tower", "mlp", "none"],
)  # fmt: skip
def test_other_projections_are_mapped_in_their_last_step(make):
    clip, tokens = make(), models.tokens()
    before = clip.encode_text(tokens)
    alignment = Alignment(models.matrix(dim=before.shape[1]))
    folded = fold(clip, alignment)
    assert_close(folded.encode_text(tokens), alignment(before))
    assert torch.equal(folded.logit_scale, clip.logit_scale)  # none was fitted


@pytest.mark.parametrize(
    "alignment",
    [
        Alignment.identity(models.DIM),
        Alignment(models.matrix(), logit_scale=1.5).at(0),
        Alignment(torch.eye(models.DIM), logit_scale=1.5, strength=0.5),
    ],
    ids=["identity", "strength 0", "identity with a scale"],
)
@pytest.mark.parametrize("kind", ["clip", "siglip", "unprojected", "hf"])
def test_an_identity_folds_to_equal_weights_bit_for_bit(kind, alignment):
    clip = models.make(kind)
    after = parameters(fold(clip, alignment))
    for name, value in parameters(clip).items():
        if name == "logit_scale" and alignment.strength == 0.5:
            assert float(after[name]) == pytest.approx(0.5 * float(value) + 0.75)
        else:
            assert torch.equal(value, after[name]), name


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


FAMILIES = ["CLIP", "Siglip", "Siglip2", "MetaClip2", "AltCLIP", "ChineseCLIP"]


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers(name):
    model = family(name)
    tokens = torch.randint(2, 97, (4, 16), generator=torch.Generator().manual_seed(8))
    tokens[:, 9] = 98
    alignment = skewed(logit_scale=1.5)
    before = parameters(model)
    try:
        expected = text_features(model, tokens)
    except TypeError:  # ChineseCLIP's own method fails in transformers 4.57
        with pytest.raises(TypeError):
            fold(model, alignment)
        return
    folded = fold(model, alignment)
    assert expected.shape[1:] == (models.DIM,)
    assert type(folded) is type(model)
    exact = expected.double() @ models.matrix().double().T
    assert float((text_features(folded, tokens) - exact).abs().max() / exact.abs().max()) < UNIT
    assert folded.logit_scale.item() == pytest.approx(1.5)
    assert all(torch.equal(before[name], value) for name, value in parameters(model).items())


def test_a_model_that_goes_on_after_its_projection_is_refused():
    model = family("CLIP")
    method = type(model).get_text_features

    def cubed(self, **inputs):
        output = method(self, **inputs)
        return (output if isinstance(output, torch.Tensor) else output.pooler_output) ** 3

    model.__class__ = type("CubedModel", (type(model),), {"get_text_features": cubed})
    with pytest.raises(ValueError, match=r"its text projection is not its last step \(relative error"):
        fold(model, skewed())


@pytest.mark.parametrize("name", ["CLIPTextModelWithProjection", "SiglipTextModel"])
def test_a_transformers_text_model_alone(name):
    transformers = pytest.importorskip("transformers")
    full_model = family(name.partition("Text")[0].title().replace("Clip", "CLIP"))
    model = getattr(transformers, name)(full_model.config.text_config).eval()
    tokens = torch.randint(2, 97, (4, 16), generator=torch.Generator().manual_seed(8))
    tokens[:, 9] = 98
    folded = fold(model, skewed(logit_scale=1.5))
    assert_close(text_features_of(folded, tokens), skewed()(text_features_of(model, tokens)))


# What is refused


@pytest.mark.parametrize(
    ("model", "alignment", "message"),
    [
        (nn.Linear(2, 2), skewed(), r"no text projection in a Linear \(looked for text_projection, text.text_pro.*"),
        (nn.ModuleDict({"text_projection": nn.GELU()}), skewed(), "Cannot fold into a text projection of type GELU"),
        (models.make("clip"), Alignment(models.matrix(dim=8)), "has dim 8 but the model's text projection gives 16"),
        (models.make("clip"), None, "The alignment is a NoneType. Pass a labclip.Alignment"),
    ],
)
def test_what_cannot_be_folded_is_refused(model, alignment, message):
    with pytest.raises(ValueError, match=message):
        fold(model, alignment)


# What the guard refuses: a matrix on a model that it does not belong to, and a second one


def randomised(model):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
    return other


def openclip_pair():
    model = LABCLIP.from_pretrained("scenes")
    return model.clip, model.alignment


def transformers_pair():
    return as_transformers(), skewed(fingerprint=fingerprint_of("clip"))


PAIRS = {"openclip": openclip_pair, "transformers": transformers_pair}


@pytest.mark.parametrize("kind", ["clip", "transformers", "labclip"])
def test_a_matrix_for_quickgelu_is_not_folded_into_gelu(kind):
    alignment = skewed(base=Base("tiny", "own", quick_gelu=True, embed_dim=models.DIM))

    def make(which):
        return as_transformers(which) if kind == "transformers" else models.make(which)

    def given(which):
        return LABCLIP(make(which), skewed()) if kind == "labclip" else make(which)

    with pytest.raises(ValueError, match="which runs QuickGELU, but this model runs GELU: its embeddings differ"):
        fold(given("clip"), alignment)
    tokens, right = models.tokens(), given("quickgelu")
    folded = fold(right, alignment)
    assert type(folded) is type(make("quickgelu"))
    if kind == "labclip":
        assert_close(folded.encode_text(tokens), alignment(right.clip.encode_text(tokens)))
        assert torch.equal(fold(right).encode_text(tokens), right.fold().encode_text(tokens))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_matrix_is_folded_into_the_weights_of_its_fingerprint_alone(pair):
    clip, alignment = PAIRS[pair]()
    assert type(fold(clip, alignment)) is type(clip)
    with pytest.raises(ValueError, match=r"This model is not the one the alignment was fitted on"):
        fold(randomised(clip), alignment)
    with pytest.raises(ValueError, match=r"has cosine -1.000 with the recorded one, below 0.99"):
        fold(clip, with_record(alignment, fingerprint=-alignment.fingerprint))


@pytest.mark.parametrize("fingerprint", [True, False])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_second_matrix_is_not_folded_into_a_folded_model(pair, fingerprint):
    clip, alignment = PAIRS[pair]()
    alignment = alignment.at(0.5) if fingerprint else Alignment(alignment.fitted, strength=0.5)
    folded = fold(clip, alignment)
    for model in (folded, copy.deepcopy(folded)):
        message = r"has a matrix merged into it already \(SHA-256 \w{12}... at strength 0.5.*another would be applied"
        with pytest.raises(ValueError, match=message):
            fold(model, alignment)
    assert type(fold(folded, Alignment.identity(alignment.dim))) is type(folded)  # changes nothing
    if pair == "openclip":
        with pytest.raises(ValueError, match="has a matrix merged into it already"):
            LABCLIP(folded, alignment)
        with pytest.raises(ValueError, match="has a matrix merged into it already"):
            LABCLIP(folded, Alignment.identity(alignment.dim)).alignment = alignment


def test_force_folds_all_the_same_and_warns():
    clip, alignment = transformers_pair()
    with pytest.warns(UserWarning, match="Folded in spite of this: This model is not the one") as warned:
        other = fold(randomised(clip), alignment, force=True)
    assert warned[0].filename == __file__
    assert mark_of(other)["matrix_sha256"] == matrix_sha256(alignment.fitted)
    once = fold(clip, alignment)
    with pytest.warns(UserWarning, match="Folded in spite of this: This model has a matrix merged into it already"):
        folded_twice = fold(once, alignment, force=True)
    assert mark_of(folded_twice)["onto"] == mark_of(once)
    tokens = models.tokens()
    assert_close(text_features(folded_twice, tokens), alignment(text_features(once, tokens)))
    with pytest.raises(ValueError, match="Alignment has dim 8 but the model's text projection gives 16"):
        fold(clip, Alignment(models.matrix(dim=8)), force=True)


# The mark lasts: in memory, in folders, in files of weights


def test_a_folder_says_what_it_is_opens_with_the_identity_and_takes_no_second_matrix(tmp_path):
    folder, alignment = tmp_path / "folded", Alignment.from_pretrained("scenes")
    labclip.fold("scenes", folder=folder)
    with pytest.warns(UserWarning, match=r"holds a folded model \(.*It opens with the identity.*load scenes") as warned:
        model = LABCLIP.from_pretrained(folder)
    assert warned[0].filename == __file__
    assert model.alignment.is_identity
    assert_close(
        model.encode_text(["a red cube"], normalize=True),
        LABCLIP.from_pretrained("scenes").encode_text(["a red cube"], normalize=True),
    )
    model.save_pretrained(tmp_path / "again")  # the mark goes with the weights
    with pytest.warns(UserWarning, match="holds a folded model"):
        LABCLIP.from_pretrained(tmp_path / "again")
    mark = json.loads((folder / "open_clip_config.json").read_text())["labclip_folded"]
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.base_model) == ("open_clip", None)  # the embedded model is nowhere on the Hub
    assert mark["matrix_sha256"] == matrix_sha256(alignment.fitted)
    assert (mark["strength"], mark["model"], mark["alignment"]) == (alignment.strength, "scenes", None)
    assert mark["base"] == vars(alignment.base)
    with pytest.raises(ValueError, match=r"has a matrix merged into it already \(SHA-256 .*folded from, scenes"):
        LABCLIP.from_pretrained(folder, alignment="scenes")
    with pytest.raises(ValueError, match="has a matrix merged into it already"):
        labclip.fold(folder, "scenes")
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")  # without the mark
    with pytest.raises(ValueError, match="This model is not the one the alignment was fitted on"):
        labclip.fold(loaded, "scenes")
