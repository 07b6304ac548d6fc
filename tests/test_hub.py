"""The Hub over real HTTP, on loopback, with the real client: what comes, what is refused, and the cache after it."""

from pathlib import Path

import models
import pytest
import torch
from folders import contents
from standin import published_entry

from labclip import LABCLIP, Alignment
from labclip.base import Base
from labclip.io import hub as labhub
from labclip.io import published
from labclip.io.folder import load
from labclip.io.hub import Access, published_alignment

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
    "pytorch_model.bin": b"pickle", "model.pt": b"pickle", "weights.pkl": b"pickle", "model.py": b"import os",
    ".gitattributes": b"", ".hidden.json": b"{}", "nested/config.json": b"{}", "model-00001-of-00002.safetensors": b"s",
}  # fmt: skip


def matrix(seed=0):
    return torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))


def snapshot(repo_id, access=labhub.DEFAULT, read=lambda folder: folder):
    return labhub.snapshot(repo_id, access, read=read)


def alignment_folder(folder, **changes):
    options = {"base": BASE, "logit_scale": 2.5} | changes
    Alignment(options.pop("matrix", matrix()), **options).save_pretrained(folder)
    return folder


@pytest.fixture
def entry(hub, monkeypatch):
    """A published matrix of dim 16, in the table in place of the real ones, whose authors have its checkpoint."""
    entry, data = published_entry(matrix(), 2.5)
    monkeypatch.setattr(published, "PUBLISHED", (entry,))
    hub.add_published(entry, data)
    return entry


# Snapshots


def test_a_snapshot_holds_weights_configs_card_and_tokenizer_and_nothing_else(hub, tmp_path):
    hub.repos["org/name"] = FILES | UNWANTED
    folder = snapshot("org/name", Access(cache_dir=tmp_path / "mine", token="hf_secret"))
    assert contents(folder) == FILES
    assert folder.parent.parent == tmp_path / "mine" / "models--org--name"
    assert not hub.cache.exists()
    assert set(hub.tokens) == {"hf_secret"}
    assert not [name for name in UNWANTED if hub.asked(f"resolve/{folder.name}/{name}")]


def test_the_cache_is_the_clients_own(hub):
    from huggingface_hub import snapshot_download

    hub.repos["org/name"] = dict(FILES)
    theirs = snapshot_download("org/name")
    hub.requests.clear()
    for access in (Access(local_files_only=True), Access()):
        assert str(snapshot("org/name", access)) == theirs
    assert hub.asked("resolve") == 0
    hub.repos["org/name"]["README.md"] = b"# another card"
    assert contents(snapshot("org/name")) == hub.repos["org/name"]
    assert hub.asked("GET /org/name/resolve") == 1  # the card
    assert contents(snapshot("org/name", Access(revision=Path(theirs).name))) == FILES


@pytest.mark.parametrize("repo_id", ["../name", "a/b/c", "org/na me", "", "https://huggingface.co/org/name"])
def test_what_is_no_repository_is_refused_before_anything_is_asked(hub, repo_id):
    for call in (snapshot, lambda name: labhub.push_folder(ROOT, name), Alignment.identity(2).push_to_hub):
        with pytest.raises(ValueError, match="A repository is 'org/name'"):
            call(repo_id)
    assert hub.requests == []
    assert not hub.cache.exists()


FAULTS = [
    ("/api/models", 404, FileNotFoundError, "org/name is not on the Hub.*Check the name"),
    ("/api/models", 401, PermissionError, r"refuses org/name \(401\).*hf auth login, or pass token="),
    ("/api/models", "gated", PermissionError, r"gated repository, request access at http://127.0.0.1:\d+/org/name"),
    ("/api/models", "html", ConnectionError, r"org/name failed at the Hub \(http://127.0.0.1:"),
    ("/resolve", 500, ConnectionError, r"org/name failed at the Hub .*: it answered 500. Try again"),
]


@pytest.mark.parametrize(("where", "fault", "kind", "match"), FAULTS)
def test_a_failing_hub_is_one_clear_error_and_the_next_try_fetches_again(hub, where, fault, kind, match):
    hub.repos["org/name"] = FILES
    hub.faults[where] = fault
    with pytest.raises(kind, match=match) as failure:
        snapshot("org/name")
    assert "\n" not in str(failure.value)
    hub.faults.clear()
    assert contents(snapshot("org/name", Access(force_download=fault == "html"))) == FILES


def test_a_revision_a_token_and_a_hub_that_are_not_there(hub, monkeypatch):
    hub.repos["org/name"] = FILES
    with pytest.raises(FileNotFoundError, match=r"org/name of revision v9 is not on the Hub"):
        snapshot("org/name", Access(revision="v9"))
    with pytest.raises(PermissionError, match=r"refuses org/name \(no token is stored\).* type: hf auth login"):
        snapshot("org/name", Access(token=True))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    with pytest.raises(ConnectionError, match=r"org/name failed at the Hub .*refused"):
        snapshot("org/name")


def test_what_is_not_sound_is_removed_and_fetched_again_by_the_next_call(hub):
    hub.repos["org/name"] = FILES
    folder = snapshot("org/name")
    (folder / "config.json").resolve().write_bytes(b"tampered")

    def read(folder):
        if (folder / "config.json").read_bytes() != FILES["config.json"]:
            raise ValueError(f"{folder}/config.json is not what it should be.")
        return folder

    for access in (Access(local_files_only=True), Access()):
        with pytest.raises(ValueError, match=r"The Hub's org/name can't be loaded: org/name/config"):
            snapshot("org/name", access, read)
    with pytest.raises(FileNotFoundError, match="is not in the cache"):
        snapshot("org/name", Access(local_files_only=True))
    assert contents(snapshot("org/name", read=read)) == FILES


TAGGED = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=512)
REPOSITORY = "timm/vit_base_patch32_clip_224.openai"


@pytest.mark.parametrize("how", ["argument", "constant"])
def test_offline_a_warm_cache_works_and_a_cold_one_says_what_to_fetch(hub, monkeypatch, entry, how):
    hub.repos["org/name"] = FILES
    hub.repos[REPOSITORY] = {"open_clip_pytorch_model.bin": b"x"}
    folder, weights = snapshot("org/name"), labhub.weights_file(TAGGED)
    published_alignment(entry)
    hub.requests.clear()
    options = {"local_files_only": True} if how == "argument" else {}
    if how == "constant":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert snapshot("org/name", Access(**options)) == folder
    assert labhub.weights_file(TAGGED, Access(**options)) == weights
    assert torch.equal(published_alignment(entry, Access(**options)).fitted, matrix())
    cold = {"cache_dir": hub.home.parent / "cold", **options}
    with pytest.raises(FileNotFoundError, match=r"not in the cache .*cold.*type: hf download org/other --revision v1"):
        snapshot("org/other", Access(revision="v1", **cold))
    with pytest.raises(FileNotFoundError, match=rf"type: hf download {REPOSITORY} open_clip_model.safetensors --cache"):
        labhub.weights_file(TAGGED, Access(**cold))
    with pytest.raises(FileNotFoundError, match=rf"ViT-B-32 \(coco\) is not in the cache.*curl -LO http.*{entry.file}"):
        published_alignment(entry, Access(**cold))
    if how != "argument":
        with pytest.raises(ConnectionError, match="The network is off"):
            labhub.push_folder(folder, "org/name")
    assert hub.requests == []


def test_weights_of_a_tag_are_the_first_file_there_is(hub, tmp_path):
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    hub.repos[REPOSITORY] = dict.fromkeys(names, b"x")
    assert labhub.weights_file(TAGGED).name == names[0]
    assert hub.asked("pytorch_model") == 0
    hub.repos[REPOSITORY] = {names[1]: b"x", "README.md": b""}
    assert labhub.weights_file(TAGGED, Access(cache_dir=tmp_path / "a")).name == names[1]
    hub.repos[REPOSITORY] = {"README.md": b""}
    with pytest.raises(FileNotFoundError, match=f"{names[0]} of {REPOSITORY} is not on the Hub"):
        labhub.weights_file(TAGGED, Access(cache_dir=tmp_path / "b"))


# Published matrices


def test_a_published_matrix_comes_from_the_hub_else_from_the_authors_once(hub, entry, tmp_path):
    access = Access(token="hf_secret", cache_dir=tmp_path / "mine")
    alignment = published_alignment(entry, access)
    assert torch.equal(alignment.fitted, matrix())
    assert (alignment.base, alignment.logit_scale, alignment.metadata) == (BASE, 2.5, entry.metadata)
    assert len(hub.tokens) == hub.asked("/api/models")  # the authors never see the token
    hub.add_folder(entry.hub_repo, alignment_folder(tmp_path / "a"))
    hub.requests.clear()
    assert torch.equal(published_alignment(entry, access).fitted, matrix())
    assert hub.requests == []
    for _ in range(2):
        assert torch.equal(published_alignment(entry).fitted, matrix())
    assert hub.asked(entry.file) == 0
    assert hub.asked("/revision/main") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"matrix": matrix(1)},
        {"base": Base("ViT-B-32", "openai", quick_gelu=False, embed_dim=16)},
        {"logit_scale": None},
        {"strength": 0.5},
    ],
)
def test_a_matrix_that_lies_is_never_loaded(hub, entry, tmp_path, changes):
    hub.add_folder(entry.hub_repo, alignment_folder(tmp_path / "a", **changes))
    assert torch.equal(published_alignment(entry).fitted, matrix())  # the Hub's is passed over
    assert not list(hub.cache.rglob("model.safetensors"))
    (kept,) = hub.assets.rglob("model.safetensors")
    alignment_folder(kept.parent, **changes)  # and the kept one, made again
    alignment = published_alignment(entry)
    assert (alignment.base, alignment.logit_scale, alignment.strength) == (BASE, 2.5, 1.0)
    assert torch.equal(alignment.fitted, matrix())


@pytest.mark.parametrize(
    ("fault", "kind", "match"),
    [
        (404, ConnectionError, "404"),
        ("half", ConnectionError, "The authors"),
        ("wrong", ValueError, r"the [\d,]+ bytes received have another SHA-256"),
    ],
)
def test_authors_that_fail_are_one_error_that_names_both_sources(hub, entry, fault, kind, match):
    hub.faults[entry.file] = fault
    with pytest.raises(kind, match=match) as failure:
        published_alignment(entry)
    assert failure.value.__suppress_context__  # the message alone, no traceback of urllib above it
    message = str(failure.value)
    assert f"could not be downloaded. {entry.hub_repo} is not on the Hub" in message
    assert f"The authors ({entry.url}): " in message
    assert f"labclip convert {entry.file} FOLDER" in message
    assert not list(hub.home.rglob("model.safetensors"))


# Pushing


def test_what_is_pushed_comes_back(hub):
    alignment = Alignment(matrix(), logit_scale=2.5, metadata={"seed": 1})
    url = alignment.push_to_hub("org/new", commit_message="My matrix", token="hf_secret", private=True)
    assert url == f"{hub.url}/org/new/commit/{hub.commit('org/new')}"
    assert sorted(hub.repos["org/new"]) == ["README.md", "config.json", "model.safetensors"]
    assert hub.pushed[0]["summary"] == "My matrix"
    assert set(hub.tokens) == {"hf_secret"}
    again = snapshot("org/new", read=load)
    assert torch.equal(again.matrix, alignment.matrix)
    assert again.metadata == {"seed": 1}
    model = LABCLIP(models.make("clip"), alignment)
    model.openclip_config = {"model_cfg": models.CONFIGS["clip"], "preprocess_cfg": {}}
    model.push_to_hub("org/model", token="hf_secret")
    assert "open_clip_model.safetensors" in hub.repos["org/model"]
    assert alignment.push_to_hub("org/new", create_pr=True, token="hf_secret") == f"{hub.url}/org/new/discussions/1"


def test_a_push_that_fails_says_why_and_only_what_labclip_reads_is_pushed(hub, tmp_path, caplog):
    folder = alignment_folder(tmp_path / "folder")
    for name in (".env", "train.py", "open_clip_pytorch_model.bin", ".git-credentials.json"):
        (folder / name).write_text("secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("secret")
    for faults, kind, match in (
        ({"/api/": 403}, PermissionError, r"refuses org/name \(403\).*hf auth login"),
        ({"/commit/": 500}, ConnectionError, r"org/name failed at the Hub .*: it answered 500"),
    ):
        hub.faults = faults
        with pytest.raises(kind, match=match):
            labhub.push_folder(folder, "org/name", token="hf_secret")
    assert hub.pushed == []
    hub.faults = {}
    labhub.push_folder(folder, "org/name", token="hf_secret")
    assert sorted(hub.repos["org/name"]) == ["README.md", "config.json", "model.safetensors"]
    assert "Not uploaded, since labclip does not read it: .env, .git-credentials.json, open_clip_pyt" in caplog.text
