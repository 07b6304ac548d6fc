"""Folded models in the forms of other libraries: transformers, OpenAI's clip, ONNX; and the command."""

import dataclasses
import json
import sys
import warnings
from functools import partial

import commands
import models
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from close import UNIT, assert_close
from foldable import as_transformers, family, fingerprint_of, skewed, text_features, text_features_of
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.io.folding import fold
from labclip.io.text_sides import mark_of
from labclip.io.to_onnx import _TextTower

run = partial(commands.run, "fold")


def assert_same_direction(got, exact):
    got, exact = (F.normalize(torch.as_tensor(features).detach().float(), dim=-1) for features in (got, exact))
    assert float((got - exact).abs().max()) < UNIT


# Into transformers


@pytest.mark.parametrize("kind", ["clip", "quickgelu", "dict", "custom", "eos"])
def test_an_openclip_model_becomes_one_of_transformers(kind):
    pytest.importorskip("transformers")
    clip, alignment = models.make(kind), skewed(logit_scale=1.5, strength=0.5)
    folded = fold(clip, alignment, to="transformers")
    wrapped = LABCLIP(clip, alignment)
    got = folded.get_image_features(pixel_values=models.images())
    assert_same_direction(text_features(folded, models.tokens()), wrapped.encode_text(models.tokens()))
    assert_same_direction(getattr(got, "pooler_output", got), clip.encode_image(models.images()))
    assert folded.logit_scale.item() == pytest.approx(float(wrapped.logit_scale.detach()))
    assert mark_of(folded)["strength"] == 0.5
    assert not folded.training


@pytest.mark.parametrize("change", models.SILENT)
def test_what_no_weight_shows_is_taken_over_or_refused(change):
    pytest.importorskip("transformers")
    clip = models.built(models.variant(**models.SILENT[change])).eval()
    if change in ("pooling of the text", "no mask"):
        with pytest.raises(ValueError, match="transformers gives other text features"):
            fold(clip, Alignment.identity(models.DIM), to="transformers")
        return
    folded = fold(clip, Alignment.identity(models.DIM), to="transformers")
    got = folded.get_image_features(pixel_values=models.images())
    assert_same_direction(text_features(folded, models.tokens()), clip.encode_text(models.tokens()))
    assert_same_direction(getattr(got, "pooler_output", got), clip.encode_image(models.images()))


@pytest.fixture
def hf_folder(tmp_path):
    pytest.importorskip("transformers")
    fold(models.make("clip"), skewed(logit_scale=1.5), to="transformers", folder=tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def plain(tmp_path):
    """The same with nothing merged into it."""
    pytest.importorskip("transformers")
    fold(models.make("clip"), Alignment.identity(models.DIM), to="transformers", folder=tmp_path / "plain")
    return tmp_path / "plain"


def test_a_transformers_folder_opens_in_every_way(hf_folder):
    import transformers

    assert "library_name: transformers" in (hf_folder / "README.md").read_text()
    wrapped = LABCLIP(models.make("clip"), skewed(logit_scale=1.5), tokenizer=models.tokenizer())
    expected = wrapped.encode_text(models.CAPTIONS, normalize=True).detach()
    processor = transformers.AutoProcessor.from_pretrained(hf_folder)
    inputs = processor(text=models.CAPTIONS, padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] < models.CONTEXT
    for kind in ("AutoModel", "CLIPTextModelWithProjection"):
        model = getattr(transformers, kind).from_pretrained(hf_folder).eval()
        features = text_features if kind == "AutoModel" else text_features_of
        assert_same_direction(features(model, inputs["input_ids"]), expected)
        with pytest.raises(ValueError, match="has a matrix merged into it already"):
            fold(model, skewed())
    long = processor.tokenizer(["a red cube " * 20], truncation=True)["input_ids"][0]
    assert long == models.tokenizer()(["a red cube " * 20])[0].tolist()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8))
    pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0]
    openclip_pixels = image_transform_v2(PreprocessCfg(size=32), is_train=False)(image)
    assert float((pixels - openclip_pixels).abs().max()) < 1.5 / 255 / 0.26  # one grey level, of rounding


def test_the_pipeline_of_a_folder_and_a_folded_pipeline_are_the_wrapper(hf_folder, plain):
    import transformers

    task = "zero-shot-image-classification"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8))
    ask = {"candidate_labels": models.CAPTIONS, "hypothesis_template": "{}"}
    pipeline = transformers.pipeline(task, model=str(hf_folder))
    base = transformers.pipeline(task, model=str(plain))
    before = base(image, **ask)
    folded = fold(base, skewed(logit_scale=1.5))
    for of_folder, of_pipeline in zip(pipeline(image, **ask), folded(image, **ask), strict=True):
        assert of_folder["label"] == of_pipeline["label"]
        assert of_folder["score"] == pytest.approx(of_pipeline["score"], abs=UNIT)
    assert folded(image, **ask) != before == base(image, **ask)
    assert mark_of(base.model) is None
    with pytest.raises(ValueError, match="has a matrix merged into it already"):
        fold(folded, skewed())
    with pytest.raises(ValueError, match=r"Pipeline is folded into its own class. Leave out to and folder"):
        fold(base, skewed(), to="transformers")


def test_a_sentence_transformer_is_folded_and_opens_a_folder(hf_folder, plain):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    wrapped = LABCLIP(models.make("clip"), skewed(logit_scale=1.5), tokenizer=models.tokenizer())
    expected = wrapped.encode_text(models.CAPTIONS, normalize=True).detach()
    base = sentence_transformers.SentenceTransformer(str(plain), device="cpu")
    model = sentence_transformers.SentenceTransformer(str(hf_folder), device="cpu")
    for sentences in (model, fold(base, skewed(logit_scale=1.5))):
        assert_same_direction(sentences.encode(models.CAPTIONS), expected)


def test_a_folder_of_transformers_is_folded_by_name(plain, tmp_path):
    skewed(fingerprint=fingerprint_of("clip")).save_pretrained(tmp_path / "matrix")
    folded = labclip.fold(plain, tmp_path / "matrix", folder=tmp_path / "folded")
    assert_close(text_features(folded, models.tokens()), skewed()(text_features(as_transformers(), models.tokens())))
    names = {path.name for path in (tmp_path / "folded").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    mark = mark_of(folded)
    assert (mark["model"], mark["alignment"]) == ("plain", "matrix")
    assert str(tmp_path) not in json.dumps(mark)
    with pytest.raises(ValueError, match=r"the config of a transformers model\. Open it there"):
        LABCLIP.from_pretrained(tmp_path / "folded")
    with pytest.raises(ValueError, match="Load the model that it was folded from, plain"):
        labclip.fold(tmp_path / "folded", tmp_path / "matrix")
    labclip.fold(plain, tmp_path / "matrix", folder=tmp_path / "folded")  # over the first


def test_a_model_of_transformers_from_nowhere_is_saved_without_a_processor_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match="No tokenizer and image processor were found for this CLIPModel"):
        fold(family("CLIP"), skewed(), folder=tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").is_file()


# Into OpenAI's clip

OPENAI_TEXT = models.TEXT | {"width": 64, "heads": 1}
OPENAI = {
    "vit": (models.VISION | {"width": 64, "head_width": 64}, open_clip.CLIP),
    "custom": (models.VISION | {"width": 64, "head_width": 64}, open_clip.CustomTextCLIP),
    "resnet": ({"layers": [1, 1, 1, 1], "width": 64, "head_width": 64, "image_size": 32}, open_clip.CLIP),
}


def of_openais_architecture(kind, **options):
    vision, cls = OPENAI[kind]
    torch.manual_seed(1)
    return cls(models.DIM, vision, OPENAI_TEXT, **({"quick_gelu": True} | options)).eval()


@pytest.mark.parametrize("kind", OPENAI)
def test_a_state_dict_for_openais_clip(kind, tmp_path):
    clip = of_openais_architecture(kind)
    state = fold(clip, skewed(logit_scale=1.5), to="openai", folder=tmp_path / "openai")
    folded = fold(clip, skewed(logit_scale=1.5))
    rebuilt = open_clip.CLIP(models.DIM, OPENAI[kind][0], OPENAI_TEXT, quick_gelu=True)
    rebuilt.load_state_dict(state)  # strict: OpenAI's names, and no other
    assert torch.equal(rebuilt.eval().encode_text(models.tokens()), folded.encode_text(models.tokens()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(str(tmp_path / "openai" / "model.pt"))
        loaded = open_clip.load_openai_model(str(tmp_path / "openai" / "model.pt"), device="cpu")
    assert {name: value.shape for name, value in script.state_dict().items()} == {k: v.shape for k, v in state.items()}
    for got, exact in (
        (loaded.encode_text(models.tokens(), True), folded.encode_text(models.tokens(), True)),
        (loaded.encode_image(models.images(), True), clip.encode_image(models.images(), True)),
    ):
        assert float((got - exact).abs().max().detach()) < 5e-3  # the format's half precision


def with_another_mean():
    clip = of_openais_architecture("vit")
    clip.visual.preprocess_cfg = {"mean": (0.5, 0.5, 0.5)}
    return clip


def with_another_vocabulary():
    return open_clip.CLIP(models.DIM, OPENAI["vit"][0], OPENAI_TEXT | {"vocab_size": 9}, quick_gelu=True)


REFUSED = {
    "openai": [
        (lambda: models.make("quickgelu"), "heads of width 64"),
        (lambda: of_openais_architecture("vit", quick_gelu=False), "gives other text features.*QuickGELU"),
        (with_another_mean, r"the model's image transform has mean \(0.5, 0.5, 0.5\), not \(0.48"),
        (with_another_vocabulary, "another vocabulary than CLIP's"),
        (lambda: family("CLIP"), r"A CLIPModel can't be put into the form of openai. Leave out .to."),
    ],
    "transformers": [
        (lambda kind=kind: models.make(kind), r"CLIPModel can't hold this \w+ \(.*another form: openclip")
        for kind in ("resnet", "siglip", "coca", "hf")
    ] + [(with_another_vocabulary, "another vocabulary than CLIP's")],
    "tensorflow": [(lambda: None, r"to is 'tensorflow'. Pass one of same, openclip, transformers, openai, onnx")],
}  # fmt: skip


@pytest.mark.parametrize(("to", "make", "message"), [(to, *case) for to, cases in REFUSED.items() for case in cases])
def test_what_a_form_cannot_hold_is_refused(to, make, message):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=message):
        fold(make(), skewed(), to=to)


# ONNX text towers


@pytest.fixture
def onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("onnx")


def run_onnx(model, **inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[-1]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_text_tower_in_onnx(onnx, tmp_path, kind):
    clip, alignment = models.make(kind), skewed(strength=0.5)
    fold(clip, alignment, to="onnx", folder=tmp_path / "onnx")
    model = onnx.load(tmp_path / "onnx" / "text.onnx")
    wrapped = LABCLIP(clip, alignment)
    for count in (1, 3):
        tokens = models.tokens()[:count]
        assert_same_direction(run_onnx(model, input_ids=tokens), wrapped.encode_text(tokens, normalize=False))
    assert mark_of(model)["strength"] == 0.5
    assert not [name for name in (tensor.name for tensor in model.graph.initializer) if "visual" in name]
    with pytest.raises(ValueError, match="has a matrix merged into it already"):
        fold(model, skewed())


def tower(onnx, *, unit=False, mask=True, outputs=("text_embeds",), after=False, dtype=1, dim=models.DIM):
    """An ONNX text tower: the mean of token embeddings, as a row of a table for each id."""
    helper, rows = onnx.helper, np.random.default_rng(0).normal(size=(49408, dim)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["float"], axis=-1)
        if unit
        else helper.make_node("Identity", ["mean"], ["float"]),
    ]
    nodes += [helper.make_node("Cast", ["float"], [name], to=dtype) for name in outputs]
    nodes += [helper.make_node("Identity", [outputs[0]], ["logits"])] if after else []
    inputs = [helper.make_tensor_value_info("input_ids", 7, ["batch", "length"])]
    inputs += [helper.make_tensor_value_info("attention_mask", 7, ["batch", "length"])] if mask else []
    outputs_info = [helper.make_tensor_value_info(name, dtype, ["batch", dim]) for name in outputs]
    graph = helper.make_graph(nodes, "tower", inputs, outputs_info, [onnx.numpy_helper.from_array(rows, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("unit", [False, True])
def test_a_matrix_is_put_behind_a_tower_in_onnx(onnx, tmp_path, unit):
    model, tokens = tower(onnx, unit=unit), models.tokens()
    onnx.save(model, tmp_path / "tower.onnx")
    skewed().save_pretrained(tmp_path / "matrix")
    out = tmp_path / "out"
    result = run(out, "--model", tmp_path / "tower.onnx", "--alignment", tmp_path / "matrix")
    assert f'onnxruntime.InferenceSession("{out}/text.onnx")' in result.stdout
    assert fold(tower(onnx, outputs=("pooled", "text_embeds")), skewed()).graph.node[-1].output == ["text_embeds"]
    folded, inputs = onnx.load(out / "text.onnx"), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    onnx.checker.check_model(folded)
    before, got = (run_onnx(tower, **inputs) for tower in (model, folded))
    assert_same_direction(got, skewed()(torch.from_numpy(before)))
    assert np.allclose(np.linalg.norm(got, axis=-1), 1.0, atol=1e-5) == unit
    kinds = [node.op_type for node in folded.graph.node][len(model.graph.node) :]
    assert kinds == ["MatMul", "LpNormalization"] if unit else ["MatMul"]
    assert [output.name for output in folded.graph.output] == ["text_embeds"]
    assert (mark_of(folded)["model"], mark_of(folded)["alignment"]) == ("tower.onnx", "matrix")
    assert mark_of(fold(model, Alignment.identity(models.DIM))) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", ["clip", "quickgelu"])
def test_the_activation_of_a_tower_in_onnx_is_compared(onnx, tmp_path, kind, dynamo):
    file, tokens = tmp_path / "tower.onnx", models.tokens()[:1]
    torch.onnx.export(
        _TextTower(models.make(kind).requires_grad_(False)), (tokens,), file, input_names=["input_ids"],
        output_names=["text_embeds"], dynamo=dynamo, verbose=False,
    )  # fmt: skip
    base = Base("tiny", "own", quick_gelu=kind == "quickgelu", embed_dim=models.DIM)
    folded = fold(file, skewed(base=base))
    assert_same_direction(run_onnx(folded, input_ids=tokens), skewed()(models.make(kind).encode_text(tokens)))
    with pytest.raises(ValueError, match=r"which runs (QuickGELU|GELU), but this model runs .*other than OpenCLIP"):
        fold(file, skewed(base=dataclasses.replace(base, quick_gelu=not base.quick_gelu)))


def test_an_activation_that_a_tower_in_onnx_does_not_show_is_warned_of(onnx):
    with pytest.warns(UserWarning, match="does not show whether it runs GELU, as"):
        fold(tower(onnx), skewed(base=Base("tiny", "own", quick_gelu=False, embed_dim=models.DIM)))


def test_the_fingerprint_of_a_tower_in_onnx_is_compared(onnx):
    model = tower(onnx)
    tokens = open_clip.SimpleTokenizer()(["a photo of a cat next to a dog"])
    features = torch.from_numpy(run_onnx(model, input_ids=tokens, attention_mask=torch.ones_like(tokens))[0])
    features = F.normalize(features, dim=0)
    assert mark_of(fold(model, skewed(fingerprint=features))) is not None
    with pytest.raises(ValueError, match=r"has cosine -1.000 with the recorded one"):
        fold(model, skewed(fingerprint=-features))
    with pytest.warns(UserWarning, match="Folded in spite of this: This model is not the one"):
        fold(model, skewed(fingerprint=-features), force=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 8}, r"None of the outputs \(text_embeds \[None, 8\]\) can be the text embedding, \[batch, 16\]"),
        ({"outputs": ("a", "b")}, r"2 of the outputs .* can be the text embedding"),
        ({"after": True}, "The graph continues after text_embeds, so it is more than a text tower"),
        ({"dtype": 10}, "The output text_embeds is not float32. Fold before you convert"),
    ],
    ids=["dim", "two", "logits", "half"],
)
def test_what_is_no_text_tower_in_onnx_is_refused(onnx, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fold(tower(onnx, **options), skewed())
    (tmp_path / "text.onnx").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"text.onnx is not an ONNX file"):
        fold(tmp_path / "text.onnx", skewed())


def test_without_its_packages_onnx_says_what_to_type(monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind in (ModuleNotFoundError, ValueError):
        with pytest.raises(kind, match=r'An export to ONNX needs onnx\. Type: pip install "labclip\[onnx\]"'):
            fold(models.make("clip"), skewed(), to="onnx")


# On the command line


def test_the_command_folds_a_folder_of_transformers(plain, tmp_path):
    skewed().save_pretrained(tmp_path / "matrix")
    out, options = tmp_path / "out", ("--model", plain, "--alignment", tmp_path / "matrix")
    result = run(out, *options, "--strength", "0.5")
    assert result.stdout == f'{out}: transformers.AutoModel.from_pretrained("{out}")\n'
    assert json.loads((out / "config.json").read_text())["text_config"]["labclip_folded"]["strength"] == 0.5
    assert "is not empty. Pass --force" in run(out, *options, code=2).stderr
    run(out, *options, "--force")
    (out / "model.safetensors").unlink()
    for arguments, message in (
        ((plain, *options, "--force"), "is an input or another output"),
        ((out, *options, "--force"), "holds no model.safetensors, so this command did not write it"),
        ((tmp_path / "b", "--model", plain), "has no matrix to merge. Pass --alignment NAME"),
    ):
        assert message in run(*arguments, code=2).stderr


def test_the_command_writes_every_form(tmp_path):
    pytest.importorskip("transformers")
    config = {"embed_dim": models.DIM, "vision_cfg": OPENAI["vit"][0], "text_cfg": OPENAI_TEXT, "quick_gelu": True}
    LABCLIP(of_openais_architecture("vit"), skewed()).save_pretrained(tmp_path / "m", config=config)
    for to, file in (("openclip", "open_clip_config.json"), ("transformers", "config.json"), ("openai", "model.pt")):
        run(tmp_path / to, "--model", tmp_path / "m", "--to", to)
        assert (tmp_path / to / file).is_file()
    result = run(tmp_path / "no", "--model", "scenes", "--to", "openai", code=2)
    assert "Error: OpenAI's clip can't hold this CLIP (the model's image transform has mean" in result.stderr
    assert not (tmp_path / "no").exists()
