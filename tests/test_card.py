"""The model card: its header as the Hub reads it, its table, and metadata that would break either."""

import math
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from labclip import Alignment, Base
from labclip.io.card import folded_card, model_card, record_of, record_page
from labclip.report import terminal

BASE = Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=2)
RESULTS = {
    "aro": {
        "base": {"swap_att": 0.6123, "search_confused5": 0.4, "swap_att_blind": 0.5},
        "labclip": {"swap_att": 0.9, "search_confused5": 0.1, "swap_att_blind": 0.6},
    },
    "coco": {"base": {"t2i_r1": 0.3}, "labclip": {"t2i_r1": 0.31, "i2t_r1": 0.5}},
}
COSINES = {
    "strength": 0.5,
    "base": {"matched": [0.2, 0.3, 0.4], "unmatched": [0.0, 0.1, 0.2]},
    "labclip": {"matched": [0.15, 0.25, 0.35], "unmatched": [-0.1, 0, 0.1]},
}
HOSTILE = ['a: b "c"', "x\n---\ny: z", "| | |"]


def alignment(base=BASE, **metadata):
    return Alignment(torch.tensor([[1.0, 3.0], [4.0, 1.0]]), base=base, logit_scale=4.0, metadata=metadata)


def header(card):
    """The YAML between the first two `---` lines."""
    first, block, _ = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    assert first == ""
    return yaml.safe_load(block)


def test_the_header_has_the_form_the_hub_reads():
    card = model_card(alignment(license="mit", results=RESULTS))
    head = header(card)
    assert head["library_name"] == "labclip"
    assert head["license"] == "mit"
    assert head["base_model"] == "timm/vit_base_patch32_clip_224.openai"  # in OpenCLIP's table
    assert head["base_model_relation"] == "adapter"
    assert {"clip", "open_clip", "labclip"} <= set(head["tags"])
    [entry] = head["model-index"]
    assert entry["name"] == "LABCLIP for ViT-B-32-quickgelu (openai)"
    assert {item["dataset"]["name"]: len(item["metrics"]) for item in entry["results"]} == {"aro": 3, "coco": 2}
    read = {(item.dataset_name, item.metric_type): item.metric_value for item in ModelCard(card).data.eval_results}
    assert read["coco", "i2t_r1"] == 0.5


@pytest.mark.parametrize(
    ("base", "metadata", "named"),
    [
        (Base("ViTamin-S", "datacomp1b", quick_gelu=False, embed_dim=2), {}, "jienengchen/ViTamin-S"),
        (BASE, {"base_model": "org/own"}, "org/own"),
        (Base("scenes", "embedded", quick_gelu=False, embed_dim=2), {}, None),
        (None, {}, None),
    ],
)
def test_the_header_names_the_base_on_the_hub_where_it_is_known(base, metadata, named):
    for text, relation in (
        (model_card(alignment(base, **metadata)), "adapter"),
        (folded_card(alignment(base, **metadata), "openclip"), "merge"),
    ):
        head = header(text)
        assert head.get("base_model") == named
        assert head.get("base_model_relation") == (relation if named else None)


def test_the_page_tells_what_the_matrix_is():
    facts = {"recipe": "paper", "data": "COCO", "seed": 3, "source": "somewhere", "costs": ["One.", "Two."]}
    made = alignment(**facts).at(0.5)
    card, text = model_card(made), terminal(record_page(record_of(made, "mine")))
    for line in (
        "LABCLIP for ViT-B-32-quickgelu (openai)",
        "One 2 x 2 matrix on the text embeddings of ViT-B-32-quickgelu (openai)",
        "- Strength: 0.5",
        "- Distance from the identity, Frobenius: 5.0",
        f"- Logit scale: {math.exp(4.0):.1f}",
        "- Recipe: paper",
        "- Data: COCO",
        "- Seed: 3",
        "- Source: somewhere",
        "- Costs reported of the method: One. Two.",
        "https://arxiv.org/abs/2502.03566",
    ):
        assert line in card
        assert line in text
    assert "- Load it: `LABCLIP.from_pretrained('ORG/NAME')`\n" in card
    assert "- Measure it: labclip evaluate sugarcrepe coco zero-shot --model mine\n" in text
    assert "# LABCLIP for a CLIP of dim 2\n" in model_card(Alignment.identity(2))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_where_they_are_put(text):
    base = Base(text, text, quick_gelu=False, embed_dim=2)
    results = {text: {"base": {text: 0.25}, "labclip": {text: 0.5}}}
    card = model_card(alignment(base, license=text, source=text, data=text, results=results))
    head = header(card)
    [entry] = head["model-index"]
    assert head["license"] == text
    assert entry["results"][0]["dataset"] == {"name": text, "type": text}
    assert entry["results"][0]["metrics"] == [{"type": text, "value": 0.5}]
    assert ModelCard(card).data.eval_results[0].metric_type == text
    [row] = [line for line in card.splitlines() if line.endswith("| 0.250 | 0.500 | +0.250 |")]
    assert len(re.split(r"(?<!\\)\|", row)) == 7
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings[0].startswith("# LABCLIP for ")
    assert headings[1:] == ["## Use", "## Measured", "## The matrix"]


def test_the_tables_have_both_sides():
    card = model_card(alignment(results=RESULTS, cosines=COSINES))
    rows = [line for line in card.splitlines() if line.startswith(("| aro", "| coco"))]
    assert rows == [
        "| aro | swap attribute | 0.612 | 0.900 | +0.288 |",
        "| aro | search confused among the top 5 | 0.400 | 0.100 | +0.300 |",
        "| aro | swap attribute by the mean image | 0.500 | 0.600 |  |",  # neither a gain nor a cost
        "| coco | text-to-image retrieval (R@1) | 0.300 | 0.310 | +0.010 |",
    ]
    assert (
        "| pairs | model | 5% | 50% | 95% |\n| --- | --- | ---: | ---: | ---: |\n"
        "| right | base | 0.200 | 0.300 | 0.400 |\n"
        "| right | LABCLIP, strength 0.5 | 0.150 | 0.250 | 0.350 |\n"
        "| wrong | base | 0.000 | 0.100 | 0.200 |\n"
        "| wrong | LABCLIP, strength 0.5 | -0.100 | 0.000 | 0.100 |\n"
    ) in card
    assert "labclip.metrics.same_threshold" in card
    bare = model_card(alignment(results=None))
    assert "Nothing was measured yet" in bare
    assert "model-index" not in header(bare)
