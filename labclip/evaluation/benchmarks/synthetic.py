"""Scenes in which every object is known: CLEVR, PUG:SPAR, PUG:SPARE. The negative has two attributes swapped.

`protocol=paper` measures what the code of the LABCLIP paper (arXiv:2502.03566) does, `protocol=labclip` any scenes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

import numpy as np

from labclip.checks import check_choice
from labclip.evaluation.benchmarks.forms import Form
from labclip.evaluation.benchmarks.parts import MIN_IMAGES, exact_parts, exact_search
from labclip.evaluation.questions import CaptionRetrieval, Question
from labclip.evaluation.scene_files import (
    Object,
    SceneEntry,
    caption,
    combination,
    find_scene_file,
    locate_images,
    swap,
)
from labclip.evaluation.sources import LENGTHS, Items, Sources
from labclip.evaluation.tasks import Task

SEED = 42
"""Seed of the paper's splits."""

_HELD_OUT = 0.1  # fraction of the combinations in each of "val" and "test"

CLEVR_COLOURS = frozenset(("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"))
CLEVR_SHAPES = frozenset(("cube", "cylinder", "sphere"))

Scene = tuple[Object, ...]
"""Attribute and name of each object."""


def read(
    form: Form, sources: Sources, *, protocol: str = "paper", split: str = "test", seed: int = SEED, objects: int = 0
) -> Task:
    """`binding`: the caption beats the one of the swapped scene; `i2t_r1` among the captions of all scenes.

    In the paper, as in Meta's code, the textures of PUG:SPAR are named in a fixed order, so the animals change places:
    "Blue Bear and Red Cat" against "Blue Cat and Red Bear". With `protocol=labclip` the textures change places. In
    PUG:SPARE each order of two animals is a caption of its own. In its paper splits an image counts twice if both
    orders were drawn, and "val" has some images of "test".

    The metrics of parts and of search are those of `parts`, but with what is really in each image. They are always by
    cosine and use each image once. With more than two objects the next one that makes a wrong text is taken.

    Args:
        form: The `kind` of data.
        sources: The files.
        protocol: "paper": scenes of two different objects. A scene and its swap are each named in one order, whatever
            the file's. The caption of an image is searched for among the captions of all such scenes. The base's
            captions of CLEVR are not normalised. "labclip": any number of objects, in the file's order; retrieval in
            both directions with one image per distinct scene; cosines alone.
        split: "all", or "train", "val" or "test" with 80, 10 and 10 percent of the combinations; a combination and its
            swaps are in one split. The paper's figures are of "test".
        seed: Seed of the split and of the wrong attributes.
        objects: Number of objects that images must have; 0 takes 2 of CLEVR's numbered files, and all of any other.
    """
    kind = form.kind
    check_choice("The option protocol", protocol, ("paper", "labclip"))
    check_choice("The option split", split, ("all", "train", "val", "test"))
    paper = protocol == "paper"
    clevr_code = paper and kind == "clevr"
    file = find_scene_file(sources, (kind,), objects=objects)
    all_entries = _two_different(sources, file.entries) if paper else file.entries
    entries = all_entries
    if split != "all" and paper:
        entries = _PAPER_SPLITS[kind](all_entries, split, seed)
    elif split != "all":
        splits = split_of([combination(entry.objects) for entry in all_entries], seed)
        entries = [entry for entry, name in zip(all_entries, splits, strict=True) if name == split]
    if not entries:
        raise ValueError(f'{sources.data} has too few combinations for split {split}. Pass options={{"split": "all"}}.')
    in_one_order = paper and kind != "pug-spare"

    def say(scene: Scene) -> str:
        return caption(sorted(scene) if in_one_order else scene)

    items, with_swap = Items(sources), Items(sources)
    located = locate_images(sources, file, entries)
    for row, entry in located:
        swapped = swap(entry.objects)
        # Scenes of the same objects are one answer to a search, in whichever order a caption names them.
        items.add(row, (say(entry.objects),), entry.location, meaning=tuple(sorted(entry.objects)))
        if swapped is not None:
            with_swap.add(row, (say(entry.objects), say(swapped)), entry.location)
    if not items:
        return sources.task()
    if without := len(items) - len(with_swap):
        sources.notes.append(
            f"{without:,} of {len(items):,} images have no swapped caption with another meaning, for example because "
            f"two attributes or two objects are equal."
        )
    questions: list[Question] = [*with_swap.question("binding", right_first=clevr_code, unnormalized=clevr_code)]
    if paper:
        captions = {sources.caption(say(scene), kind): None for scene in _possible_scenes(all_entries, kind)}
        order = "one order" if in_one_order else "both orders"
        sources.notes.append(f"As the paper's code: captions in {order}, recall among {len(captions):,}.")
        label_of = {text: label for label, text in enumerate(captions)}
        labels = np.array([label_of[text] for (text,) in items.options])
        questions.append(CaptionRetrieval(np.array(items.image), labels, np.array(list(captions)), clevr_code))
    else:
        sources.notes.append("Not as the paper's code: captions in the file's order, attributes swapped in place.")
        questions += items.gallery()
    if clevr_code:
        sources.notes.append(
            "The paper's code draws the order of a caption again in each run, and has ties right: its figures may be "
            "higher or lower."
        )
    sources.notes.append(LENGTHS)
    scenes, phrase = dict(located), "{} {}".format
    pairs = dict.fromkeys(sorted({pair for scene in scenes.values() for pair in scene.objects}))
    parts = exact_parts(sources, scenes, phrase, _attributes(all_entries, kind), seed, pairs)
    search = exact_search(sources, scenes, phrase, list(pairs), {"": pairs}, MIN_IMAGES)
    return sources.task(*questions, *parts, *search)


def _two_different(sources: Sources, entries: Sequence[SceneEntry]) -> list[SceneEntry]:
    """The scenes of two different objects, as the paper's are."""
    kept = [entry for entry in entries if len(entry.objects) == 2 and entry.objects[0][1] != entry.objects[1][1]]
    others = f"{len(entries) - len(kept):,} of {len(entries):,} images do not show two different objects"
    if not kept:
        raise ValueError(f'{others}, unlike the paper\'s. Pass options={{"protocol": "labclip"}} to take any.')
    if len(kept) < len(entries):
        sources.notes.append(f"{others}, unlike the paper's: left out.")
    return kept


def split_of(combinations: Sequence[Hashable], seed: int) -> list[str]:
    """The split of each scene, by its combination: equal combinations are in one split."""
    distinct = sorted(set(combinations), key=repr)
    random.Random(seed).shuffle(distinct)
    size = round(_HELD_OUT * len(distinct))
    splits = dict.fromkeys(distinct[: len(distinct) - 2 * size], "train")
    splits |= dict.fromkeys(distinct[len(distinct) - 2 * size : len(distinct) - size], "val")
    splits |= dict.fromkeys(distinct[len(distinct) - size :], "test")
    return [splits[words] for words in combinations]


def _possible_scenes(entries: Sequence[SceneEntry], kind: str) -> Iterator[Scene]:
    """Every possible scene: two different objects, with two attributes that some image of PUG has together.

    In CLEVR any two colours go together, and a file without some of its words still has all 192 captions.
    """
    attributes = sorted({tuple(attribute for attribute, _ in entry.objects) for entry in entries})
    names = sorted({name for entry in entries for _, name in entry.objects})
    if kind == "clevr":
        attributes = list(itertools.product(_attributes(entries, kind), repeat=2))
        names = sorted(CLEVR_SHAPES if CLEVR_SHAPES.issuperset(names) else names)
    for pair, two_names in itertools.product(attributes, itertools.permutations(names, 2)):
        for ordered in (pair, pair[::-1]):
            yield tuple(zip(ordered, two_names, strict=True))


def _attributes(entries: Sequence[SceneEntry], kind: str) -> list[str]:
    """The attributes of a file; all of CLEVR's if it has no others."""
    attributes = {attribute for entry in entries for attribute, _ in entry.objects}
    return sorted(CLEVR_COLOURS if kind == "clevr" and attributes <= CLEVR_COLOURS else attributes)


def _clevr_split(entries: Sequence[SceneEntry], split: str, seed: int) -> list[SceneEntry]:
    """The paper's split of CLEVR: scenes are drawn one by one, "test" before "val", and each takes its swap with it."""
    scenes = [_sorted_by_name(entry.objects) for entry in entries]
    distinct = list(dict.fromkeys(map(_sorted_by_name, sorted({entry.objects for entry in entries}))))
    rng = random.Random(seed)
    splits: dict[Scene, str] = {}
    for name in ("test", "val"):
        drawn = 0
        while drawn < int(_HELD_OUT * len(distinct)):
            (scene,) = rng.sample(distinct, 1)
            if scene not in splits:
                (first, first_name), (second, second_name) = scene
                new = {scene, _sorted_by_name(((second, first_name), (first, second_name)))} - splits.keys()
                splits |= dict.fromkeys(new, name)
                drawn += len(new)
    return [entry for entry, scene in zip(entries, scenes, strict=True) if splits.get(scene, "train") == split]


def _sorted_by_name(scene: Scene) -> Scene:
    return tuple(sorted(scene, key=lambda pair: pair[::-1]))


def _pug_split(entries: Sequence[SceneEntry], split: str, seed: int, *, ordered: bool) -> list[SceneEntry]:
    """The paper's split of PUG: of scenes that differ by one swap only the first may be drawn; it takes all with it."""
    names = list(dict.fromkeys(entry.objects[0][1] for entry in entries))
    candidates: dict[Scene, None] = {}
    for (first, first_name), (second, second_name) in _labels(entries, names, ordered):
        swapped = (first, second_name), (second, first_name)
        if not {swapped, swapped[::-1]} & candidates.keys():
            candidates[(first, first_name), (second, second_name)] = None
    rng, count = random.Random(seed), int(_HELD_OUT * len(candidates))
    test = rng.sample(list(candidates), count)
    drawn = {"test": test, "val": rng.sample([scene for scene in candidates if scene not in set(test)], count)}
    if split == "train":
        held_out = {combination(scene) for scenes in drawn.values() for scene in scenes}
        return [entry for entry in entries if combination(entry.objects) not in held_out]
    entries_of: dict[Hashable, list[SceneEntry]] = {}
    for entry in entries:
        entries_of.setdefault(combination(entry.objects), []).append(entry)
    return [entry for scene in drawn[split] for entry in entries_of.get(combination(scene), ())]


def _labels(entries: Sequence[SceneEntry], names: Sequence[str], ordered: bool) -> Iterator[Scene]:
    """The scenes that may be drawn, in the order of the paper's code: SPARE's by attribute, SPAR's by name."""
    if ordered:
        attributes = dict.fromkeys(entry.objects[0][0] for entry in entries)
        for first, first_name, second, second_name in itertools.product(attributes, names, attributes, names):
            if first != second and first_name != second_name:
                yield (first, first_name), (second, second_name)
    else:
        pairs = sorted({tuple(sorted(attribute for attribute, _ in entry.objects)) for entry in entries})
        for (first_name, second_name), (first, second) in itertools.product(itertools.permutations(names, 2), pairs):
            yield (first, first_name), (second, second_name)


_PAPER_SPLITS: dict[str, Callable[[Sequence[SceneEntry], str, int], list[SceneEntry]]] = {
    "clevr": _clevr_split,
    "pug-spar": partial(_pug_split, ordered=False),
    "pug-spare": partial(_pug_split, ordered=True),
}
