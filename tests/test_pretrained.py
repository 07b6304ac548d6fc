"""Names, folders and repositories to models: the right base with the right matrix, or one clear error."""

import dataclasses
import json
import sys
from pathlib import Path

import models
import numpy as np
import open_clip
import pytest
import torch
from close import assert_close
from safetensors.torch import save_file
from standin import published_entry

import labclip
from labclip import LABCLIP, Alignment, Base
from labclip.files import OPENCLIP_WEIGHTS
from labclip.io import published
from labclip.io.opening import open_alignment
from labclip.towers.openclip import fingerprint_of

BASE = Base("tiny-world-quickgelu", "openai", quick_gelu=True, embed_dim=models.DIM)


@pytest.fixture
def world(hub, tmp_path, monkeypatch):
    """A published tiny world: an architecture, a tag whose weights lie on the Hub, and two matrices of the authors."""
    from open_clip import factory
    from open_clip import pretrained as tags

    config = {"embed_dim": models.DIM, "vision_cfg": models.VISION, "text_cfg": models.TEXT}
    for name, extra in (("tiny-world", {}), ("tiny-world-quickgelu", {"quick_gelu": True})):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config | extra)
        openai = {"hf_hub": "tiny/base.openai/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}
        monkeypatch.setitem(tags._PRETRAINED, name, {"openai": openai, "laion": {"hf_hub": "tiny/base.laion/"}})
    clip = models.make("quickgelu")
    save_file(clip.state_dict(), tmp_path / "weights.safetensors")
    hub.repos["tiny/base.openai"] = {"open_clip_model.safetensors": (tmp_path / "weights.safetensors").read_bytes()}

    entries = []
    for alignment, seed in (("coco", 0), ("cc3m", 1)):
        names = {"file": f"{alignment}.pt", "hub_repo": f"labclip/tiny-{alignment}"}
        entry, data = published_entry(
            models.matrix(seed), 2.0 + seed, name="Tiny", alignment=alignment, model=BASE.model, **names
        )
        entries.append(entry)
        hub.add_published(entry, data)
    monkeypatch.setattr(published, "PUBLISHED", tuple(entries))
    hub.clip, hub.weights = clip, tmp_path / "weights.safetensors"
    return hub


@pytest.fixture
def folder(tmp_path):
    """A self-contained folder of a tiny model that no table knows."""
    alignment = Alignment(
        models.matrix(), base=Base("mine", "own", quick_gelu=False, embed_dim=models.DIM), strength=0.5,
        fingerprint=fingerprint_of(models.make("clip"), models.tokenizer()),
    )  # fmt: skip
    model = LABCLIP(models.make("clip"), alignment, tokenizer=models.tokenizer())
    model.save_pretrained(tmp_path / "mine", config=models.CONFIGS["clip"])
    return tmp_path / "mine"


def aligned(clip, weight):
    with torch.no_grad():
        return models.expected(clip.encode_text(models.tokens()), weight)


# Names


@pytest.mark.parametrize(
    ("name", "options", "seed"),
    [("Tiny", {}, 0), ("Tiny", {"alignment": "cc3m"}, 1), ("Tiny-cc3m", {}, 1), (BASE.model, {"alignment": "coco"}, 0)],
)
def test_a_published_name_gives_its_base_and_its_matrix(world, name, options, seed):
    model = LABCLIP.from_pretrained(name, **options)
    assert model.alignment.base == BASE
    assert not model.training
    assert_close(
        model.encode_text(models.tokens(), normalize=True),
        aligned(world.clip, models.matrix(seed)),
    )
    assert model.logit_scale.item() == pytest.approx(2.0 + seed)
    assert model.preprocess.transforms[-1].mean == (0.1, 0.2, 0.3)
    assert model.tokenizer("a cat").shape == (1, models.CONTEXT)


def test_strength_precision_and_the_network_reach_the_model(world):
    for options, match in (
        ({"device": "gpu"}, r"device 'gpu' can't be used .*Pass 'cpu'"),
        ({"alignment": np.eye(16, dtype=np.float32)}, r"alignment is a ndarray.*Alignment\(matrix\)"),
    ):
        with pytest.raises(ValueError, match=match):
            LABCLIP.from_pretrained("tiny-world:openai", **options)
    for name, fetch in (("Tiny", "curl -LO .*coco.pt"), ("tiny-world:openai", "hf download tiny/base.openai")):
        with pytest.raises(FileNotFoundError, match=fetch) as raised:
            LABCLIP.from_pretrained(name, local_files_only=True)
    assert raised.value.__suppress_context__  # no traceback of the client's stands above it
    assert world.asked(".pt") + world.asked("/resolve/") == 0
    with pytest.raises(ValueError, match=r"precision is 'half'. Pass one of fp32, fp16"):
        LABCLIP.from_pretrained("Tiny", precision="half")
    model = LABCLIP.from_pretrained("Tiny", strength=0.25, precision="bf16")
    assert model.alignment.strength == 0.25
    assert model.visual.conv1.weight.dtype == torch.bfloat16
    assert model.matrix.dtype == torch.float32


def test_a_base_loaded_by_its_tag_is_told_apart_from_then_on(world, tmp_path):
    model = LABCLIP.from_pretrained("Tiny")
    assert torch.equal(model.alignment.fingerprint, fingerprint_of(world.clip, models.tokenizer()))
    model.save_pretrained(tmp_path / "a")
    assert LABCLIP.from_pretrained(tmp_path / "a").alignment.base == BASE
    assert LABCLIP.from_pretrained("Tiny", base=models.make("quickgelu")).alignment.fingerprint is None


NO_NAMES = {
    "openai/clip-vit-base-patch32": (ValueError, "Pass OpenCLIP's, for example 'ViT-B-32', which loads a matrix"),
    None: (ValueError, "The name is a NoneType. Pass a str or Path; pass a loaded model as base="),
    "ViT-B-33": (ValueError, "is not a known name, a folder, MODEL:TAG or a Hub repository.*Did you mean 'ViT-B-32'"),
    "./missing": (FileNotFoundError, "There is no folder"),
    Path("missing"): (FileNotFoundError, "There is no folder"),
    "org/../../etc": (ValueError, "A repository is 'org/name'"),
    "matrix.pt": (ValueError, r"is a file.*labclip convert"),
    "empty": (FileNotFoundError, "with an alignment, that is, config.json and model.safetensors"),
    "tiny-word:openai": (ValueError, "OpenCLIP has no model 'tiny-word'. Did you mean 'tiny-world'"),
    "tiny-world:openia": (ValueError, "neither a tag of tiny-world nor a weights file. Its tags: openai, laion"),
}


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: str(name)[:20])
def test_what_is_no_name_is_told_what_it_is(world, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("matrix.pt").write_text("mine")
    kind, match = NO_NAMES[name]
    for load in (LABCLIP.from_pretrained, Alignment.from_pretrained):
        with pytest.raises(kind, match=match if name != "ViT-B-33" else "is not a known name"):
            load(name)
    assert world.requests == []


# Folders and repositories


def test_a_self_contained_folder_opens_without_network_and_a_repository_is_the_folder_it_holds(hub, folder, caplog):
    model = LABCLIP.from_pretrained(folder)
    assert_close(
        model.encode_text(models.tokens(), normalize=True),
        aligned(models.make("clip"), Alignment(models.matrix()).at(0.5).matrix)
    )  # fmt: skip
    assert model.alignment.strength == 0.5
    assert LABCLIP.from_pretrained(folder, strength=1.0).alignment.strength == 1.0
    assert hub.requests == []
    assert not caplog.records  # OpenCLIP's, that a model is random
    hub.add_folder("org/mine", folder)
    in_repository = LABCLIP.from_pretrained("org/mine")
    assert torch.equal(in_repository.encode_text(models.CAPTIONS), model.encode_text(models.CAPTIONS))
    assert Alignment.from_pretrained("org/mine").strength == 0.5
    torch.manual_seed(7)
    save_file(open_clip.CLIP(models.DIM, models.VISION, models.TEXT).state_dict(), folder / OPENCLIP_WEIGHTS)
    with pytest.raises(ValueError, match=r"not the one the alignment was fitted on \(mine \(own\)\).*below 0.99"):
        LABCLIP.from_pretrained(folder)


def test_an_alignment_alone_finds_the_base_it_records_or_is_given_one(world, tmp_path):
    Alignment(models.matrix(5), base=BASE).save_pretrained(tmp_path / "a")
    model = LABCLIP.from_pretrained(tmp_path / "a")
    assert_close(model.encode_text(models.tokens(), normalize=True), aligned(world.clip, models.matrix(5)))
    Alignment(models.matrix()).save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match=r"does not record its base.*Pass base="):
        LABCLIP.from_pretrained(tmp_path / "b")
    clip = models.make("clip")
    assert LABCLIP.from_pretrained(tmp_path / "b", base=clip).clip is clip


def test_a_base_alone_opens_with_the_identity(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    for model in (LABCLIP.from_pretrained(folder), LABCLIP.from_pretrained(str(folder))):
        assert model.alignment.is_identity
        assert model.alignment.base is None
        assert_close(model.encode_text(models.tokens()), models.make("clip").encode_text(models.tokens()))
    with pytest.raises(ValueError, match=r"No known matrix was fitted on .*mine. These bases have.*Pass alignment="):
        labclip.create_model_and_transforms(f"local-dir:{folder}")
    with pytest.raises(ValueError, match="is a base, not an alignment"):
        Alignment.from_pretrained(folder)


@pytest.mark.parametrize("tag", ["openai", "laion"])
def test_model_and_tag_open_in_python_as_on_the_command_line(world, tag):
    name = f"tiny-world:{tag}"
    world.repos["tiny/base.laion"] = world.repos["tiny/base.openai"]
    model = LABCLIP.from_pretrained(name)
    assert model.alignment.is_identity
    assert model.alignment.base == Base("tiny-world", tag, quick_gelu=tag == "openai", embed_dim=models.DIM)
    assert torch.equal(model.encode_text(models.tokens()), model.clip.encode_text(models.tokens()))
    assert world.asked(".pt") == 0
    with pytest.raises(ValueError, match=rf"{name} is a base, not an alignment. Known alignments: scenes, Tiny"):
        Alignment.from_pretrained(name)


def test_every_way_of_writing_an_alignment_goes_with_model_and_tag_and_with_no_other_base(world, folder, tmp_path):
    Alignment(models.matrix(1), base=BASE).save_pretrained(tmp_path / "a")
    base = LABCLIP.from_pretrained("tiny-world:openai")
    for name in ("cc3m", "Tiny-cc3m", str(tmp_path / "a"), tmp_path / "a", Alignment(models.matrix(1), base=BASE)):
        model = LABCLIP.from_pretrained("tiny-world:openai", alignment=name, strength=0.5)
        assert torch.equal(model.alignment.fitted, models.matrix(1))
        assert model.alignment.strength == 0.5
        assert torch.equal(open_alignment(name, base).fitted, models.matrix(1))
    fitted_on = r"fitted on tiny-world-quickgelu \(openai\) with QuickGELU, but the base is"
    for name, other in (("tiny-world:laion", r"tiny-world \(laion\)"), (folder, r"mine \(own\)")):
        with pytest.raises(ValueError, match="'cc3m' is not a known name"):
            LABCLIP.from_pretrained(name, alignment="cc3m")
        with pytest.raises(ValueError, match=f"{fitted_on} {other}"):
            LABCLIP.from_pretrained(name, alignment="Tiny")


@pytest.mark.parametrize("base", [("hf-hub:evil/repo", "openai"), ("ViT-B-32", "/etc/hostname"), ("ViT-B-32", "mine")])
def test_a_record_read_from_a_file_opens_no_path_and_no_repository(hub, tmp_path, base):
    record = Base(*base, quick_gelu=False, embed_dim=512)
    Alignment(torch.eye(512), base=record).save_pretrained(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"whose weights OpenCLIP does not know by name.*Pass base="):
        LABCLIP.from_pretrained(tmp_path / "alone")
    assert hub.requests == []


OTHERS = {
    "another architecture": (lambda state: models.make("resnet").state_dict(), r"\(.*Missing key.* \"visual.*\[...\]"),
    "another shape": (lambda state: state | {"text_projection": torch.zeros(3, 5)}, r"size mismatch .*\[3, 5\]"),
    "code": (lambda state: {"a": models.Bomb()}, "pickle of more than tensors; none of its code was run"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_weights_are_one_error_and_none_of_their_code_runs(folder, kind, capsys):
    make, match = OTHERS[kind]
    content, path = make(models.make("clip").state_dict()), folder / OPENCLIP_WEIGHTS
    if kind == "code":
        path.unlink()
        torch.save(content, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(content, path)
    with pytest.raises(ValueError, match=f"OpenCLIP can't load .*{folder}.*{match}") as caught:
        LABCLIP.from_pretrained(folder)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert models.Bomb.WORDS not in capsys.readouterr().out


def test_weights_are_compared_as_openclip_converts_them(folder):
    state = models.make("clip").state_dict()
    (folder / OPENCLIP_WEIGHTS).unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["custom_text"] = True  # whose names of the text side have a prefix
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    clip = LABCLIP.from_pretrained(folder).clip
    assert torch.equal(clip.text.positional_embedding, state["positional_embedding"])


def test_a_tokenizer_of_a_package_that_is_missing_says_what_to_type(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "x"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    for load, name in ((LABCLIP.from_pretrained, folder), (labclip.get_tokenizer, "ViT-B-16-SigLIP")):
        with pytest.raises(ValueError, match=r"needs transformers. Type: pip install transformers"):
            load(name)


def test_a_loaded_base_is_checked(world):
    assert LABCLIP.from_pretrained("Tiny", base=models.make("quickgelu")).alignment.base == BASE
    with pytest.raises(ValueError, match="Create it with force_quick_gelu=True"):
        LABCLIP.from_pretrained("Tiny", base=models.make("clip"))
    for change in ({"quick_gelu": False}, {"embed_dim": 8}, {"pretrained": "laion"}, {"model": "tiny"}):
        assert not BASE.matches(dataclasses.replace(BASE, **change))
    torch.manual_seed(0)
    wider = open_clip.CLIP(models.DIM, models.VISION | {"width": 64}, models.TEXT, quick_gelu=True)
    with pytest.raises(ValueError, match="has another architecture than tiny-world-quickgelu"):
        LABCLIP.from_pretrained("Tiny", base=wider)


# OpenCLIP's own entry


@pytest.mark.parametrize("name", ["tiny-world", "tiny-world-quickgelu"])
def test_openclip_scripts_change_one_word(world, name):
    model, train, preprocess = labclip.create_model_and_transforms(
        name, pretrained="openai", aug_cfg={"scale": (0.5, 1.0)}
    )
    reference = LABCLIP.from_pretrained("Tiny")
    assert torch.equal(model.encode_text(models.tokens()), reference.encode_text(models.tokens()))
    assert train is not preprocess
    assert preprocess.transforms[-1].mean == (0.1, 0.2, 0.3)
    assert labclip.get_tokenizer(name)(["a cat"]).shape == (1, models.CONTEXT)
    model, _, preprocess = labclip.create_model_and_transforms(
        name, pretrained="openai", alignment="cc3m", strength=0.5, output_dict=True, image_mean=(0.5, 0.5, 0.5)
    )
    assert model.alignment.strength == 0.5
    assert set(model(text=models.tokens())) == {"image_features", "text_features", "logit_scale"}
    assert preprocess.transforms[-1].mean == (0.5, 0.5, 0.5)


def test_a_weights_file_stands_for_a_tag(world):
    alignment = Alignment(models.matrix(), base=BASE)
    model, _, _ = labclip.create_model_and_transforms("tiny-world-quickgelu", str(world.weights), alignment=alignment)
    assert_close(model.encode_text(models.tokens(), True), aligned(world.clip, models.matrix()))
    with pytest.raises(ValueError, match="with QuickGELU, but the base is tiny-world"):
        labclip.create_model_and_transforms("tiny-world", str(world.weights), alignment=alignment)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny-world", {"pretrained": "laion"}, r"matrix was fitted on tiny-world \(laion\).*openai.*Pass alignment="),
        ("tiny-world-quickgelu", {"pretrained": "laion"}, "but tiny-world-quickgelu runs QuickGELU. Pass 'tiny-world'"),
        ("tiny-world", {}, "an architecture needs the tag of its weights"),
        ("scenes", {"pretrained": "openai"}, "a folder or a repository takes no tag"),
        ("tiny-world", {"pretrained": "openai", "load_weights": False}, "load_weights=False are not supported"),
        ("tiny-world", {"pretrained": "laion", "alignment": Alignment(models.matrix(), base=BASE)}, "but the base is"),
    ],
)
def test_errors_of_openclips_entry_say_what_to_type(world, name, options, message):
    with pytest.raises(ValueError, match=message):
        labclip.create_model_and_transforms(name, **options)


@pytest.mark.parametrize("where", [labclip, open_clip, open_clip.factory], ids=lambda module: module.__name__)
@pytest.mark.parametrize("alone", [True, False], ids=["an alignment alone", "with its base"])
def test_folders_open_by_the_same_entry_also_in_openclips_place(world, folder, tmp_path, monkeypatch, alone, where):
    if alone:
        folder = tmp_path / "alone"
        Alignment(models.matrix(), base=BASE).save_pretrained(folder)
    for name in ("create_model_and_transforms", "get_tokenizer"):
        monkeypatch.setattr(where, name, getattr(labclip, name))
    for name, path in (("scenes", "scenes"), (folder, folder), (f"local-dir:{folder}", folder)):
        model, _, _ = where.create_model_and_transforms(name)
        tokens = where.get_tokenizer(name)(models.CAPTIONS)
        assert where.get_tokenizer(name, context_length=12)(["a red cube"]).shape == (1, 12)
        assert torch.equal(tokens, model.tokenizer(models.CAPTIONS))
        assert torch.equal(model.encode_text(tokens), LABCLIP.from_pretrained(path).encode_text(tokens))
    assert alone or world.requests == []


def test_a_known_name_wins_over_a_folder_and_a_path_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LABCLIP.from_pretrained("scenes", strength=0.3).save_pretrained("scenes")
    own_strength = Alignment.from_pretrained("scenes").strength
    assert own_strength != 0.3
    for name, strength in (("scenes", own_strength), ("./scenes", 0.3), (Path("scenes"), 0.3)):
        assert Alignment.from_pretrained(name).strength == strength
        assert labclip.create_model_and_transforms(name)[0].alignment.strength == strength
        assert labclip.fold(name).labclip_folded["strength"] == strength
