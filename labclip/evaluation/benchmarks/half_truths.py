"""Half-truths: a true detail alone against the same detail with a wrong one added (arXiv:2602.23906)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from labclip.data.rows import fields, read_rows
from labclip.evaluation.benchmarks.forms import image_name
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task

Choices = Iterator[tuple[str, str, str]]
"""Kind, right text and wrong text of each choice."""

Negatives = dict[str, list[dict[str, str]]]
"""The wrong versions of each entity."""

_FUNCTION_WORDS = frozenset(("and", "the", "a", "an", "on", "in", "at", "to", "of"))


def read(sources: Sources, *, limit: int = 1000) -> Task:
    """`entities`: "a red hat" beats "a red hat and a blue dog"; `relations`: "a dog" beats "a dog under a chair".

    Each kind of wrong text has a metric, such as `entities_attribute` and `relations_swap`. In `whole_entities` and
    `whole_relations` all of the longer text is true, and it should win. As in the authors' code
    (experiments/half_truth_vulnerability.py of github.com/kargibora/CS-CLIP), the first two entities and the first
    relation of an image that have wrong versions count, whichever caption they come from. There a tie is right.

    Args:
        sources: The files.
        limit: Number of images with entities, and of images with relations; 1,000 in the authors' settings, 0 takes
            all.
    """
    items = Items(sources)
    patterns = ("{path}", "{rest}", "{name}", "val2014/{name}", "train2014/{name}", "images/{path}")
    counted: dict[str, set[int]] = {"entities": set(), "relations": set()}  # rows of images
    for location, entry in read_rows(sources.find_file("coco_val.json", "coco_val_entities.json")):
        names = "image_path", "entities", "negative_entities", "relations"
        image, entities, negatives, relations = fields(entry, names, location)
        row = sources.image(image_name(sources, image), location, patterns)
        choices_of = {
            "entities": _entity_choices(entities, negatives),
            "relations": _relation_choices(relations, entities, negatives),
        }
        for metric, choices in choices_of.items():
            rows = counted[metric]
            if row is None or row in rows or len(rows) == (limit or None):
                continue
            for kind, right, wrong in choices:
                rows.add(row)
                mean = {metric: 0} if kind.startswith(metric) else {}
                items.add(row, (right, wrong), location, **mean, **{kind: 0})
    sources.notes.append(LENGTHS)
    return sources.task(*items.question(items.metrics(*counted), right_first=True))


def _entity_choices(entities: list[str], negatives: Negatives) -> Choices:
    """The choices of the first pair of entities whose second one has a wrong version."""
    for first_entity, second_entity in itertools.permutations(entities, 2):
        first, second = first_entity.lower().strip(), second_entity.lower().strip()
        foils = _first_by_kind(negatives.get(second_entity, []))
        if foils and _has_content(first) and _has_content(second):
            yield "whole_entities", f"{first} and {second}", first
            for kind, foil in foils.items():
                yield f"entities_{kind}", first, f"{first} and {foil}"
            return


def _relation_choices(relations: list[dict[str, Any]], entities: list[str], negatives: Negatives) -> Choices:
    """The choices of the first relation with at least two wrong texts, not counting a wrong attribute."""
    for relation in relations:
        subject, verb, target = _triple(relation)
        if not (subject and verb and target):
            continue
        texts = {"swap": f"{target} {verb} {subject}"}
        for negative in relation.get("negatives", []):
            kind, parts = negative.get("change_type", "").lower(), _triple(negative)
            if kind in ("antonym", "negation") and all(map(_has_content, parts)):
                texts.setdefault(kind, " ".join(parts))
        target_foils = _first_by_kind(_negatives_of(target, entities, negatives))
        subject_foils = _first_by_kind(_negatives_of(subject, entities, negatives))
        if "object" in target_foils:
            texts["object"] = f"{subject} {verb} {target_foils['object']}"
        if "object" in subject_foils:
            texts["subject"] = f"{subject_foils['object']} {verb} {target}"
        if len(texts) < 2:
            continue
        if "attribute" in target_foils:
            texts["attribute"] = f"{subject} {verb} {target_foils['attribute']}"
        yield "whole_relations", f"{subject} {verb} {target}", subject
        for kind, foil in texts.items():
            yield f"relations_{kind}", subject, foil
        return


def _triple(relation: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(relation.get(name, "")).lower().strip() for name in ("subject", "relation_type", "object"))


def _negatives_of(name: str, entities: list[str], negatives: Negatives) -> list[dict[str, str]]:
    """The wrong versions of an entity, or else of the first entity that contains its name."""
    containing = next((negatives.get(entity, []) for entity in entities if name in entity.lower()), [])
    return negatives.get(name) or containing


def _first_by_kind(negatives: list[dict[str, str]]) -> dict[str, str]:
    """The first wrong version with another object, and the first with another attribute."""
    texts: dict[str, str] = {}
    for negative in negatives:
        kind, text = negative["change_type"].removesuffix("_change"), negative["negative"].lower()
        if kind in ("object", "attribute") and _has_content(text):
            texts.setdefault(kind, text)
    return texts


def _has_content(text: str) -> bool:
    return any(len(word) > 2 and word not in _FUNCTION_WORDS for word in text.split())
