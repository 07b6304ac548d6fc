"""The wrapper: aligned on every path of every class, the wrapped model bit for bit where nothing is to be aligned."""

import copy
import pickle

import models
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from close import assert_close
from models import wrap
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

import labclip
from labclip import LABCLIP, Alignment, Base

ALL = list(models.KINDS)
NATIVE = [kind for kind in ALL if kind != "hf"]


def flat(output):
    """Every tensor of an output of whatever form, in order."""
    if isinstance(output, dict):
        return [tensor for key in sorted(output) for tensor in flat(output[key])]
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in flat(part)]
    return [] if output is None else [output]


PATHS = {
    "encode_text": lambda model, images, tokens: model.encode_text(tokens),
    "encode_text_normalized": lambda model, images, tokens: model.encode_text(tokens, normalize=True),
    "encode_image": lambda model, images, tokens: model.encode_image(images),
    "forward": lambda model, images, tokens: model(images, tokens),
    "forward_text": lambda model, images, tokens: model(text=tokens),
    "get_logits": lambda model, images, tokens: model.get_logits(images, tokens),
    "intermediates": lambda model, images, tokens: model.forward_intermediates(images, tokens, text_output_fmt="NLC"),
    "intermediates_logits": lambda model, images, tokens: model.forward_intermediates(
        images, tokens, text_output_fmt="NLC", output_logits=True, output_logit_scale_bias=True
    ),
    "classifier": lambda model, images, tokens: open_clip.build_zero_shot_classifier(
        model, models.tokenizer(), ["cat", "dog", "cube"], ["a photo of a {}", "a red {}"]
    ),
}


def run(path, model):
    images = models.images(len(models.CAPTIONS))
    try:
        with torch.no_grad():
            return PATHS[path](model, images, models.tokens())
    except (AssertionError, AttributeError, TypeError) as error:
        if isinstance(model, LABCLIP):
            raise
        pytest.skip(f"the wrapped class has no such path: {error}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "alignment", [Alignment.identity(models.DIM), Alignment(models.matrix(), logit_scale=1.5).at(0)]
)
def test_identity_is_the_wrapped_model_bit_for_bit(kind, path, alignment):
    wrapped = flat(run(path, models.make(kind)))
    outputs = flat(run(path, wrap(kind, alignment)))
    assert len(outputs) == len(wrapped) > 0
    for aligned, other in zip(outputs, wrapped, strict=True):
        assert torch.equal(aligned, other)
        assert aligned.dtype == other.dtype


@pytest.mark.parametrize("kind", ALL)
def test_every_path_is_aligned(kind):
    clip, model = models.make(kind), wrap(kind, logit_scale=1.5)
    with torch.no_grad():
        base_features = clip.encode_text(models.tokens(), normalize=False)
        image_features = clip.encode_image(models.images(4), normalize=True)
    text_features = models.expected(base_features, models.matrix())
    scale = torch.tensor(1.5).exp()
    logits = scale * image_features @ text_features.T
    if clip.logit_bias is not None:
        logits = logits + clip.logit_bias
    got = run("encode_text_normalized", model)
    assert_close(got, text_features)
    assert not torch.allclose(got, F.normalize(base_features, dim=-1), atol=0.05)
    unnormalized = model.encode_text(models.tokens(), normalize=False)
    assert_close(unnormalized, base_features @ models.matrix().T)
    output = run("forward", model)
    features, factor = (output["text_features"], output["logit_scale"]) if isinstance(output, dict) else output[1:3]
    assert_close(features, text_features)
    assert factor.reshape(()).item() == pytest.approx(float(scale))
    if hasattr(clip, "get_logits"):
        by_image, by_text = model.get_logits(models.images(4), models.tokens())
        assert_close(by_image, logits)
        assert torch.equal(by_text, by_image.T)


@pytest.mark.parametrize("kind", NATIVE)
def test_intermediates_are_aligned(kind):
    model, clip = wrap(kind, logit_scale=0.7), models.make(kind)
    path = "intermediates" if kind == "coca" else "intermediates_logits"
    before, after = run(path, clip), run(path, model)
    aligned = models.expected(before["text_features"], models.matrix())
    assert_close(after["text_features"], aligned)
    assert torch.equal(after["image_features"], before["image_features"])
    if kind == "coca":
        return
    logits = torch.tensor(0.7).exp() * before["image_features"] @ aligned.T
    assert_close(after["image_logits"] - (clip.logit_bias or 0.0), logits)
    assert torch.equal(after["text_logits"], after["image_logits"].T)
    assert after["logit_scale"].reshape(()).item() == pytest.approx(torch.tensor(0.7).exp().item())
    for states, base_states in zip(after["text_intermediates"], before["text_intermediates"], strict=True):
        assert torch.equal(states, base_states)


@pytest.mark.parametrize("kind", ["clip", "custom", "main", "siglip", "hf"])
def test_zero_shot_classifier_is_aligned_before_the_mean_over_templates(kind):
    clip, classes, templates = models.make(kind), ["cat", "dog"], ["a photo of a {}", "a red {}"]
    classifier = open_clip.build_zero_shot_classifier(wrap(kind), models.tokenizer(), classes, templates)
    columns = []
    for name in classes:
        with torch.no_grad():
            features = clip.encode_text(models.tokenizer()([template.format(name) for template in templates]))
        columns.append(F.normalize(models.expected(features, models.matrix()).mean(0), dim=0))
    assert_close(classifier, torch.stack(columns, dim=1))


@pytest.mark.parametrize("kind", ["clip", "nonscalar", "siglip"])
def test_logit_scale_is_the_fitted_one_interpolated_by_strength(kind):
    base_scale = models.make(kind).logit_scale.item()
    model = wrap(kind, Alignment(models.matrix(), logit_scale=1.0))
    assert model.logit_scale.item() == pytest.approx(1.0)
    model.alignment = model.alignment.at(0.25)
    assert model.logit_scale.item() == pytest.approx(base_scale + 0.25 * (1.0 - base_scale))
    assert model.logit_scale.shape == model.clip.logit_scale.shape
    model.alignment = model.alignment.at(0)
    assert model.logit_scale is model.clip.logit_scale


# Images


def test_pil_images_are_preprocessed():
    clip = models.make("clip")
    transform = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    model = LABCLIP(clip, Alignment(models.matrix()), preprocess=transform)
    picture = Image.new("RGB", (50, 40), "red")
    expected = clip.encode_image(transform(picture)[None])
    assert torch.equal(model.encode_image(picture), expected)
    assert_close(model.encode_image([picture, picture]), expected.expand(2, -1))


# Similarity


def test_similarity_is_the_cosine():
    model, images, texts = wrap("clip"), torch.randn(3, models.DIM) * 7, torch.randn(5, models.DIM) * 0.1
    got = model.similarity(images, texts)
    assert_close(got, torch.stack([F.cosine_similarity(images, text[None]) for text in texts], dim=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.similarity(images, texts), got)
    with pytest.raises(
        ValueError, match=rf"Features are a Tensor of torch.float32 \[5, 3\]. Pass .* \[n, {models.DIM}\]"
    ):
        model.similarity(images, texts[:, :3])


# Life as a module


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_matrix_stays_float32(dtype):
    model = wrap("clip", logit_scale=1.2345678).to(dtype)
    assert model.matrix.dtype == torch.float32
    assert model.aligned_logit_scale.dtype == torch.float32
    assert torch.equal(model.matrix.data, models.matrix())
    assert torch.equal(model.alignment.matrix.data, models.matrix())
    model.trim = False
    features = model.encode_text(models.tokens(), normalize=True)
    assert features.dtype == dtype
    exact = models.expected(model.clip.encode_text(models.tokens(), normalize=True), models.matrix())
    torch.testing.assert_close(features, exact.to(dtype))


@pytest.mark.parametrize("kind", ["clip", "coca", "siglip"])
def test_deepcopy_and_pickle_are_independent_and_equal(kind):
    model = wrap(kind, logit_scale=1.5, base=Base("tiny", "none", quick_gelu=False, embed_dim=models.DIM))
    reference = model.encode_text(models.CAPTIONS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.encode_text(models.CAPTIONS), reference)
        assert twin.alignment.matrix is twin.matrix
        assert twin.alignment.base == model.alignment.base
        with torch.no_grad():
            twin.matrix.zero_()
        assert torch.equal(model.encode_text(models.CAPTIONS), reference)


@pytest.mark.parametrize("target_scale", [None, 1.0])
@pytest.mark.parametrize("source_scale", [None, 2.0])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_state_brings_matrix_and_temperature(source_scale, target_scale, strength):
    source = wrap("clip", Alignment(models.matrix(), logit_scale=source_scale, strength=strength))
    target = wrap("clip", Alignment(models.matrix(), logit_scale=target_scale, metadata={"recipe": "none"}))
    target.load_state_dict(source.state_dict())
    is_same = strength == 1.0 and source_scale == target_scale
    for model in (target, wrap("clip", target.alignment)):
        assert torch.equal(model.matrix, source.matrix)
        assert model.logit_scale.item() == pytest.approx(source.logit_scale.item())
        assert model.alignment.metadata == ({"recipe": "none"} if is_same else {})
        assert model.alignment.strength == 1.0
        assert torch.equal(model.alignment.at(1.0).matrix, source.matrix)


def test_a_record_does_not_follow_the_model_it_was_read_from():
    source, other = wrap("clip"), wrap("clip", Alignment.identity(models.DIM))
    other.alignment = source.alignment
    with torch.no_grad():
        for model in (source, other):
            model.matrix.add_(1.0)
            assert not torch.equal(model.alignment.fitted, models.matrix())


@pytest.mark.parametrize("record", [{"strength": 0.3, "logit_scale": 1.5}, {}])
def test_a_model_on_the_meta_device_gets_its_values_from_a_state(record):
    source = wrap("clip", **record)
    with torch.device("meta"):
        clip = open_clip.CLIP(models.DIM, models.VISION, models.TEXT)
    for target in (LABCLIP(clip, Alignment(models.matrix(), **record)), wrap("clip", **record).to("meta")):
        assert target.matrix.is_meta
        target.load_state_dict(source.state_dict(), assign=True)
        target.eval()
        target.clip.attn_mask = source.clip.attn_mask  # which no state holds
        assert torch.equal(target.encode_text(models.tokens()), source.encode_text(models.tokens()))
        assert torch.equal(target.alignment.matrix, source.matrix)
        assert target.logit_scale.item() == source.logit_scale.item()


def _by_an_optimiser(model):
    model.matrix.requires_grad_()
    optimiser = torch.optim.AdamW([model.matrix], lr=0.1, fused=True)
    (model.matrix * models.matrix()).sum().backward()
    optimiser.step()
    model.matrix.requires_grad_(False)


WRITES = {
    "in place": lambda model: model.matrix.copy_(models.matrix()),
    "data.copy_": lambda model: model.matrix.data.copy_(models.matrix()),
    "vector_to_parameters": lambda model: nn.utils.vector_to_parameters(models.matrix().flatten(), [model.matrix]),
    "a Parameter": lambda model: setattr(model, "matrix", nn.Parameter(models.matrix(), requires_grad=False)),
    "AdamW(fused=True)": torch.enable_grad()(_by_an_optimiser),
}


@pytest.mark.parametrize("write", WRITES)
def test_what_was_written_into_the_matrix_is_used_and_takes_the_record_away(write):
    identity = Alignment(torch.eye(models.DIM), metadata={"recipe": "none"}, strength=0.5)
    model = wrap("clip", identity).requires_grad_(False)
    features = model.encode_text(models.tokens())
    assert model.alignment.metadata == {"recipe": "none"}
    with torch.no_grad():
        WRITES[write](model)
        assert not torch.equal(model.matrix, torch.eye(models.DIM))
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                for text in (models.CAPTIONS, models.tokens()):
                    assert_close(model.encode_text(text), features @ model.matrix.T)
        assert torch.equal(model.alignment.matrix, model.matrix)
        assert (model.alignment.metadata, model.alignment.strength) == ({}, 1.0)
        model.matrix.data.copy_(torch.eye(models.DIM))
        assert torch.equal(model.encode_text(models.tokens()), features)


@pytest.mark.parametrize(
    "name", ["encode_text", *(pytest.param(method, marks=pytest.mark.slow) for method in ("forward", "get_logits"))]
)
def test_a_compiled_model_has_no_break_and_uses_what_was_written(name):
    model = wrap("clip", Alignment.identity(models.DIM)).requires_grad_(False)
    function = getattr(model, name)
    arguments = (models.tokens(),) if name == "encode_text" else (models.images(4), models.tokens())
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    try:
        for matrix in (torch.eye(models.DIM), models.matrix()):
            model.matrix.data.copy_(matrix)
            for compiled_output, other in zip(flat(compiled(*arguments)), flat(function(*arguments)), strict=True):
                torch.testing.assert_close(compiled_output, other)
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("start", [torch.eye(models.DIM), models.matrix()])
def test_gradients_reach_the_matrix_when_asked_for(start):
    model = wrap("clip", Alignment(start)).requires_grad_(False)
    model.matrix.requires_grad_()
    for wrapped in (model, wrap("clip", Alignment(start.clone().requires_grad_()))):
        wrapped.encode_text(models.tokens(), normalize=True).sum().backward()
        assert wrapped.alignment.matrix is wrapped.matrix
        assert wrapped.matrix.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    assert not wrap("clip", Alignment(start)).matrix.requires_grad
    assert all(parameter.requires_grad for parameter in wrap("clip").clip.parameters())  # a user's model stays as it is


def test_a_loaded_model_is_frozen_and_its_features_are_plain_numbers():
    model = LABCLIP.from_pretrained("scenes")
    created, _, _ = labclip.create_model_and_transforms("scenes")
    for loaded in (model, created, model.fold()):
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for text in ("a red cube", ["a red cube"], model.tokenizer(["a red cube"])):
        assert model.encode_text(text).numpy().shape == (1, 256)
    assert model(torch.zeros(1, 3, 64, 64), model.tokenizer(["a red cube"]))[1].numpy().shape == (1, 256)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["clip", "custom", "resnet"])
def test_scripts_as_its_folded_copy(kind):
    model, images, tokens = wrap(kind, logit_scale=1.5), models.images(4), models.tokens()
    scripted = torch.jit.script(model)
    for scripted_output, other in zip(flat(scripted(images, tokens)), flat(model(images, tokens)), strict=True):
        assert_close(scripted_output, other)
    assert isinstance(model.clip, nn.Module)
    assert not isinstance(model.clip, torch.jit.ScriptModule)


# What is passed on, and what is not


def test_attributes_of_the_wrapped_model_are_there():
    model = wrap("clip")
    assert model.visual is model.clip.visual
    assert model.context_length == models.CONTEXT
    assert model.logit_bias is None
    assert model.transformer is model.clip.transformer
    model.set_grad_checkpointing(False)
    model.lock_image_tower()
    assert not any(parameter.requires_grad for parameter in model.visual.parameters())


@pytest.mark.parametrize(("kind", "name"), [("clip", "text_projection"), ("custom", "text"), ("main", "_encode_text")])
def test_unaligned_paths_are_refused(kind, name):
    with pytest.raises(AttributeError, match=f"has no '{name}'"):
        getattr(wrap(kind), name)


# Mistakes


def owned(quick_gelu):
    return Base("tiny", "own", quick_gelu=quick_gelu, embed_dim=models.DIM)


def bare(**options):
    return LABCLIP(models.make("clip"), Alignment(models.matrix()), **options)


ROWS = torch.ones(2, models.DIM)
LONG = {"tokenizer": open_clip.get_tokenizer("ViT-B-32")}
FEATURES = r"Pass floating-point tensors .* as encode_image and encode_text give"
IMAGE = r". Pass a PIL image.*model.preprocess"
REFUSED = [
    (lambda: wrap("clip", Alignment.identity(8)), r"dim 8 but this CLIP embeds in 16.*list_pretrained"),
    (lambda: wrap("clip", base=owned(True)), "Create it with force_quick_gelu=True"),
    (lambda: wrap("quickgelu", base=owned(False)), "Create it with force_quick_gelu=False"),
    (lambda: LABCLIP(wrap("clip"), Alignment(models.matrix())), "is a LABCLIP already"),
    (lambda: LABCLIP(torch.nn.Linear(2, 2), Alignment.identity(2)), "is not an OpenCLIP model"),
    (lambda: LABCLIP(models.make("clip"), None), "The alignment is a NoneType. Pass a labclip.Alignment"),
    (lambda: wrap("clip").similarity("a red cube", ROWS), FEATURES),
    (lambda: wrap("clip").similarity(ROWS[0], ROWS), FEATURES),
    (lambda: bare().encode_image(Image.new("RGB", (9, 9))), "no preprocess"),
    (lambda: wrap("clip").encode_image(np.zeros((2, 64, 3), np.uint8)), rf"a ndarray of uint8 \[2, 64, 3\]{IMAGE}"),
    (lambda: wrap("clip")("x.png"), f"image is a str{IMAGE}"),
    (lambda: wrap("clip").encode_image(torch.zeros(2, 32, 32, 3)), IMAGE),
    (lambda: bare().encode_text("a cat"), "no tokenizer.*open_clip.get_tokenizer"),
    (lambda: bare(**LONG).encode_text(" ".join(["cat"] * 40)), "made 42 tokens.*takes 16"),
    (lambda: wrap("clip").encode_text({"a red cube": 1}), "text is a dict. Pass a caption, a list of captions"),
    (lambda: wrap("clip").encode_text(["a cat", None]), "Caption 1 is a NoneType, not a str"),
    (lambda: wrap("clip").encode_text(torch.zeros(2, 16)), r"text is a Tensor of torch.* \[.*Pass token ids, whole"),
]


@pytest.mark.parametrize(("attempt", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_mistakes_are_told(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


@pytest.mark.parametrize("name", ["hf-hub:evil/repo", "local-dir:/nowhere", "unheard-of"])
def test_a_recorded_name_is_looked_up_in_no_other_place(name):
    base = Base(name, "", quick_gelu=False, embed_dim=models.DIM)
    assert LABCLIP(models.make("clip"), Alignment(models.matrix(), base=base)).tokenizer is None
