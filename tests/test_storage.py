"""The alignment folder: an exact round trip, every way it can be tampered with, and saves that fail."""

import hashlib
import json
import math
import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from folders import contents
from safetensors.torch import load_file, save_file

from labclip import Alignment, Base
from labclip.files import atomic_file, remove_partial_files
from labclip.io.folder import CARD, CONFIG, FINGERPRINT_CAPTION, FORMAT_VERSION, WEIGHTS, load, matrix_sha256

DIM = 3
MATRIX = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, -9.0]])
BASE = Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=DIM)
METADATA = {"recipe": "paper", "seed": 3, "wörter": ["猫", "\U0001f431", 'a "b"\n'], "nested": {"x": [1.5, None, True]}}
FILES = {CARD, CONFIG, WEIGHTS}


def full(**changes):
    options = {"base": BASE, "logit_scale": 4.25, "strength": 0.3, "metadata": METADATA}
    return Alignment(MATRIX, **{"fingerprint": torch.eye(DIM)[1]} | options | changes)


def saved(folder, alignment=None):
    (alignment or full()).save_pretrained(folder)
    return folder


def rewrite(folder, **changes):
    """Change keys of the config; a value of `...` takes the key away."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def put(folder, **tensors):
    """Write other tensors, with the config's hashes made to fit them."""
    save_file(tensors, folder / WEIGHTS)
    if "matrix" in tensors and tensors["matrix"].dtype == torch.float32:
        others = {name: matrix_sha256(tensor) for name, tensor in tensors.items() if name != "matrix"}
        rewrite(folder, matrix_sha256=matrix_sha256(tensors["matrix"]), other_sha256=others)


def test_everything_comes_back_exactly(tmp_path):
    alignment = load(saved(tmp_path / "a"))
    assert torch.equal(alignment.fitted, MATRIX)
    assert torch.equal(alignment.matrix, full().matrix)
    assert torch.equal(alignment.fingerprint, full().fingerprint)
    assert (alignment.base, alignment.logit_scale, alignment.strength) == (BASE, 4.25, 0.3)
    assert alignment.metadata == METADATA
    alignment.save_pretrained(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == FILES
    bare = load(saved(tmp_path / "c", Alignment(MATRIX)))
    assert (bare.base, bare.logit_scale, bare.fingerprint, bare.strength) == (None, None, None, 1.0)
    assert set(load_file(tmp_path / "c" / WEIGHTS)) == {"matrix"}


MATRICES = {
    "transposed": MATRIX.T,
    "strided": torch.arange(36.0).reshape(6, 6)[::2, 1::2],
    "reversed array": MATRIX.numpy()[::-1, ::-1],
    "big-endian array": MATRIX.numpy().astype(">f4"),
    "wants gradients": MATRIX.clone().requires_grad_(),
    "extreme": torch.tensor([[1e-45, -0.0], [3.4e38, 1 / 3]]),
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("strength", [0, 1 / 3, 1, 1.5])
def test_a_matrix_is_kept_as_fitted_bit_for_bit(tmp_path, kind, strength):
    expected = torch.tensor(MATRICES[kind].tolist())
    alignment = Alignment(MATRICES[kind]).at(strength if kind != "extreme" else 1)
    loaded = load(saved(tmp_path, alignment))
    assert loaded.fitted.numpy().tobytes() == expected.numpy().tobytes()
    assert loaded.strength == alignment.strength
    assert torch.equal(loaded.matrix, alignment.matrix)


def test_the_files_are_what_the_format_says(tmp_path):
    config = json.loads((saved(tmp_path) / CONFIG).read_text(encoding="utf-8"))
    assert (config["format_version"], config["dim"], config["base"]) == (FORMAT_VERSION, DIM, vars(BASE))
    assert config["fingerprint_caption"] == FINGERPRINT_CAPTION
    expected = hashlib.sha256(struct.pack("<9f", 1, 2, 3, 4, 5, 6, 7, 8, -9)).hexdigest()  # row by row
    assert config["matrix_sha256"] == matrix_sha256(MATRIX.T.contiguous().T) == expected != matrix_sha256(MATRIX.T)
    shapes = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in load_file(tmp_path / WEIGHTS).items()}
    wanted = {"matrix": [DIM, DIM], "logit_scale": [], "fingerprint": [DIM]}
    assert shapes == {name: (torch.float32, shape) for name, shape in wanted.items()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in tmp_path.iterdir())


def test_keys_may_be_added_by_a_future_labclip_and_missing_where_they_have_a_default(tmp_path):
    rewrite(saved(tmp_path), strength=..., metadata=..., versions=..., library_name=..., fingerprint_caption=...)
    alignment = load(tmp_path)
    assert (alignment.strength, alignment.metadata) == (1.0, {})
    rewrite(saved(tmp_path), colour="red", zoom=1)
    with pytest.warns(UserWarning, match=r"keys that labclip .* does not know: colour, zoom.*pip install --upgrade"):
        assert torch.equal(load(tmp_path).fitted, MATRIX)


@pytest.mark.parametrize("name", ["matrix", "logit_scale", "fingerprint"])
def test_a_changed_tensor_is_told_by_its_hash(tmp_path, name):
    tensors = load_file(saved(tmp_path) / WEIGHTS)
    changed = tensors[name].clone()
    changed.flatten()[-1] += 0.125 if name != "fingerprint" else 0
    changed = -changed if name == "fingerprint" else changed
    save_file(tensors | {name: changed}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=f"is not what {CONFIG} describes. The SHA-256 of {name} is"):
        load(tmp_path)


REFUSED = [  # other tensors, another config, or changes of it
    ({"weight": MATRIX}, None, r"has a tensor 'weight', .*labclip convert FILE.pt FOLDER"),
    ({"matrix": torch.eye(4)}, None, r"torch.float32 \[4, 4\], but with this config.json it must have a float32 'm"),
    ({"matrix": MATRIX.bfloat16()}, None, r"'matrix', torch.bfloat16 \[3, 3\], but"),
    ({"matrix": torch.full((3, 3), -math.inf)}, None, "valid alignment: The matrix has values that are NaN"),
    ({"matrix": MATRIX, "fingerprint": torch.ones(3)}, None, "length 1.73205"),
    ({}, None, "valid alignment: .*SHA-256 of fingerprint is None"),
    (b"PK\3\4", None, f"{WEIGHTS} is not a complete safetensors file.*save the folder again"),  # as torch.save writes
    (None, b"{", "is not JSON"),
    (None, b"[]", "holds a list, not an object"),
    (None, b'{"model_type": "clip"}', "is the config of a transformers model. Open it there, and merge a matrix with"),
    (None, {"dim": ...}, "is not the config of an alignment: it lacks dim"),
    (None, {"format_version": FORMAT_VERSION + 1}, "has format version 2, and labclip .* reads 1.*pip install"),
    (None, {"matrix_sha256": "0" * 64}, "The SHA-256 of matrix is .* expected 0{64}"),
    (None, {"strength": True}, "strength is True"),
    (None, {"base": {"model": "x"}}, "valid alignment: .* missing 3 required"),
]


@pytest.mark.parametrize(("tensors", "config", "message"), REFUSED)
def test_what_is_no_sound_alignment_is_refused(tmp_path, tensors, config, message):
    saved(tmp_path)
    if isinstance(tensors, bytes):
        (tmp_path / WEIGHTS).write_bytes(tensors)
    elif tensors is not None:
        put(tmp_path, **tensors)
    elif isinstance(config, bytes):
        (tmp_path / CONFIG).write_bytes(config)
    else:
        rewrite(tmp_path, **config)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_saving_over_an_alignment_replaces_it_and_leaves_other_files(tmp_path):
    saved(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path, Alignment(torch.eye(2)))
    alignment = load(tmp_path)
    assert (alignment.dim, alignment.fingerprint, alignment.base, alignment.metadata) == (2, None, None, {})
    assert set(contents(tmp_path)) == FILES | {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("metadata", [{"data": torch.eye(2)}, {"data": math.nan}, {"results": {"aro": 0.9}}])
def test_metadata_that_cannot_be_saved_leaves_everything_as_it_was(tmp_path, metadata):
    before = contents(saved(tmp_path / "there"))
    for folder in (tmp_path / "there", tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match=r"not plain JSON|'results'.*not of the form"):
            full(metadata=metadata).save_pretrained(folder)
    assert contents(tmp_path / "there") == before
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_of_two_that_write_one_file_each_writes_it_whole(tmp_path):
    path = tmp_path / "report.html"

    def write():
        with atomic_file(path) as other:
            other.write_text("the other's")

    with atomic_file(path) as partial:
        partial.write_text("mine")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write).result()
        assert path.read_text() == "the other's"
    assert path.read_text() == "mine"
    for name in ("report.html", "a report.html"):  # as a kill leaves them
        (tmp_path / partial.name.replace("report.html", name)).touch()
    remove_partial_files(tmp_path, {"report.html"})
    assert sorted(os.listdir(tmp_path)) == [partial.name.replace("report.html", "a report.html"), "report.html"]
