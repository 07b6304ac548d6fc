"""Scenes of which every object is known: CLEVR, PUG:SPAR, PUG:SPARE; the negative has two attributes swapped."""

from __future__ import annotations

from labclip.data.scene_files import caption, locate_scenes, swapped_caption
from labclip.evaluation.items import Items, gallery
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task


def read_clevr(sources: Sources, *, objects: int = 0, split: str = "all", seed: int = 0) -> Task:
    """`binding`: the caption beats the one with two colours swapped; retrieval of one image per distinct scene.

    Args:
        sources: The files.
        objects: Only images with as many objects; 0 takes 2 of the numbered files, and all of any other.
        split: "all", or "train", "val", "test" by combination: a combination and its swaps are on one side.
        seed: Of the split.
    """
    return _read(sources, "clevr", objects, split, seed)


def read_spar(sources: Sources, *, split: str = "all", seed: int = 0) -> Task:
    """`binding`: the caption beats the one with the textures swapped; options as of `clevr`."""
    return _read(sources, "pug-spar", 0, split, seed)


def read_spare(sources: Sources, *, split: str = "all", seed: int = 0) -> Task:
    """`binding`: the caption beats the one with the textures swapped; options as of `clevr`."""
    return _read(sources, "pug-spare", 0, split, seed)


def _read(sources: Sources, kind: str, objects: int, split: str, seed: int) -> Task:
    _, found = locate_scenes(sources, (kind,), objects=objects, split=split, seed=seed)
    items, without, true = Items(sources), 0, []
    for row, entry in found:
        own, swapped = caption(entry.objects), swapped_caption(entry.objects)
        # Scenes of the same objects are one answer to a search, in whichever order a caption names them.
        true.append((row, sources.captions.row(own, entry.place), tuple(sorted(entry.objects))))
        if swapped is None:
            without += 1
        else:
            items.add(row, (own, swapped), entry.place)
    if without:
        sources.notes.append(
            f"{without:,} of {len(found):,} images have no swapped caption with another meaning, as where two "
            f"attributes or two objects are equal."
        )
    return sources.task(*items.question("binding"), *gallery(sources, true))


CLEVR = Benchmark(
    "clevr", "CLEVR", "binding", read_clevr,
    wants="output_2obj.csv (and images_2obj) of the LABCLIP authors, or a labels.csv with object1_color and so on, or "
    "scenes/CLEVR_val_scenes.json (and images/val)",
    source="github.com/kdariina/CLIP-not-BoW-unimodally, github.com/oshapio/binding-concepts-complexity, "
    "cs.stanford.edu/people/jcjohns/clevr",
    licence="CLEVR: CC BY 4.0; the others state none",
    paper="arXiv:2502.03566, arXiv:1612.06890",
    headline=("binding", "t2i_r1", "i2t_r1"),
)  # fmt: skip
SPAR = Benchmark(
    "pug-spar", "PUG:SPAR", "binding", read_spar,
    wants="labels.csv as data; its images as images, or beside it",
    source="github.com/facebookresearch/PUG",
    licence="CC BY-NC 4.0; not for training generative models",
    paper="arXiv:2308.03977",
    headline=("binding", "t2i_r1", "i2t_r1"),
)  # fmt: skip
SPARE = Benchmark(
    "pug-spare", "PUG:SPARE", "binding", read_spare,
    wants="PUG_SPARE.csv as data with a folder of images for each world, or the follow-up's labels.csv",
    source="github.com/kdariina/CLIP-not-BoW-unimodally, github.com/oshapio/binding-concepts-complexity",
    licence="CC BY-NC 4.0; not for training generative models",
    paper="arXiv:2502.03566",
    headline=("binding", "t2i_r1", "i2t_r1"),
)  # fmt: skip
