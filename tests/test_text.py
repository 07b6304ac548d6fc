"""Captions and token ids at the length they need: the wrapped model's numbers, its bits where nothing is cut."""

import models
import numpy as np
import open_clip
import pytest
import torch
from close import UNIT, assert_close
from models import wrap
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

import labclip.towers.prefixes
from labclip import LABCLIP, Alignment

CAUSAL = ["clip", "quickgelu", "resnet", "dict", "linear", "custom", "nonscalar", "eos"]
OTHERS = ["siglip", "unprojected", "coca", "hf"]
END = 49407
PREFIXES = [
    "a red",
    "a red cube",
    "a red cube",
    "a red cube and a blue sphere",
    "a red cube and a red sphere",
    "",
    "cat",
]


def whole(model, tokens):
    """Unit-length aligned features by the wrapped model's own method, at the full context."""
    return models.expected(model.clip.encode_text(tokens, normalize=False), models.matrix())


@pytest.fixture
def trimmed(monkeypatch):
    """How many rows each pass took that went by prefixes."""
    rows, encode = [], labclip.towers.prefixes.encode_prefixes

    def counting(tower, tokens, *others):
        rows.append(len(tokens))
        return encode(tower, tokens, *others)

    monkeypatch.setattr(labclip.towers.prefixes, "encode_prefixes", counting)
    return rows


# The same numbers


@pytest.mark.parametrize("given", ["strings", "tokens"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_towers_get_what_they_need_and_give_the_same_numbers(kind, given, trimmed):
    model = wrap(kind)
    for captions in (PREFIXES, models.CAPTIONS, ["cat"]):
        tokens = models.tokenizer()(captions)
        got = model.encode_text(captions if given == "strings" else tokens, normalize=True)
        assert_close(got, whole(model, tokens))
        assert sum(trimmed) == len(captions)
        trimmed.clear()
    expected = model.clip.encode_text(models.tokens(), normalize=False)
    assert_close(model.encode_text(models.tokens()), expected @ models.matrix().T)  # unnormalised stays so
    base = model.encode_text(models.CAPTIONS, normalize=True, aligned=False)
    assert_close(base, model.clip.encode_text(models.tokens(), normalize=True))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_towers_get_the_full_context(kind, trimmed):
    model = wrap(kind)
    features = model.encode_text(models.tokens(), normalize=True)
    assert_close(features, whole(model, models.tokens()))
    assert_close(model.encode_text(models.CAPTIONS, normalize=True), features)
    assert not trimmed


def test_the_other_layout_of_openclip_is_trimmed_where_it_is_openclips_own(trimmed):
    model = wrap("main")
    for text in (models.CAPTIONS, models.tokens()):
        assert_close(model.encode_text(text, normalize=True), whole(model, models.tokens()))
    assert bool(trimmed) == (models.MainLayoutCLIP is open_clip.CLIP)


@pytest.mark.parametrize("kind", CAUSAL)
def test_nothing_is_cut_where_the_wrapped_models_bits_are_promised(kind, trimmed):
    tokens, base = models.tokens(), wrap(kind, Alignment(models.matrix()).at(0))
    assert torch.equal(base.encode_text(tokens, True), base.clip.encode_text(tokens, True))
    model = wrap(kind)
    assert torch.equal(model.encode_text(tokens, True, aligned=False), model.clip.encode_text(tokens, True))
    full = wrap(kind, trim=False)
    assert torch.equal(full.encode_text(tokens), full.clip.encode_text(tokens, normalize=False) @ full.matrix.T)
    assert_close(full.encode_text(models.CAPTIONS), full.encode_text(tokens))
    assert not trimmed


@pytest.mark.parametrize("kind", ["clip", "eos", "another end"])
def test_any_tokens_at_all_give_the_same_by_prefix(kind, trimmed):
    model = wrap("eos" if kind == "another end" else kind)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        tokens = torch.randint(1, 4, (12, models.CONTEXT), generator=draw)  # also behind the end
        ends = torch.randint(0, models.CONTEXT, (2, 12), generator=draw)
        tokens[torch.arange(12), ends] = END
        tokens[5] = torch.randint(1, 4, (models.CONTEXT,), generator=draw)  # no end at all
        if kind == "another end":  # not the highest id, so that the first of the highest is not the end
            model.clip.text.eos_id = 3
        tokens = tokens.int() if seed % 2 else tokens.T.contiguous().T
        assert_close(model.encode_text(tokens, True), whole(model, tokens))
    assert sum(trimmed) == 6 * 12


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["clip", "quickgelu", "linear", "custom", "eos"])
def test_shared_prefixes_change_no_caption_and_no_gradient(kind, training, trimmed):
    gradients = []
    for trim in (True, False):
        model = wrap(kind, trim=trim).train(training)
        model.matrix.requires_grad_()
        features = model.encode_text(models.tokenizer()(PREFIXES), normalize=True)
        weights = torch.linspace(-1, 1, features.numel()).view_as(features)
        (features * weights).sum().backward()
        gradient_of = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        gradients.append(gradient_of | {"features": features.detach()})
    assert gradients[0].keys() == gradients[1].keys() > {"matrix"}
    for name, gradient in gradients[0].items():
        assert_close(gradient.flatten(), gradients[1][name].flatten(), 2 * UNIT)  # forwards and back
    assert sum(trimmed) == len(PREFIXES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_is_as_near_the_exact_numbers_as_at_full_length(how, dtype, trimmed):
    tokens, exact = models.tokenizer()(PREFIXES), whole(wrap("clip"), models.tokenizer()(PREFIXES))
    errors = []
    for trim in (True, False):
        model = wrap("clip", trim=trim).to(dtype if how == "weights" else torch.float32)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=how == "autocast"):
            got = model.encode_text(tokens, normalize=True)
        errors.append((got.float() - exact).square().mean().sqrt().item())
    assert 0 < errors[0] < 1.5 * errors[1]
    assert trimmed


# Each distinct prefix once


def test_each_distinct_prefix_goes_through_the_layers_once():
    model, rows = wrap("clip"), []

    class Counting(nn.Identity):
        def forward(self, x):
            rows.append(x.shape[:-1].numel())
            return x

    for block in model.clip.transformer.resblocks:
        block.ls_2 = Counting()
    model.encode_text(PREFIXES)
    # Up to eight tokens: start; end; a, red, end; cube, end; cat, end. Longer: a, red, cube, and, a; blue, sphere, end;
    # red, sphere, end. Then the seven ends, two of which are one caption's.
    assert rows == [20, 7]


def test_many_captions_keep_their_order(trimmed):
    model = wrap("clip")
    captions = [f"{'very ' * (row % 9)}small cat number {row}" for row in range(300)]
    together = model.encode_text(captions)
    for row in (0, 7, 8, 150, 299):
        assert_close(together[row], model.encode_text(captions[row])[0])
    assert len(trimmed) > 5


# What somebody does to a model is met


def _larger(x):
    return (x[0] * 1.5, *x[1:]) if isinstance(x, tuple) else x * 1.5


def _own_forward(module):
    forward = module.forward
    module.forward = lambda *args, **kwargs: _larger(forward(*args, **kwargs))


PARTS = {
    "transformer": lambda clip: clip.transformer,
    "block": lambda clip: clip.transformer.resblocks[-1],
    "attn": lambda clip: clip.transformer.resblocks[-1].attn,
    "ln_2": lambda clip: clip.transformer.resblocks[-1].ln_2,
    "mlp": lambda clip: clip.transformer.resblocks[-1].mlp,
    "ln_final": lambda clip: clip.ln_final,
    "token_embedding": lambda clip: clip.token_embedding,
}
PUT = {
    "hook": lambda module: module.register_forward_hook(lambda module, inputs, output: _larger(output)),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda module, inputs: inputs),
    "forward": _own_forward,
}
METHODS = {
    open_clip.CLIP: ["encode_text"],
    open_clip.transformer.Transformer: ["forward"],
    ResidualAttentionBlock: ["forward", "attention"],
    nn.MultiheadAttention: ["forward"],
}


def met(model, trimmed):
    """Whether strings and tokens go the whole way that the wrapped model goes."""
    expected = whole(model, models.tokens())
    for text in (models.CAPTIONS, models.tokens()):
        assert_close(model.encode_text(text, True), expected)
    return not trimmed


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("put", PUT)
def test_whatever_is_put_into_the_tower_is_met(part, put, trimmed):
    model = wrap("clip")
    PUT[put](PARTS[part](model.clip))
    assert met(model, trimmed)


def test_a_method_put_on_a_class_is_met(trimmed, monkeypatch):
    model, called = wrap("clip"), []
    for kind, name in [(kind, name) for kind, names in METHODS.items() for name in names]:
        original = getattr(kind, name)
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, lambda *args, f=original, **kwargs: (called.append(f), f(*args, **kwargs))[1])
            assert met(model, trimmed)
        assert original in called


def test_a_subclass_a_hook_on_all_modules_and_checkpointing_are_met(trimmed):
    class Negated(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return -super().encode_text(text, normalize=normalize)

    clip = Negated(models.DIM, models.VISION, models.TEXT)
    clip.load_state_dict(models.make("clip").state_dict())
    model = LABCLIP(clip.eval(), Alignment(models.matrix()), tokenizer=models.tokenizer())
    assert met(model, trimmed)
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert met(wrap("clip"), trimmed)
    finally:
        hook.remove()
    model = wrap("clip").train()
    model.set_grad_checkpointing(True)
    assert met(model, trimmed)


def test_a_layer_put_in_place_of_another_is_met(trimmed):
    model = wrap("clip")
    block = model.clip.transformer.resblocks[0]

    class MaybeCalled(nn.Linear):  # torch's attention reads its weights and never calls it, OpenCLIP's does
        def forward(self, x):
            return -super().forward(x)

    block.attn.out_proj = MaybeCalled(24, 24)
    block.mlp.c_proj = nn.Sequential(block.mlp.c_proj, nn.Linear(24, 24))
    assert not met(model, trimmed)  # encoded by prefixes, to the same numbers


def test_dropout_in_training_draws_for_every_caption(trimmed):
    model = wrap("clip")
    model.clip.transformer.resblocks[0].ls_2 = nn.Dropout(0.5)
    model.train().encode_text(models.tokens())
    assert not trimmed
    assert not met(model.eval(), trimmed)


def test_an_exported_model_is_good_for_captions_of_other_lengths():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = wrap("clip").requires_grad_(False)

        def forward(self, tokens):
            return self.model.encode_text(tokens)

    text, tokens = Text().eval(), models.tokenizer()(["a red cube and a blue sphere", "cat"])
    exported = torch.export.export(text, (models.tokenizer()(["cat", "a dog"]),)).module()
    assert_close(exported(tokens), text(tokens))


# Strings


def test_captions_that_are_cut_are_counted_and_named():
    long = "a red cube and " * 8 + "a blue sphere"
    fits = " ".join(["cat"] * (models.CONTEXT - 2))
    with pytest.warns(UserWarning, match=r"1 of 2 captions are longer than the 16 tokens.*'a red cube and a red"):
        wrap("clip").encode_text([fits, long])


def columns():
    """`CAPTIONS` in the containers that people keep them in."""
    yield np.array(models.CAPTIONS)
    yield np.array(models.CAPTIONS, dtype=object)
    yield tuple(models.CAPTIONS)
    yield (caption for caption in models.CAPTIONS)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"caption": models.CAPTIONS}, index=[9, 8, 7, 6])
    yield from (frame["caption"], frame["caption"].astype("string"), frame["caption"].astype("category"))
    pyarrow = pytest.importorskip("pyarrow")
    array = pyarrow.array(models.CAPTIONS)
    yield from (array, array.cast(pyarrow.large_string()), array.dictionary_encode(), pyarrow.chunked_array([array]))


def test_columns_of_other_libraries_are_captions():
    model = wrap("clip")
    expected = model.encode_text(models.CAPTIONS)
    for column in columns():
        assert torch.equal(model.encode_text(column), expected)
    assert model.encode_text([]).shape == (0, models.DIM)
