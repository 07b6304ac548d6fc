"""Models as folders: what is saved opens as the same model, here and in OpenCLIP; a save that fails changes nothing."""

import json
import os
from dataclasses import replace
from unittest.mock import Mock

import models
import open_clip
import pytest
import torch
from close import assert_close
from folders import contents
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.alignment import with_record
from labclip.io import saving
from labclip.io.folder import load
from labclip.io.saving import matches, matching_config
from labclip.towers.openclip import fingerprint_of

BASE = Base("tiny", "own", quick_gelu=False, embed_dim=models.DIM)
BASE_FILES = {"open_clip_config.json", "open_clip_model.safetensors"}
FILES = BASE_FILES | {"config.json", "model.safetensors", "README.md"}
FIXED = image_transform_v2(PreprocessCfg(size=32), is_train=False)


def save_folded(model, folder, *, config=None):
    labclip.fold(model, folder=folder, config=config)


def wrap(kind="clip", clip=None, tokenizer=None, **options):
    """A model as labclip loads it, with its configuration; one of a kind without, as its user wraps it."""
    options = {"logit_scale": 1.5} | options
    model = LABCLIP(clip or models.make(kind), Alignment(models.matrix(), **options), tokenizer=tokenizer)
    if kind in models.CONFIGS:
        preprocess = dict(getattr(model.visual, "preprocess_cfg", None) or {})
        model.openclip_config = {"model_cfg": models.CONFIGS[kind], "preprocess_cfg": preprocess}
    return model


def assert_same_model(model, other):
    """Image features, text features by tokens, scale and logits."""
    images, tokens = models.images(), models.tokens()
    with torch.no_grad():
        assert_close(model.encode_image(images), other.encode_image(images))
        assert_close(model.encode_text(tokens), other.encode_text(tokens))
        if not isinstance(getattr(model, "clip", model), open_clip.CoCa):
            assert_close(model.get_logits(images, tokens)[0], other.get_logits(images, tokens)[0])
    assert_close(model.logit_scale, other.logit_scale)


def opened_by_openclip(folder):
    return open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()


# Round trips


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_a_saved_model_comes_back_whole_and_folded_it_is_the_wrapped_one_in_openclip(tmp_path, monkeypatch, kind):
    model = wrap(kind, strength=0.5, tokenizer=models.tokenizer())
    with torch.no_grad():
        model.matrix.add_(0.25)  # trained in place
    model.alignment = with_record(model.alignment, metadata={"seed": 3})
    model.save_pretrained(tmp_path / "a")
    assert set(contents(tmp_path / "a")) == FILES
    reopened = LABCLIP.from_pretrained(tmp_path / "a")
    assert type(reopened.clip) is type(model.clip)
    assert_same_model(reopened, model)
    assert torch.equal(reopened.matrix, model.matrix)
    assert reopened.alignment.metadata == {"seed": 3}
    assert_close(reopened.encode_text(models.CAPTIONS), model.encode_text(models.tokens()))
    assert_same_model(opened_by_openclip(tmp_path / "a"), model.clip)
    reopened.save_pretrained(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    save_folded(model, tmp_path / "folded")
    assert set(contents(tmp_path / "folded")) == BASE_FILES | {"README.md"}
    folded = opened_by_openclip(tmp_path / "folded")
    assert type(folded) is type(model.clip)
    assert_same_model(folded, model)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'folded'}")
    assert torch.equal(tokenizer(models.CAPTIONS), models.tokens())
    # A model that the user wraps is saved with its configuration, or with the name of its architecture.
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", models.CONFIGS[kind])
    by_hand = LABCLIP(model.clip, model.alignment, tokenizer=model.tokenizer)
    for config in ("tiny", models.CONFIGS[kind]):
        for save, folder in ((LABCLIP.save_pretrained, "a"), (save_folded, "folded")):
            save(by_hand, tmp_path / "by hand" / folder, config=config)
            assert contents(tmp_path / "by hand" / folder) == contents(tmp_path / folder)
    assert "labclip" not in json.dumps(models.CONFIGS[kind])
    base = replace(BASE, quick_gelu=kind == "quickgelu")
    with pytest.warns(UserWarning, match="Nothing shows"):
        LABCLIP(model.clip, with_record(model.alignment, base=base)).save_pretrained(tmp_path / "recorded")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_saved_as_what_they_show_in_their_dtype(tmp_path, dtype):
    clip = models.make("clip").to(dtype)
    clip.text_projection.data = torch.randn(clip.text_projection.shape[::-1]).T.to(dtype)  # strided
    block = clip.transformer.resblocks[0]
    block.ln_1.weight = block.ln_2.weight  # tied
    wrap(clip=clip).save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "open_clip_model.safetensors").values()} == {dtype}
    reopened = LABCLIP.from_pretrained(tmp_path)
    assert torch.equal(reopened.matrix, models.matrix())  # never halved
    for name, value in clip.state_dict().items():
        assert torch.equal(reopened.clip.state_dict()[name], value.float()), name


def test_the_image_transform_of_the_base_is_kept(tmp_path):
    clip, picture = models.make("clip"), Image.new("RGB", (50, 40), "red")
    clip.visual.preprocess_cfg = {
        "size": 32, "mode": "RGB", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear",
        "resize_mode": "squash", "fill_color": 0,
    }  # fmt: skip
    model = wrap(clip=clip)
    for options in ({"config": models.CONFIGS["clip"]}, {}):
        model.save_pretrained(tmp_path, **options)
        reopened = LABCLIP.from_pretrained(tmp_path)
        assert torch.equal(reopened.preprocess(picture), model.preprocess(picture))
        assert not torch.equal(reopened.preprocess(picture), FIXED(picture))
    preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[2]
    assert torch.equal(preprocess(picture), reopened.preprocess(picture))


# The fingerprint


def test_a_base_that_was_trained_on_or_exchanged_is_no_longer_vouched_for(tmp_path):
    record = {"base": BASE, "fingerprint": fingerprint_of(models.make("clip"), models.tokenizer())}
    model = wrap(tokenizer=models.tokenizer(), **record)
    model.save_pretrained(tmp_path / "a")
    assert torch.equal(load(tmp_path / "a").fingerprint, record["fingerprint"])
    with torch.no_grad():
        model.clip.text_projection.copy_(torch.randn_like(model.clip.text_projection))
    with pytest.warns(UserWarning, match="Nothing shows"):
        model.save_pretrained(tmp_path / "b")
    assert load(tmp_path / "b").fingerprint is None
    assert_same_model(LABCLIP.from_pretrained(tmp_path / "b"), model)
    os.replace(tmp_path / "b" / "open_clip_model.safetensors", tmp_path / "a" / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="This model is not the one the alignment was fitted on"):
        LABCLIP.from_pretrained(tmp_path / "a")


def test_a_base_given_by_hand_is_not_vouched_for(tmp_path):
    model = wrap(base=BASE, tokenizer=models.tokenizer(), metadata={"seed": 3})
    with pytest.warns(UserWarning, match=r"Nothing shows that this model has the weights of tiny \(own\)"):
        model.save_pretrained(tmp_path / "a")
    reopened = LABCLIP.from_pretrained(tmp_path / "a")
    assert_same_model(reopened, model)
    assert (reopened.alignment.base, reopened.alignment.fingerprint) == (BASE, None)
    assert reopened.alignment.metadata["base_weights"].endswith("not verified to be those of tiny (own)")
    assert "- Base weights: loaded by the user or trained further; not" in (tmp_path / "a" / "README.md").read_text()


def test_the_base_of_a_folder_vouches_for_every_matrix_in_it(tmp_path):
    fingerprint = fingerprint_of(models.make("clip"), models.tokenizer())
    model = wrap(base=BASE, tokenizer=models.tokenizer(), fingerprint=fingerprint)
    model.save_pretrained(tmp_path / "a")
    assert_same_model(LABCLIP.from_pretrained(tmp_path / "a"), model)
    for name, matrix in (("b", models.matrix(1)), ("a", models.matrix(2))):
        other = LABCLIP.from_pretrained(tmp_path / "a", alignment=Alignment(matrix, base=BASE, strength=0.25))
        other.save_pretrained(tmp_path / name)
        alignment = load(tmp_path / name)
        assert torch.equal(alignment.fingerprint, fingerprint)
        assert torch.equal(alignment.fitted, matrix)
        assert (alignment.base, alignment.strength) == (BASE, 0.25)
    wrap().save_pretrained(tmp_path / "c")
    assert load(tmp_path / "c").fingerprint is None  # without a tokenizer


# Tokenizers


@pytest.fixture
def words(tmp_path):
    """A tokenizer of transformers with a vocabulary of words, as OpenCLIP opens it from a folder."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    words = ["[PAD]", "[UNK]", "a", "red", "cube", "and", "blue", "sphere", "cat", "Dogs", "dogs", ",", "--"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "words")
    return open_clip.tokenizer.HFTokenizer(str(tmp_path / "words"), context_length=models.CONTEXT)


def test_a_tokenizer_of_transformers_is_saved_with_the_model(tmp_path, words):
    model = wrap("siglip", tokenizer=words)
    model.save_pretrained(tmp_path / "a")
    reopened = LABCLIP.from_pretrained(tmp_path / "a")
    assert torch.equal(reopened.tokenizer(models.CAPTIONS), words(models.CAPTIONS))
    assert_close(reopened.encode_text(models.CAPTIONS), model.encode_text(models.CAPTIONS))
    save_folded(model, tmp_path / "folded")
    assert torch.equal(
        open_clip.get_tokenizer(f"local-dir:{tmp_path / 'folded'}")(models.CAPTIONS), words(models.CAPTIONS)
    )


def test_a_tokenizer_that_would_open_as_another_is_an_error(tmp_path, words):
    from open_clip.tokenizer import get_clean_fn

    words.clean_fn = get_clean_fn("canonicalize")
    with pytest.raises(ValueError, match="would open with another tokenizer than this HFTokenizer"):
        wrap("siglip", tokenizer=words).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="would open with another tokenizer than this SimpleTokenizer"):
        wrap(tokenizer=open_clip.SimpleTokenizer(context_length=12)).save_pretrained(tmp_path / "a")
    for save in (LABCLIP.save_pretrained, save_folded):
        with pytest.raises(ValueError, match="A method cannot be saved, and the folder would open with a wrong one"):
            save(wrap(tokenizer=words.__call__), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["words"]


# Hugging Face towers, whose configuration is given by name


@pytest.mark.parametrize("projection", ["linear", "mlp", None, "default"])
def test_hugging_face_towers_of_a_config_by_name(tmp_path, projection):
    transformers = pytest.importorskip("transformers")
    width = models.DIM if projection is None else 24
    transformers.BertConfig(
        vocab_size=49408, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=models.CONTEXT, pad_token_id=0,
    ).save_pretrained(tmp_path / "bert")  # fmt: skip
    text_cfg = {
        "hf_model_name": str(tmp_path / "bert"), "hf_model_pretrained": False, "context_length": models.CONTEXT,
        "vocab_size": 49408,
    } | ({} if projection == "default" else {"hf_proj_type": projection})  # fmt: skip
    clip = open_clip.CustomTextCLIP(models.DIM, models.VISION, text_cfg).eval()
    model = wrap(clip=clip)
    config = {"embed_dim": models.DIM, "vision_cfg": models.VISION, "text_cfg": text_cfg, "custom_text": True}
    model.openclip_config = {"model_cfg": config, "preprocess_cfg": {}}
    model.save_pretrained(tmp_path / "a")
    assert_same_model(LABCLIP.from_pretrained(tmp_path / "a"), model)
    save_folded(model, tmp_path / "folded")
    assert_same_model(opened_by_openclip(tmp_path / "folded"), model)
    assert text_cfg.get("hf_proj_type", "default") == projection


# What can't be saved, and saves that fail


NOT_KNOWN = r"configuration of this \w+ is not known, as labclip did not load it. Pass config=, the name"
ANOTHER = r"configuration of this CLIP is not config="
UNBUILT = {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"nonsense": 1}}
OTHER_CONFIGS = ("ViT-B-32", "nonsense", "hf-hub:org/name", {}, UNBUILT, models.CONFIGS["resnet"])


@pytest.mark.parametrize("save", [LABCLIP.save_pretrained, save_folded])
@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [("clip", None, NOT_KNOWN), ("hf", None, NOT_KNOWN), *(("clip", config, ANOTHER) for config in OTHER_CONFIGS)],
)
def test_without_the_models_own_configuration_nothing_is_saved(tmp_path, kind, config, message, save):
    with pytest.raises(ValueError, match=message):
        save(LABCLIP(models.make(kind), Alignment(models.matrix())), tmp_path / "a", config=config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["openclip", "transformers", "openai", "onnx"])
def test_a_folded_model_is_not_put_over_an_alignment(tmp_path, to):
    model = wrap()
    model.save_pretrained(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds an alignment, which would be overwritten or applied twice"):
        labclip.fold(model, to=to, folder=tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("save", [LABCLIP.save_pretrained, save_folded])
def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch, save):
    save(wrap(), tmp_path / "there")
    before = contents(tmp_path / "there")
    monkeypatch.setattr(saving, "save_file", Mock(side_effect=OSError(28, "No space left on device")))
    for folder in (tmp_path / "there", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="No space left"):
            save(wrap("siglip"), folder)
    assert contents(tmp_path / "there") == before
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


# Whether a configuration is that of a model, also where no weight shows the difference


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("change", models.SILENT)
def test_what_no_weight_shows_is_told_apart(change, custom):
    if change == "end token":
        models.make("eos")  # skips where OpenCLIP has no such pooling
    common = {"vision": {"pool_type": "avg"}, "text": {"pool_type": "eos"} if change == "end token" else {}}
    changed = common | {
        key: common.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in models.SILENT[change].items()
    }
    config, changed_config = (models.variant(**options, custom_text=custom) for options in (common, changed))
    other, clip = models.built(config), models.built(changed_config)
    assert {key: value.shape for key, value in other.state_dict().items()} == {
        key: value.shape for key, value in clip.state_dict().items()
    }
    assert matches(clip, changed_config) is True
    assert matches(clip, config) is False
    assert matches(other, changed_config) is False


def test_a_class_or_a_tower_of_somebodys_own_matches_nothing():
    class Own(open_clip.CLIP):
        def encode_text(self, text, normalize=False):
            return -super().encode_text(text, normalize)

    config = models.CONFIGS["clip"]
    assert matches(Own(**config), config) is False
    clip = models.make("clip")
    clip.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, models.DIM))
    assert matches(clip, config) is False
    # Towers of other libraries are not built.
    assert matches(clip, {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert"}}) is None


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "RN50", "coca_ViT-B-32", "ViT-L-14-CLIPA"])
def test_registered_models_have_the_configuration_of_their_name(name):
    config = open_clip.get_model_config(name)
    with torch.device("meta"):  # without memory for its weights
        clip = models.built(config)
    assert matching_config(clip, name) == config
    for other in ("ViT-B-16", "nonsense", "hf-hub:org/name", "local-dir:nowhere"):
        assert matching_config(clip, other) is None
