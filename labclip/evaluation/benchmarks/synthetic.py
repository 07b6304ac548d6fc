"""Scenes of which every object is known: CLEVR, PUG:SPAR, PUG:SPARE; the negative has two attributes swapped.

`protocol=paper` is what the code of the LABCLIP paper (arXiv:2502.03566) measures, `protocol=labclip` what can be
measured of any such scenes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

import numpy as np

from labclip.evaluation.benchmarks.forms import Form, one_of
from labclip.evaluation.benchmarks.parts import LEAST, exact_parts, exact_search
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
"""Of the paper's splits."""

_HELD_OUT = 0.1  # of the combinations, for each of "val" and "test"

CLEVR_COLOURS = frozenset(("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"))
CLEVR_SHAPES = frozenset(("cube", "cylinder", "sphere"))

Scene = tuple[Object, ...]


def read(
    form: Form, sources: Sources, *, protocol: str = "paper", split: str = "test", seed: int = SEED, objects: int = 0
) -> Task:
    """`binding`: the caption beats the one of the swapped scene; `i2t_r1` among the captions of all scenes.

    In the paper, as in Meta's code, textures of PUG:SPAR stand in one order, so that the animals change places: "Blue
    Bear and Red Cat" against "Blue Cat and Red Bear". With `protocol=labclip` the textures do. In PUG:SPARE every order
    of two animals is a caption of its own; in the paper's splits an image stands twice where both orders were drawn,
    and "val" has some that are in "test".

    Beside the paper's figures stand those of parts and of search, as in `parts` but with what is really in each image:
    by cosine, each image once, and of more than two objects with the next one that makes a wrong text.

    Args:
        form: The `kind` of data.
        sources: The files.
        protocol: "paper": scenes of two different objects, each told in one order whatever the file's, the swapped one
            too, and an image asked for its caption among those of all such scenes; the base's captions of CLEVR keep
            the length that it gives them. "labclip": any number of objects, in the file's order, retrieval both ways
            among one image per distinct scene, and cosines alone.
        split: "all", or "train", "val", "test" by combination, 80, 10 and 10 percent: a combination and its swaps are
            on one side. The paper's figures are of "test".
        seed: Seed of the split, and of the attributes that are wrong.
        objects: Only images with as many; 0 takes 2 of CLEVR's numbered files, and all of any other.
    """
    kind = form.kind
    paper = one_of("protocol", protocol, ("paper", "labclip")) == "paper"
    one_of("split", split, ("all", "train", "val", "test"))
    file = find_scene_file(sources, (kind,), objects=objects)
    known = _two_different(sources, file.entries) if paper else file.entries
    split_up = _SPLITS[kind] if paper else _split
    entries = known if split == "all" else split_up(known, split, seed)
    if not entries:
        raise ValueError(f'{sources.data} has too few combinations for split {split}. Pass options={{"split": "all"}}.')
    in_one_order = paper and kind != "pug-spare"

    def say(scene: Scene) -> str:
        return caption(sorted(scene) if in_one_order else scene)

    items, shown, without = Items(sources), Items(sources), 0
    located = locate_images(sources, file, entries)
    for row, entry in located:
        own, swapped = say(entry.objects), swap(entry.objects)
        # Scenes of the same objects are one answer to a search, in whichever order a caption names them.
        shown.add(row, (own,), entry.location, meaning=tuple(sorted(entry.objects)))
        if swapped is None:
            without += 1
        else:
            items.add(row, (own, say(swapped)), entry.location)
    if not shown:
        return sources.task()
    if without:
        sources.notes.append(
            f"{without:,} of {len(shown):,} images have no swapped caption with another meaning, as where two "
            f"attributes or two objects are equal."
        )
    clevr_code = paper and kind == "clevr"
    questions: list[Question] = [*items.question("binding", right_first=clevr_code, unnormalized=clevr_code)]
    if paper:
        every = {sources.caption(say(scene), kind): None for scene in _scenes(known, kind)}
        order = "one order" if in_one_order else "both orders"
        sources.notes.append(f"As the paper's code: captions in {order}, recall among {len(every):,}.")
        label_of = {text: label for label, text in enumerate(every)}
        label = np.array([label_of[text] for (text,) in shown.options])
        questions.append(CaptionRetrieval(np.array(shown.image), label, np.array(list(every)), clevr_code))
    else:
        sources.notes.append("Not as the paper's code: captions in the file's order, attributes swapped in place.")
        questions += shown.gallery()
    if clevr_code:
        sources.notes.append(
            "The paper's code draws the order of a caption again in each run, and has ties right: its figures may be "
            "higher or lower."
        )
    sources.notes.append(LENGTHS)
    scenes, phrase = dict(located), "{} {}".format
    pairs = dict.fromkeys(sorted({pair for scene in scenes.values() for pair in scene.objects}))
    parts = exact_parts(sources, scenes, phrase, _attributes(known, kind), seed, pairs)
    search = exact_search(sources, scenes, phrase, list(pairs), {"": pairs}, LEAST)
    return sources.task(*questions, *parts, *search)


def _two_different(sources: Sources, entries: Sequence[SceneEntry]) -> list[SceneEntry]:
    """The scenes of two different objects, as the paper's are."""
    two = [entry for entry in entries if len(entry.objects) == 2 and entry.objects[0][1] != entry.objects[1][1]]
    other = f"{len(entries) - len(two):,} of {len(entries):,} images do not show two different objects"
    if not two:
        raise ValueError(f'{other}, but the paper measures such. Pass options={{"protocol": "labclip"}} to take any.')
    if len(two) < len(entries):
        sources.notes.append(f"{other}: left out, as the paper's measures are of such.")
    return two


def _split(entries: Sequence[SceneEntry], split: str, seed: int) -> list[SceneEntry]:
    sides = split_of([combination(entry.objects) for entry in entries], seed)
    return [entry for entry, side in zip(entries, sides, strict=True) if side == split]


def split_of(combinations: Sequence[Hashable], seed: int) -> list[str]:
    """The side of each row: rows of one combination are on one side."""
    known = sorted(set(combinations), key=repr)
    random.Random(seed).shuffle(known)
    share = round(_HELD_OUT * len(known))
    sides = dict.fromkeys(known[: len(known) - 2 * share], "train")
    sides |= dict.fromkeys(known[len(known) - 2 * share : len(known) - share], "val")
    sides |= dict.fromkeys(known[len(known) - share :], "test")
    return [sides[words] for words in combinations]


def _scenes(entries: Sequence[SceneEntry], kind: str) -> Iterator[Scene]:
    """Every scene that there may be: two different objects, with two attributes that some image of PUG has together.

    In CLEVR any two colours go together, and a file that lacks some of its words still has all 192 captions.
    """
    attributes = sorted({tuple(attribute for attribute, _ in entry.objects) for entry in entries})
    names = sorted({name for entry in entries for _, name in entry.objects})
    if kind == "clevr":
        attributes = list(itertools.product(_attributes(entries, kind), repeat=2))
        names = sorted(CLEVR_SHAPES if CLEVR_SHAPES.issuperset(names) else names)
    for several, two in itertools.product(attributes, itertools.permutations(names, 2)):
        for order in (several, several[::-1]):
            yield tuple(zip(order, two, strict=True))


def _attributes(entries: Sequence[SceneEntry], kind: str) -> list[str]:
    """Those of a file; of CLEVR all, where it has no other."""
    attributes = {attribute for entry in entries for attribute, _ in entry.objects}
    return sorted(CLEVR_COLOURS if kind == "clevr" and attributes <= CLEVR_COLOURS else attributes)


def _clevr_split(entries: Sequence[SceneEntry], split: str, seed: int) -> list[SceneEntry]:
    """The paper's split of CLEVR: scenes are drawn one by one, each takes its swap with it, test before val."""
    scenes = [_by_name(entry.objects) for entry in entries]
    known = list(dict.fromkeys(map(_by_name, sorted({entry.objects for entry in entries}))))
    rng = random.Random(seed)
    sides: dict[Scene, str] = {}
    for side in ("test", "val"):
        drawn = 0
        while drawn < int(_HELD_OUT * len(known)):
            (scene,) = rng.sample(known, 1)
            if scene not in sides:
                (first, name), (other, second) = scene
                new = {scene, _by_name(((other, name), (first, second)))} - sides.keys()
                sides |= dict.fromkeys(new, side)
                drawn += len(new)
    return [entry for entry, scene in zip(entries, scenes, strict=True) if sides.get(scene, "train") == split]


def _by_name(scene: Scene) -> Scene:
    return tuple(sorted(scene, key=lambda pair: pair[::-1]))


def _pug_split(entries: Sequence[SceneEntry], split: str, seed: int, *, ordered: bool) -> list[SceneEntry]:
    """The paper's split of PUG: of scenes that differ by one swap the first may be drawn, and all then go with it."""
    names = list(dict.fromkeys(entry.objects[0][1] for entry in entries))
    known: dict[Scene, None] = {}
    for (first, name), (other, second) in _labels(entries, names, ordered):
        if not {((first, second), (other, name)), ((other, name), (first, second))} & known.keys():
            known[(first, name), (other, second)] = None
    rng, count = random.Random(seed), int(_HELD_OUT * len(known))
    test = rng.sample(list(known), count)
    drawn = {"test": test, "val": rng.sample([scene for scene in known if scene not in set(test)], count)}
    rows: dict[Hashable, list[SceneEntry]] = {}
    for entry in entries:
        rows.setdefault(combination(entry.objects), []).append(entry)
    if split == "train":
        held = {combination(scene) for side in drawn.values() for scene in side}
        return [entry for entry in entries if combination(entry.objects) not in held]
    return [entry for scene in drawn[split] for entry in rows.get(combination(scene), ())]


def _labels(entries: Sequence[SceneEntry], names: Sequence[str], ordered: bool) -> Iterator[Scene]:
    """The scenes that may be drawn, in the order of the paper's code: SPARE's by attribute, SPAR's by name."""
    if ordered:
        attributes = dict.fromkeys(entry.objects[0][0] for entry in entries)
        for first, name, other, second in itertools.product(attributes, names, attributes, names):
            if first != other and name != second:
                yield (first, name), (other, second)
    else:
        pairs = sorted({tuple(sorted(attribute for attribute, _ in entry.objects)) for entry in entries})
        for (name, second), (first, other) in itertools.product(itertools.permutations(names, 2), pairs):
            yield (first, name), (other, second)


_SPLITS: dict[str, Callable[[Sequence[SceneEntry], str, int], list[SceneEntry]]] = {
    "clevr": _clevr_split,
    "pug-spar": partial(_pug_split, ordered=False),
    "pug-spare": partial(_pug_split, ordered=True),
}
