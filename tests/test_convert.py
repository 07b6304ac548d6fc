"""A published checkpoint becomes an alignment, none of its code runs, and the table of those that are published."""

import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from close import assert_close
from models import Bomb

from labclip.base import Base
from labclip.io import folder as convert
from labclip.io.folder import convert_checkpoint
from labclip.io.published import PUBLISHED

DATA = Path(__file__).parents[2] / "shared" / "data" / "published-matrices"


def weights(dim=4, seed=0):
    return torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))


def checkpoint(path, **changes):
    """A checkpoint as the paper's code saves it, with entries changed; None takes one away."""
    state = OrderedDict({"linear.weight": weights(), "t": torch.tensor(4.0)})
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    torch.save(OrderedDict((name, value) for name, value in state.items() if value is not None), path)
    return path


def test_a_checkpoint_becomes_its_alignment(tmp_path):
    base = Base("ViT-X", "mine", quick_gelu=False, embed_dim=4)
    for given in (None, base):
        alignment = convert_checkpoint(checkpoint(tmp_path / "a.pt"), base=given)
        assert torch.equal(alignment.matrix, weights())
        assert (alignment.logit_scale, alignment.base, alignment.metadata) == (4.0, given, {})


def test_a_module_saved_with_parameters_on_another_device_reads_the_same(tmp_path):
    path = checkpoint(
        tmp_path / "a.pt", linear__weight=torch.nn.Parameter(weights()), t=torch.nn.Parameter(torch.ones(1))
    )
    # As saved on a GPU: the pickle names the device of every storage, "cuda:0" in place of "cpu".
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in path.read_bytes()
    alignment = convert_checkpoint(path)
    assert torch.equal(alignment.matrix, weights())
    assert alignment.matrix.device.type == "cpu"
    assert not alignment.matrix.requires_grad
    assert alignment.logit_scale == 1.0


@pytest.mark.parametrize("entry", PUBLISHED, ids=str)
def test_published_matrices_equal_the_published_module(entry):
    if not (DATA / entry.file).is_file():
        pytest.skip("the published checkpoints are not on this machine")
    alignment = convert_checkpoint(DATA / entry.file)
    assert alignment.base == entry.base
    assert alignment.logit_scale == entry.logit_scale
    assert alignment.metadata == entry.metadata
    state = torch.load(DATA / entry.file, map_location="cpu", weights_only=True)
    module = torch.nn.Linear(entry.embed_dim, entry.embed_dim, bias=False)
    module.load_state_dict({"weight": state["linear.weight"]})
    text = F.normalize(torch.randn(64, entry.embed_dim, generator=torch.Generator().manual_seed(1)), dim=-1)
    with torch.no_grad():
        expected = F.normalize(module(text), dim=-1)
    assert_close(alignment(text, normalize=True), expected)


def test_a_published_matrix_is_known_by_its_hash_and_refuses_another_base(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "renamed.pt")
    entry = replace(PUBLISHED[0], embed_dim=4, matrix_sha256=convert.matrix_sha256(weights()))
    monkeypatch.setattr("labclip.io.published.PUBLISHED", (entry,))
    alignment = convert_checkpoint(path)
    assert alignment.base == entry.base
    assert alignment.metadata == entry.metadata
    with pytest.raises(
        ValueError, match=r"published matrix of ViT-B-32-quickgelu \(openai\), not of ViT-B-32 \(openai\)"
    ):
        convert_checkpoint(path, base=Base("ViT-B-32", "openai", quick_gelu=False, embed_dim=4))
    same = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=4)  # as named_base has it: OpenCLIP's other name
    assert convert_checkpoint(path, base=same).base == entry.base


@pytest.mark.parametrize("alone", [True, False])
def test_no_code_in_a_file_ever_runs(alone, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, bomb = tmp_path / "bomb.pt", pickle.dumps(Bomb(), 2)
    if alone:
        path.write_bytes(bomb)
    else:
        torch.save({"linear.weight": weights(), "t": torch.tensor(1.0), "x": Bomb()}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of an alignment") as refused:
        convert_checkpoint(path)
    assert "weights_only=False" not in str(refused.value)
    assert Bomb.WORDS not in capsys.readouterr().out
    pickle.loads(bomb)  # it is real: the ordinary unpickler sets it off
    assert Bomb.WORDS in capsys.readouterr().out


def flipped(path):
    data = bytearray(path.read_bytes())
    data[data.index(weights().numpy().tobytes())] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a zip file"),
        (flipped, "its checksum is wrong"),
        (lambda path: torch.save([1, 2], path), "it holds list"),
        (lambda path: checkpoint(path, t=None), r"holds \['linear.weight'\]"),
        (lambda path: checkpoint(path, linear__bias=torch.zeros(4)), "'linear.bias'"),
        (lambda path: checkpoint(path, linear__weight=torch.zeros(3, 4)), r"\[3, 4\], not \[dim, dim\]"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(spoil, match, tmp_path):
    path = checkpoint(tmp_path / "bad.pt")
    spoil(path)
    with pytest.raises(ValueError, match=match) as failure:
        convert_checkpoint(path)
    assert str(path) in str(failure.value)
    assert "torch.save" in str(failure.value)


# The table of what is published


def test_the_four_published_matrices_are_there():
    assert [(entry.name, entry.alignment) for entry in PUBLISHED] == [
        ("ViT-B-32", "coco"),
        ("ViT-B-16", "coco"),
        ("ViT-L-14", "coco"),
        ("ViT-B-32", "cc3m"),
    ]
    assert [round(math.exp(entry.logit_scale), 2) for entry in PUBLISHED] == [71.24, 72.82, 75.22, 30.10]
    for field in ("file", "file_sha256", "matrix_sha256", "hub_repo"):
        assert len({getattr(entry, field) for entry in PUBLISHED}) == len(PUBLISHED)
    for base in (entry.base for entry in PUBLISHED):  # what OpenCLIP calls the openai weights with QuickGELU
        config = open_clip.get_model_config(base.model)
        assert config["quick_gelu"] is base.quick_gelu is True
        assert config["embed_dim"] == base.embed_dim
        assert base.pretrained in open_clip.list_pretrained_tags_by_model(base.model)


def test_the_address_is_pinned_and_a_mirror_is_read_when_asked(monkeypatch):
    monkeypatch.delenv("LABCLIP_AUTHORS_ENDPOINT", raising=False)
    rest = "/kdariina/CLIP-not-BoW-unimodally/d3ecb1855c5cbe958673879e2ddc01408e7df19d/alignment/weights/"
    assert PUBLISHED[0].url == f"https://raw.githubusercontent.com{rest}labclip_coco_neg_B32.pt"
    monkeypatch.setenv("LABCLIP_AUTHORS_ENDPOINT", "https://mirror.example/")
    assert PUBLISHED[0].url == f"https://mirror.example{rest}labclip_coco_neg_B32.pt"
