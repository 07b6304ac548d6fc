import math

import pytest

from labclip.io.published import PUBLISHED


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


@pytest.mark.parametrize("entry", PUBLISHED, ids=str)
def test_bases_are_what_openclip_calls_the_openai_weights_with_quickgelu(entry):
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_model_config(entry.base.model)
    assert config["quick_gelu"] is entry.base.quick_gelu is True
    assert config["embed_dim"] == entry.base.embed_dim
    assert entry.base.pretrained in open_clip.list_pretrained_tags_by_model(entry.base.model)


def test_the_address_is_pinned_and_a_mirror_is_read_when_asked(monkeypatch):
    monkeypatch.delenv("LABCLIP_AUTHORS_ENDPOINT", raising=False)
    rest = "/kdariina/CLIP-not-BoW-unimodally/d3ecb1855c5cbe958673879e2ddc01408e7df19d/alignment/weights/"
    assert PUBLISHED[0].url == f"https://raw.githubusercontent.com{rest}labclip_coco_neg_B32.pt"
    monkeypatch.setenv("LABCLIP_AUTHORS_ENDPOINT", "https://mirror.example/")
    assert PUBLISHED[0].url == f"https://mirror.example{rest}labclip_coco_neg_B32.pt"
