"""The Hub over real HTTP, on loopback, with the real client: what comes, what is refused, and the cache after it."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from standin import StandInHub

from labclip.alignment import Alignment
from labclip.base import Base
from labclip.io import hub as labhub
from labclip.io import published
from labclip.io.folder import load, matrix_sha256
from labclip.io.hub import Access

ROOT = Path(__file__).parents[1]
BASE = Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=16)
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 40,
    "README.md": b"# card",
    "open_clip_config.json": b'{"o": 1}',
    "tokenizer.json": b"{}",
    "merges.txt": b"a b",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "model.pt": b"pickle",
    "weights.pkl": b"pickle",
    "model.py": b"import os",
    ".gitattributes": b"",
    "nested/config.json": b"{}",
    "model-00001-of-00002.safetensors": b"shard",
}


def matrix(seed=0):
    return torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))


def tree(folder):
    """Everything below a folder, by relative path: a file's bytes, a link's target, None for a folder."""
    if not Path(folder).exists():
        return "absent"
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        is_link = path.is_symlink()
        found[str(path.relative_to(folder))] = (
            os.readlink(path) if is_link else None if path.is_dir() else path.read_bytes()
        )
    return found


def kept(folder):
    """Files that a cache holds, but for the client's locks and its mark of a cache."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(path.name for path in files if path.name != "CACHEDIR.TAG")


def offline(repo_id="org/name", **options):
    """What loads of a repository without a network, or None."""
    try:
        return labhub.snapshot(repo_id, Access(local_files_only=True), **options)
    except FileNotFoundError:
        return None


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse(folder):
    raise ValueError(f"{folder}/config.json is not what it should be.")


def alignment_folder(folder, **changes):
    options = {"base": BASE, "logit_scale": 2.5} | changes
    Alignment(options.pop("matrix", matrix()), **options).save_pretrained(folder)
    return folder


@pytest.fixture
def entry(monkeypatch, tmp_path):
    """A published matrix of dim 16, in the table in place of the real ones; `entry_file` is its checkpoint."""
    path = tmp_path / "published.pt"
    torch.save({"linear.weight": matrix(), "t": torch.tensor(2.5)}, path)
    data = path.read_bytes()
    row = dataclasses.replace(
        published.PUBLISHED[0],
        embed_dim=16,
        logit_scale=2.5,
        size=len(data),
        file_sha256=hashlib.sha256(data).hexdigest(),
        matrix_sha256=matrix_sha256(matrix()),
    )
    monkeypatch.setattr(published, "PUBLISHED", (row,))
    return row


@pytest.fixture
def entry_file(entry, tmp_path):
    return (tmp_path / "published.pt").read_bytes()


# Snapshots


def test_a_snapshot_holds_weights_configs_card_and_tokenizer_and_nothing_else(hub):
    hub.repos["org/name"] = FILES | UNWANTED
    folder = labhub.snapshot("org/name")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert folder.parent.parent == hub.cache / "models--org--name"
    assert hub.asked(".bin") == hub.asked(".pt") == hub.asked(".pkl") == hub.asked(".py") == 0


def test_what_the_hubs_own_client_fetched_is_found_and_the_other_way_round(hub):
    from huggingface_hub import snapshot_download

    hub.repos["org/name"] = FILES
    theirs = snapshot_download("org/name")
    hub.requests.clear()
    assert str(labhub.snapshot("org/name", Access(local_files_only=True))) == theirs
    assert str(labhub.snapshot("org/name")) == theirs
    assert hub.asked("GET /org/name/resolve") == 0

    hub.repos["org/other"] = FILES
    ours = labhub.snapshot("org/other")
    assert snapshot_download("org/other", local_files_only=True) == str(ours)


def test_part_of_a_repository_that_the_client_fetched_is_found_offline(hub):
    from huggingface_hub import snapshot_download

    hub.repos["timm/x"] = {"a.safetensors": safetensors(), "b.bin": b"x"}
    snapshot_download("timm/x", allow_patterns=["*.safetensors"])
    path = labhub.base_weights("timm/x", ["a.safetensors", "b.bin"], Access(local_files_only=True))
    assert path.name == "a.safetensors"


def test_a_warm_cache_costs_one_question_and_a_change_only_the_changed_file(hub):
    hub.repos["org/name"] = dict(FILES)
    first = labhub.snapshot("org/name")
    hub.requests.clear()
    assert labhub.snapshot("org/name") == first
    assert hub.requests == ["GET /api/models/org/name/revision/main"]

    hub.repos["org/name"]["README.md"] = b"# another card"
    second = labhub.snapshot("org/name")
    assert (second / "README.md").read_bytes() == b"# another card"
    assert (second / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (first / "README.md").read_bytes() == b"# card"
    assert [request for request in hub.requests if request.startswith("GET /org")] == [
        f"GET /org/name/resolve/{second.name}/README.md"
    ]
    assert labhub.snapshot("org/name", Access(local_files_only=True)) == second
    assert labhub.snapshot("org/name", Access(revision=first.name)) == first


def test_links_in_the_cache_stay_inside_it(hub):
    hub.repos["org/name"] = dict(FILES)
    labhub.snapshot("org/name")
    hub.repos["org/name"]["README.md"] = b"# another card"
    folder = labhub.snapshot("org/name")
    for path in folder.iterdir():
        assert path.is_symlink()
        assert not os.path.isabs(os.readlink(path))
        assert path.resolve().parent == (hub.cache / "models--org--name" / "blobs").resolve()
    assert not list(hub.cache.glob(".labclip-*"))


def test_cache_dir_and_token_are_used(hub, tmp_path):
    hub.repos["org/name"] = FILES
    folder = labhub.snapshot("org/name", Access(cache_dir=tmp_path / "mine", token="hf_secret"))
    assert folder.is_relative_to(tmp_path / "mine")
    assert not hub.cache.exists()
    assert set(hub.tokens) == {"hf_secret"}


@pytest.mark.parametrize(
    "repo_id",
    ["name", "../name", "org/..", "a/b/c", "/etc/passwd", "org\\name", "org/na me", "", "org/", "/name", "org/name/",
     "org//name", "./name", "org/name.", "org--x/name", "org/name\n", "https://huggingface.co/org/name", "org/na%2fme",
     "-org/name", "örg/name", None, 3],
)  # fmt: skip
def test_what_is_no_repository_is_refused_before_anything_is_asked(hub, repo_id):
    for call in (
        lambda: labhub.snapshot(repo_id),
        lambda: labhub.push_folder(hub.home.parent, repo_id),
        lambda: Alignment.identity(2).push_to_hub(repo_id),
    ):
        with pytest.raises(ValueError, match=r"is not a Hub repository. One looks like 'org/name'"):
            call()
    assert hub.requests == []
    assert not hub.cache.exists()


@pytest.mark.parametrize("revision", ["../../x", "a..b", "/main", "", "a b", "a//b", "main\n", 3])
def test_a_revision_with_path_tricks_is_refused(hub, revision):
    hub.repos["org/name"] = FILES
    with pytest.raises(ValueError, match="is not a revision"):
        labhub.snapshot("org/name", Access(revision=revision))
    assert hub.requests == []


def test_a_revision_that_does_not_exist(hub):
    hub.repos["org/name"] = FILES
    with pytest.raises(FileNotFoundError, match=r"org/name has no revision 'v9'. Leave revision out"):
        labhub.snapshot("org/name", Access(revision="v9"))
    assert not hub.cache.exists()


def test_a_repository_of_other_things(hub):
    hub.repos["org/name"] = {"weights.bin": b"x"}
    with pytest.raises(FileNotFoundError, match=r"org/name on the Hub lacks model.safetensors"):
        labhub.snapshot("org/name")
    assert not hub.cache.exists()


# Where the Hub fails

FAULTS = [
    ("/api/models", 404, FileNotFoundError, "org/name is not on the Hub.*Check the name"),
    ("/api/models", 401, PermissionError, r"refuses org/name \(401\).*hf auth login, or pass token="),
    ("/api/models", 403, PermissionError, r"refuses org/name \(403\).*hf auth login"),
    ("/api/models", "gated", PermissionError, r"gated one is asked for at http://127.0.0.1:\d+/org/name"),
    ("/api/models", 500, ConnectionError, r"answered 500 for org/name.*type: hf download org/name"),
    ("/api/models", 429, ConnectionError, "answered 429 for org/name"),
    ("/api/models", "html", ConnectionError, "is not a Hub.*HF_ENDPOINT"),
    ("/api/models", "wrong", ConnectionError, "is not a Hub"),
    ("/api/models", "half", ConnectionError, "can't be reached for org/name.*hf download org/name"),
    ("/api/models", "silent", ConnectionError, "can't be reached for org/name: timed out"),
    ("model.safetensors", 404, FileNotFoundError, "org/name is not on the Hub"),
    ("model.safetensors", 401, PermissionError, "hf auth login"),
    ("model.safetensors", "gated", PermissionError, "hf auth login"),
    ("GET /org/name/resolve", 500, ConnectionError, "answered 500 for org/name"),
    ("HEAD /org/name/resolve", 500, ConnectionError, "answered 500 for org/name"),
    ("model.safetensors", "html", ConnectionError, "is not a Hub"),
    ("GET /org/name/resolve", "html", ConnectionError, "did not arrive whole"),
    ("GET /org/name/resolve", "half", ConnectionError, "can't be reached for org/name: (peer closed|IncompleteRead)"),
    (
        "GET /org/name/resolve",
        "wrong",
        ValueError,
        "org/name is not sound: .* came with another hash than the Hub names",
    ),
    ("HEAD /org/name/resolve", "silent", ConnectionError, "can't be reached for org/name: timed out"),
]


@pytest.mark.parametrize(("where", "fault", "kind", "match"), FAULTS)
def test_a_failing_hub_is_one_clear_error_and_the_next_try_fetches_again(hub, where, fault, kind, match):
    hub.repos["org/name"] = FILES
    hub.faults[where] = fault
    with pytest.raises(kind, match=match):
        labhub.snapshot("org/name")
    assert offline() is None
    hub.faults.clear()
    assert contents(labhub.snapshot("org/name")) == FILES


@pytest.mark.parametrize(("where", "fault"), [("/api/models", 500), ("model.safetensors", 401), ("GET /org", "wrong")])
def test_a_forced_download_that_fails_leaves_what_was_there(hub, where, fault):
    hub.repos["org/name"] = FILES
    folder = labhub.snapshot("org/name")
    hub.faults[where] = fault
    with pytest.raises((OSError, ValueError), match="org/name"):
        labhub.snapshot("org/name", Access(force_download=True))
    assert offline() == folder
    assert contents(folder).items() <= FILES.items()
    assert fault == "wrong" or contents(folder) == FILES
    hub.faults.clear()
    assert labhub.snapshot("org/name") == folder
    assert contents(folder) == FILES


@pytest.mark.parametrize(("where", "fault", "kind", "match"), [row for row in FAULTS if "/api" not in row[0]])
def test_a_failing_update_leaves_the_older_snapshot_and_its_name(hub, where, fault, kind, match):
    hub.repos["org/name"] = dict(FILES)
    old = labhub.snapshot("org/name")
    hub.repos["org/name"] |= {"model.safetensors": b"new" * 99, "config.json": b"[]"}
    hub.faults[where] = fault
    with pytest.raises(kind, match=match):
        labhub.snapshot("org/name")
    assert offline() == old
    assert contents(old) == FILES
    hub.faults.clear()
    assert contents(labhub.snapshot("org/name")) == hub.repos["org/name"]


def test_a_server_that_breaks_off_for_ever_is_given_up(hub, monkeypatch):
    from huggingface_hub import constants

    # Each answer brings some chunks, so that the client sees progress every time and never stops by itself.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.repos["org/name"] = FILES
    hub.faults["model.safetensors"] = "half"
    with pytest.raises(ConnectionError, match=r"the connection broke off again|peer closed|IncompleteRead"):
        labhub.snapshot("org/name")
    assert hub.asked("model.safetensors") < 10
    assert offline() is None


@pytest.mark.parametrize("fault", [500, 401, "html", "silent", "off"])
def test_a_warm_cache_stands_in_for_a_hub_that_fails(hub, fault, caplog):
    hub.repos["org/name"] = FILES
    folder = labhub.snapshot("org/name")
    before = tree(hub.home)
    if fault == "off":
        hub.stop_answering()
    else:
        hub.faults["/"] = fault
    assert labhub.snapshot("org/name") == folder
    assert "Taking org/name from the cache" in caplog.text
    assert tree(hub.home) == before


def test_nobody_listening(hub):
    hub.stop_answering()
    with pytest.raises(
        ConnectionError, match=r"can't be reached for org/name: .{0,12}Connection refused\. .*hf download"
    ):
        labhub.snapshot("org/name")
    assert tree(hub.home) == "absent"


def test_a_token_that_is_not_stored(hub):
    hub.repos["org/name"] = FILES
    with pytest.raises(PermissionError, match=r"no stored token for org/name. Type: hf auth login"):
        labhub.snapshot("org/name", Access(token=True))


@pytest.mark.parametrize("commit", ["../../../escape", "", "a/b"])
def test_a_hub_that_names_a_path_as_its_commit(hub, monkeypatch, commit):
    hub.repos["org/name"] = FILES
    monkeypatch.setattr(StandInHub, "commit", lambda self, repo_id: commit)
    with pytest.raises(ConnectionError, match="is not a Hub: commit"):
        labhub.snapshot("org/name")
    assert tree(hub.home) == "absent"


# Verification


def test_a_snapshot_that_is_refused_is_not_kept(hub):
    hub.repos["org/name"] = FILES
    with pytest.raises(
        ValueError, match=r"The Hub's org/name is not sound: org/name/config.json is not what.*It was not loaded"
    ):
        labhub.snapshot("org/name", verify=refuse)
    assert offline() is None
    assert kept(hub.home) == []


def test_a_refused_update_leaves_the_older_snapshot(hub):
    hub.repos["org/name"] = dict(FILES)
    old = labhub.snapshot("org/name")
    hub.repos["org/name"]["config.json"] = b"[]"

    def verify(folder):
        if (folder / "config.json").read_bytes() == b"[]":
            refuse(folder)

    for force in (False, True):
        with pytest.raises(ValueError, match="org/name is not sound"):
            labhub.snapshot("org/name", Access(force_download=force), verify=verify)
        assert offline(verify=verify) == old
        assert contents(old) == FILES


@pytest.mark.parametrize("update", [False, True])
def test_what_lies_in_the_cache_is_verified_at_every_load_and_fetched_again(hub, update):
    hub.repos["org/name"] = dict(FILES)
    folder = labhub.snapshot("org/name")
    (folder / "config.json").resolve().write_bytes(b"tampered")

    def verify(folder):
        if (folder / "config.json").read_bytes() != FILES["config.json"]:
            raise ValueError("The config is another.")

    with pytest.raises(ValueError, match=r"The config is another. It was not loaded; where there is a network it is"):
        labhub.snapshot("org/name", Access(local_files_only=True), verify=verify)
    if update:  # the file that was tampered with belongs to both snapshots
        hub.repos["org/name"]["README.md"] = b"# another card"
    assert contents(labhub.snapshot("org/name", verify=verify)) == hub.repos["org/name"]
    assert contents(folder) == FILES


def test_nothing_of_others_is_taken_out_of_the_shared_cache(hub):
    from huggingface_hub import snapshot_download

    hub.repos["org/name"] = FILES | UNWANTED
    theirs = Path(snapshot_download("org/name"))
    before = tree(theirs)
    with pytest.raises(ValueError, match="is not sound"):
        labhub.snapshot("org/name", verify=refuse)
    assert tree(theirs) == before


def test_a_missing_file_found_by_verify_stays_a_missing_file(hub):
    alone = {"config.json": b"{}"}
    hub.repos["org/name"] = alone
    with pytest.raises(FileNotFoundError, match=r"org/name is not an alignment folder: model.safetensors missing"):
        labhub.snapshot("org/name", verify=load)
    assert kept(hub.home) == []


# Offline


@pytest.mark.parametrize("how", ["argument", "variable", "constant"])
def test_offline_a_warm_cache_works_and_a_cold_one_says_what_to_fetch(hub, monkeypatch, entry, entry_file, how):
    hub.repos["org/name"] = FILES
    hub.add_published(entry, entry_file)
    folder, matrix_folder = labhub.snapshot("org/name"), labhub.published_folder(entry)
    hub.requests.clear()
    options = {}
    if how == "argument":
        options["local_files_only"] = True
    elif how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert labhub.snapshot("org/name", Access(**options)) == folder
    assert labhub.published_folder(entry, Access(**options)) == matrix_folder
    before = tree(hub.home)

    cold = {"cache_dir": hub.home.parent / "cold", **options}
    with pytest.raises(FileNotFoundError, match=r"not in the cache .*cold.*type: hf download org/other --revision v1"):
        labhub.snapshot("org/other", Access(revision="v1", **cold))
    with pytest.raises(FileNotFoundError, match=r"type: hf download timm/x open_clip_model.safetensors --cache-dir"):
        labhub.base_weights("timm/x", ["open_clip_model.safetensors", "b"], Access(**cold))
    with pytest.raises(FileNotFoundError, match=rf"ViT-B-32 \(coco\) is not in the cache.*curl -LO http.*{entry.file}"):
        labhub.published_folder(entry, Access(**cold))
    with pytest.raises(FileNotFoundError, match="curl -L"):
        labhub.url_weights(hub.url + "/w.pt", Access(**cold))
    with pytest.raises(ValueError, match="force_download=True needs the network"):
        labhub.snapshot("org/name", Access(force_download=True, **options))
    assert hub.requests == []
    assert tree(hub.home) == before
    assert tree(cold["cache_dir"]) == "absent"


# Base weights


def safetensors(seed=0):
    from safetensors.torch import save

    return save({"weight": matrix(seed)})


def test_base_weights_are_the_first_file_there_is(hub):
    hub.repos["timm/clip.openai"] = {"open_clip_model.safetensors": safetensors(), "open_clip_pytorch_model.bin": b"x"}
    hub.repos["timm/old"] = {"open_clip_pytorch_model.bin": b"x", "README.md": b""}
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    path = labhub.base_weights("timm/clip.openai", names)
    assert path.name == names[0]
    assert path.read_bytes() == safetensors()
    assert hub.asked("pytorch_model") == 0
    assert labhub.base_weights("timm/old/", names).name == names[1]
    hub.requests.clear()
    assert labhub.base_weights("timm/clip.openai", names, Access(local_files_only=True)) == path
    assert hub.requests == []


def test_base_weights_that_are_missing_or_damaged(hub):
    hub.repos["timm/x"] = {"a.safetensors": safetensors()[:-9], "b.safetensors": b"<html>"}
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(ValueError, match=rf"timm/x/{name} is not a whole safetensors file.*It was not loaded"):
            labhub.base_weights("timm/x", [name])
    with pytest.raises(FileNotFoundError, match=r"timm/x on the Hub lacks c.safetensors or d.bin"):
        labhub.base_weights("timm/x", ["c.safetensors", "d.bin"])
    with pytest.raises(FileNotFoundError, match="timm/y is not on the Hub"):
        labhub.base_weights("timm/y", ["a.safetensors"])
    assert kept(hub.home) == []


def test_weights_at_an_address_are_held_against_the_hash_in_it(hub, tmp_path):
    data = b"weights" * 1000
    digest = hashlib.sha256(data).hexdigest()
    good = [f"/models/{digest}/ViT.pt", f"/v0/vit-{digest[:8]}.pt", "/plain.pt"]
    bad = [f"/models/{'0' * 64}/ViT.pt", "/v0/vit-00000000.pt"]
    hub.raw = dict.fromkeys([*good, *bad], data)
    for path in good:
        assert labhub.url_weights(hub.url + path).read_bytes() == data
    before = tree(hub.home)
    for path in bad:
        with pytest.raises(ValueError, match=r"nothing was kept: what arrived has the SHA-256"):
            labhub.url_weights(hub.url + path)
    with pytest.raises(FileNotFoundError, match="it answered 404"):
        labhub.url_weights(hub.url + "/nothing.pt")
    hub.faults["plain.pt"] = "silent"
    asked = len(hub.requests)
    assert labhub.url_weights(hub.url + "/plain.pt").read_bytes() == data
    assert len(hub.requests) == asked
    with pytest.raises(ConnectionError, match="it can't be reached"):
        labhub.url_weights(hub.url + "/plain.pt", Access(force_download=True))
    assert tree(hub.home) == before


# Published matrices


def test_a_published_matrix_comes_from_the_authors_once(hub, entry, entry_file):
    hub.add_published(entry, entry_file)
    folder = labhub.published_folder(entry)
    alignment = load(folder)
    assert torch.equal(alignment.fitted, matrix())
    assert (alignment.base, alignment.logit_scale) == (BASE, 2.5)
    assert alignment.metadata == entry.metadata
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(os.listdir(folder.parent)) == [folder.name]
    assert folder.is_relative_to(hub.assets)
    hub.requests.clear()
    assert labhub.published_folder(entry) == folder
    assert hub.requests == []
    labhub.published_folder(entry, Access(force_download=True))
    assert hub.asked(entry.file) == 1


def test_the_hub_is_asked_first_and_the_authors_then_not_at_all(hub, entry, entry_file, tmp_path):
    hub.add_published(entry, entry_file)
    hub.add_folder(entry.hub_repo, alignment_folder(tmp_path / "a"))
    folder = labhub.published_folder(entry, Access(token="hf_secret", cache_dir=tmp_path / "mine"))
    assert torch.equal(load(folder).fitted, matrix())
    assert folder.is_relative_to(tmp_path / "mine")
    assert hub.asked(entry.file) == 0
    hub.requests.clear()
    assert labhub.published_folder(entry, Access(cache_dir=tmp_path / "mine")) == folder
    assert hub.requests == []
    assert tree(hub.home) == "absent"


def test_the_authors_never_see_the_hub_token(hub, entry, entry_file):
    hub.add_published(entry, entry_file)
    labhub.published_folder(entry, Access(token="hf_secret"))
    assert len(hub.tokens) == hub.asked("/api/models")


@pytest.mark.parametrize("real", published.PUBLISHED, ids=str)
def test_the_real_checkpoints_are_the_ones_in_the_table(hub, real):
    path = ROOT.parent / "shared" / "data" / "published-matrices" / real.file
    if not path.is_file():
        pytest.skip("the published checkpoints are not on this machine")
    hub.add_published(real, path.read_bytes())
    alignment = load(labhub.published_folder(real))
    assert matrix_sha256(alignment.matrix) == real.matrix_sha256
    assert alignment.base == real.base


@pytest.mark.parametrize(
    "changes",
    [
        {"matrix": matrix(1)},
        {"base": Base("ViT-B-32", "openai", quick_gelu=False, embed_dim=16)},
        {"logit_scale": 2.0},
        {"logit_scale": None},
        {"strength": 0.5},
    ],
)
def test_a_hub_repository_that_lies_is_passed_over_and_not_kept(hub, entry, entry_file, tmp_path, changes):
    hub.add_published(entry, entry_file)
    hub.add_folder(entry.hub_repo, alignment_folder(tmp_path / "a", **changes))
    folder = labhub.published_folder(entry)
    assert torch.equal(load(folder).fitted, matrix())
    assert hub.asked("GET /labclip/labclip-vit-b-32-coco/resolve") > 0
    assert kept(hub.cache) == []


@pytest.mark.parametrize(
    ("fault", "kind", "match"),
    [
        (404, FileNotFoundError, "it answered 404"),
        (401, ConnectionError, "it answered 401"),
        (500, ConnectionError, "it answered 500"),
        ("half", ConnectionError, "bytes arrived"),
        ("silent", ConnectionError, "it can't be reached"),
        ("wrong", ValueError, "what arrived has the SHA-256"),
        ("html", ConnectionError, "46 of"),
        ("endless", ValueError, "what arrived has the SHA-256"),
        ("other checkpoint", ValueError, "what arrived has the SHA-256"),
    ],
)
def test_authors_that_fail_are_one_error_that_names_both_sources(hub, entry, entry_file, fault, kind, match):
    hub.add_published(entry, entry_file)
    if fault == "endless":
        hub.add_published(entry, entry_file + bytes(5_000_000))
    elif fault == "other checkpoint":
        hub.add_published(entry, entry_file.replace(b"linear.weight", b"linear.wEight"))
    else:
        hub.faults[entry.file] = fault
    with pytest.raises(kind, match=match) as failure:
        labhub.published_folder(entry)
    message = str(failure.value)
    assert f"could not be fetched. {entry.hub_repo} is not on the Hub" in message
    assert f"The authors ({entry.url}): " in message
    assert f"labclip convert {entry.file} FOLDER" in message
    assert kept(hub.home) == []


def test_both_silent(hub, entry):
    hub.faults["/"] = "silent"
    with pytest.raises(ConnectionError, match=r"The Hub .*timed out.*The authors .*timed out"):
        labhub.published_folder(entry)
    assert kept(hub.home) == []


@pytest.mark.parametrize("endpoint", ["file:///etc", "ftp://127.0.0.1", "nonsense"])
def test_a_mirror_must_be_a_web_address(hub, entry, monkeypatch, endpoint):
    monkeypatch.setenv("LABCLIP_AUTHORS_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match="must begin with https://"):
        labhub.published_folder(entry)
    assert kept(hub.home) == []


@pytest.mark.parametrize("spoil", ["tampered", "emptied", "a file"])
def test_a_published_folder_spoilt_in_the_cache_is_made_again(hub, entry, entry_file, spoil):
    hub.add_published(entry, entry_file)
    folder = labhub.published_folder(entry)
    if spoil == "tampered":
        alignment_folder(folder, matrix=matrix(1))
    else:
        for path in folder.iterdir():
            path.unlink()
        if spoil == "a file":
            folder.rmdir()
            folder.write_text("in the way")
    assert labhub.published_folder(entry) == folder
    assert torch.equal(load(folder).fitted, matrix())
    assert os.listdir(folder.parent) == [folder.name]


# The cache


def test_a_cache_that_is_a_file(hub, entry, entry_file, tmp_path):
    hub.repos["org/name"] = FILES
    hub.add_published(entry, entry_file)
    cache = tmp_path / "file"
    cache.write_text("mine")
    for call in (
        lambda: labhub.snapshot("org/name", Access(cache_dir=cache)),
        lambda: labhub.published_folder(entry, Access(cache_dir=cache)),
    ):
        with pytest.raises(OSError, match=r"file.* can't be used .*pass cache_dir=FOLDER, or set HF_HOME=FOLDER"):
            call()
    assert cache.read_text() == "mine"


def test_a_disk_that_is_full_when_the_matrix_is_converted(hub, entry, entry_file, monkeypatch):
    from safetensors import SafetensorError

    def save_file(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    hub.add_published(entry, entry_file)
    monkeypatch.setattr("labclip.io.folder.save_file", save_file)
    with pytest.raises(OSError, match=r"No space left on device"):
        labhub.published_folder(entry)
    assert kept(hub.home) == []


def test_what_a_killed_process_left_is_taken_away_when_it_is_old(hub, entry, entry_file):
    hub.add_published(entry, entry_file)
    home = labhub.published_folder(entry).parent
    old, fresh = home / ".labclip-old", home / ".labclip-fresh"
    for folder in (old, fresh):
        folder.mkdir()
    os.utime(old, (time.time() - 10 * 24 * 3600,) * 2)
    labhub.published_folder(entry, Access(force_download=True))
    assert not old.exists()
    assert fresh.exists()


HOSTILE = """
import json, os, resource, sys, tempfile
import dataclasses
from labclip.io import hub
from labclip.io import published
entry = dataclasses.replace(published.PUBLISHED[0], **json.loads(sys.argv[2]))
published.PUBLISHED = (entry,)
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
calls = [lambda *access: hub.snapshot("org/name", *access), lambda *access: hub.published_folder(entry, *access)]
if sys.argv[1] == "nobody" and os.geteuid() == 0:
    # Permissions do not bind root. All modules must be loaded before it gives up the right to read them.
    with tempfile.TemporaryDirectory() as warm:
        for call in calls:
            call(hub.Access(cache_dir=warm))
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
results = []
for call in calls:
    try:
        results.append(["ok", str(call())])
    except Exception as error:
        results.append([type(error).__name__, str(error)])
print(json.dumps(results))
"""


def run_elsewhere(hub, entry, mode, home, **options):
    """Start a process of its own that fetches a snapshot and a published matrix."""
    fields = ("embed_dim", "logit_scale", "size", "file_sha256", "matrix_sha256")
    changes = json.dumps({name: getattr(entry, name) for name in fields})
    environment = os.environ | hub.environment(home) | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", HOSTILE, mode, changes],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def results_of(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_two_processes_fill_one_cache_at_once(hub, entry, entry_file):
    hub.repos["org/name"] = FILES
    hub.add_published(entry, entry_file)
    processes = [run_elsewhere(hub, entry, "plain", hub.home) for _ in range(2)]
    results = [results_of(process) for process in processes]
    assert results[0] == results[1]
    (snapshot_kind, snapshot), (kind, folder) = results[0]
    assert (snapshot_kind, kind) == ("ok", "ok")
    assert {path.name: path.read_bytes() for path in Path(snapshot).iterdir()} == FILES
    assert torch.equal(load(folder).fitted, matrix())
    assert os.listdir(Path(folder).parent) == [Path(folder).name]
    assert not list(hub.home.rglob(".labclip-*"))
    assert hub.asked("GET /org/name/resolve") == len(FILES)


def test_a_full_disk(hub, entry, entry_file):
    """A limit on the size of a file fails the same system calls as a disk that is full."""
    hub.repos["org/name"] = FILES
    assert len(FILES["model.safetensors"]) > 2000
    hub.add_published(entry, entry_file)
    hub.home.mkdir()
    for kind, message in results_of(run_elsewhere(hub, entry, "full", hub.home)):
        assert kind == "CacheError"
        assert "Free some space there, or name another: pass cache_dir=FOLDER, or set HF_HOME=" in message
    assert offline() is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_read_only_cache(hub, entry, entry_file):
    hub.repos["org/name"] = FILES
    hub.add_published(entry, entry_file)
    # Not below tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        home = Path(folder) / "locked"
        home.mkdir(mode=0o555)
        for kind, message in results_of(run_elsewhere(hub, entry, "nobody", home)):
            assert kind == "CacheError"
            assert "can't be used (Permission denied)" in message
            assert "pass cache_dir=FOLDER, or set HF_HOME=" in message
        assert tree(home) == {}


def test_threads_that_ask_at_once_fetch_once(hub):
    hub.repos["org/name"] = FILES
    found = []
    threads = [threading.Thread(target=lambda: found.append(labhub.snapshot("org/name"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert hub.asked("GET /org/name/resolve") == len(FILES)


# Pushing


def test_what_is_pushed_comes_back(hub):
    alignment = Alignment(matrix(), base=BASE, logit_scale=2.5, metadata={"seed": 1})
    url = alignment.push_to_hub("org/new", commit_message="My matrix", token="hf_secret", private=True)
    assert url == f"{hub.url}/org/new/commit/{hub.commit('org/new')}"
    assert sorted(hub.repos["org/new"]) == ["README.md", "config.json", "model.safetensors"]
    assert hub.pushed[0]["summary"] == "My matrix"
    assert set(hub.tokens) == {"hf_secret"}
    again = load(labhub.snapshot("org/new", verify=load))
    assert torch.equal(again.matrix, alignment.matrix)
    assert again.metadata == {"seed": 1}


def test_a_pull_request_to_a_repository_that_exists(hub, tmp_path):
    hub.repos["org/name"] = dict(FILES)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("[]")
    url = labhub.push_folder(tmp_path / "folder", "org/name", create_pr=True, token="hf_secret")
    assert url == f"{hub.url}/org/name/discussions/1"
    assert hub.repos["org/name"]["config.json"] == b"[]"


@pytest.mark.parametrize(
    ("where", "fault", "kind", "match"),
    [
        ("/api/", 401, PermissionError, r"refuses org/name \(401\).*hf auth login"),
        ("/api/", 403, PermissionError, r"refuses org/name \(403\).*hf auth login"),
        ("/api/", 500, ConnectionError, r"answered 500 for org/name.*Try again: labclip push .*folder org/name"),
        ("/commit/", 500, ConnectionError, "answered 500 for org/name"),
        ("/api/", "html", ConnectionError, "is not a Hub"),
    ],
)
def test_a_push_that_fails_says_why(hub, tmp_path, where, fault, kind, match):
    folder = alignment_folder(tmp_path / "folder")
    hub.faults[where] = fault
    with pytest.raises(kind, match=match):
        labhub.push_folder(folder, "org/name", token="hf_secret")
    assert hub.pushed == []


def test_a_push_of_nothing(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nothing.*save_pretrained\(FOLDER\)"):
        labhub.push_folder(tmp_path / "nothing", "org/name")
    assert hub.requests == []


def test_only_what_labclip_reads_is_pushed(hub, tmp_path, caplog):
    folder = alignment_folder(tmp_path / "folder")
    for name in (".env", "train.py", "open_clip_pytorch_model.bin", ".git-credentials.json"):
        (folder / name).write_text("secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("secret")
    labhub.push_folder(folder, "org/name", token="hf_secret")
    assert sorted(hub.repos["org/name"]) == ["README.md", "config.json", "model.safetensors"]
    assert "Not uploaded, since labclip does not read it: .env, .git-credentials.json, open_clip_pyt" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds nothing that labclip reads"):
        labhub.push_folder(tmp_path / "empty", "org/other")
    assert "org/other" not in hub.repos


def test_a_push_without_network_says_that_it_is_off(hub, tmp_path, monkeypatch):
    folder = alignment_folder(tmp_path / "folder")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match=r"network is off.*Type: HF_HUB_OFFLINE=0 labclip push .*folder org/name"):
        labhub.push_folder(folder, "org/name", token="hf_secret")
    assert hub.requests == []


def test_importing_the_module_loads_neither_torch_nor_the_client():
    code = (
        "import sys, labclip.io.hub; print([m for m in ('torch', 'huggingface_hub', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
