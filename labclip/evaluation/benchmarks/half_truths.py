"""Half-truths: a true detail alone against the same with a wrong one added (arXiv:2602.23906)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from labclip.data.rows import fields, read_rows
from labclip.evaluation.benchmarks.forms import in_folder
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task

Choices = Iterator[tuple[str, str, str]]
"""The kind of each choice, and the right and the wrong text."""

FIELDS = ("image_path", "entities", "negative_entities", "relations")
_EMPTY = frozenset(("and", "the", "a", "an", "on", "in", "at", "to", "of"))


def read(sources: Sources, *, limit: int = 1000) -> Task:
    """`entities`: "a red hat" beats "a red hat and a blue dog"; `relations`: "a dog" beats "a dog under a chair".

    Each kind of wrong text has a metric, such as `entities_attribute` and `relations_swap`. `whole_entities` and
    `whole_relations` prefer the longer text where all of it is true. As in the authors' code, experiments/
    half_truth_vulnerability.py of github.com/kargibora/CS-CLIP, the first two entities and the first relation of an
    image that have wrong ones count, whichever of its captions they are of. There a tie is right.

    Args:
        sources: The files.
        limit: Images with entities, and images with relations: the authors' settings take 1,000. 0 takes all.
    """
    items = Items(sources)
    ways = ("{path}", "{rest}", "{name}", "val2014/{name}", "train2014/{name}", "images/{path}")
    counted: dict[str, set[int]] = {"entities": set(), "relations": set()}
    for location, entry in read_rows(sources.find_file("coco_val.json", "coco_val_entities.json")):
        image, entities, wrong, relations = fields(entry, FIELDS, location)
        row = sources.image(in_folder(sources, image), location, ways)
        texts = {"entities": _of_entities(entities, wrong), "relations": _of_relations(relations, entities, wrong)}
        for what, choices in texts.items():
            if row is None or row in counted[what] or len(counted[what]) == (limit or None):
                continue
            for kind, right, other in choices:
                counted[what].add(row)
                mean = {what: 0} if kind.startswith(what) else {}
                items.add(row, (right, other), location, **mean, **{kind: 0})
    sources.notes.append(LENGTHS)
    return sources.task(*items.question(items.metrics(*counted), right_first=True))


def _of_entities(entities: list[str], wrong: dict[str, list[dict[str, str]]]) -> Choices:
    """The first pair of entities the second of which has a wrong one."""
    for entity, other in itertools.permutations(entities, 2):
        first, second = entity.lower().strip(), other.lower().strip()
        foils = _first_of_kinds(wrong.get(other, []))
        if foils and _says_something(first) and _says_something(second):
            yield "whole_entities", f"{first} and {second}", first
            for kind, foil in foils.items():
                yield f"entities_{kind}", first, f"{first} and {foil}"
            return


def _of_relations(
    relations: list[dict[str, Any]], entities: list[str], wrong: dict[str, list[dict[str, str]]]
) -> Choices:
    """The first relation with at least two wrong ones, a wrong attribute not counted."""
    for relation in relations:
        subject, verb, target = _triple(relation)
        if not (subject and verb and target):
            continue
        texts = {"swap": f"{target} {verb} {subject}"}
        for negative in relation.get("negatives", []):
            kind, parts = negative.get("change_type", "").lower(), _triple(negative)
            if kind in ("antonym", "negation") and all(map(_says_something, parts)):
                texts.setdefault(kind, " ".join(parts))
        of_target, of_subject = (_first_of_kinds(_wrong_of(entity, entities, wrong)) for entity in (target, subject))
        if "object" in of_target:
            texts["object"] = f"{subject} {verb} {of_target['object']}"
        if "object" in of_subject:
            texts["subject"] = f"{of_subject['object']} {verb} {target}"
        if len(texts) < 2:
            continue
        if "attribute" in of_target:
            texts["attribute"] = f"{subject} {verb} {of_target['attribute']}"
        yield "whole_relations", f"{subject} {verb} {target}", subject
        for kind, foil in texts.items():
            yield f"relations_{kind}", subject, foil
        return


def _triple(relation: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(relation.get(name, "")).lower().strip() for name in ("subject", "relation_type", "object"))


def _wrong_of(name: str, entities: list[str], wrong: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """The wrong ones of an entity, or of the first that has its name inside."""
    inside = next((wrong.get(entity, []) for entity in entities if name in entity.lower()), [])
    return wrong.get(name) or inside


def _first_of_kinds(negatives: list[dict[str, str]]) -> dict[str, str]:
    """The first wrong entity that is another object, and the first with another attribute."""
    texts: dict[str, str] = {}
    for negative in negatives:
        kind, text = negative["change_type"].removesuffix("_change"), negative["negative"].lower()
        if kind in ("object", "attribute") and _says_something(text):
            texts.setdefault(kind, text)
    return texts


def _says_something(text: str) -> bool:
    return any(len(word) > 2 and word not in _EMPTY for word in text.split())
