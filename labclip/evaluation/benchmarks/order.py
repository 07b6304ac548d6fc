"""COCO-Order and Flickr30k-Order of ARO: does a model mind the order of a caption's words (arXiv:2210.01936)."""

from __future__ import annotations

from labclip.evaluation.benchmarks.karpathy import Captioned, coco, flickr30k
from labclip.evaluation.items import Items
from labclip.evaluation.orders import SHUFFLES, options
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task
from labclip.negatives.taggers import get_tagger


def read_coco(sources: Sources, *, split: str = "test", seed: int = 0, tagger: str = "hanta") -> Task:
    """`accuracy`: the caption beats its four shuffles.

    Args:
        sources: The files.
        split: "test", "val" or "restval".
        seed: Of the shuffles; the originals have none.
        tagger: "hanta" or "spacy".
    """
    return _order(sources, coco(sources, split), seed, tagger)


def read_flickr30k(sources: Sources, *, split: str = "test", seed: int = 0, tagger: str = "hanta") -> Task:
    """`accuracy`: the caption beats its four shuffles; options as of `coco-order`, splits "test" and "val"."""
    return _order(sources, flickr30k(sources, split), seed, tagger)


def _order(sources: Sources, found: list[Captioned], seed: int, tagger: str) -> Task:
    items, tag = Items(sources), get_tagger(tagger)
    lacking = dict.fromkeys(SHUFFLES, 0)
    without = 0
    for one in found:
        for raw in one.captions:
            sources.captions.check(raw, one.place)
            own, shuffled = options(raw, tag, seed)
            for name, text in zip(SHUFFLES, shuffled, strict=True):
                lacking[name] += text is None
            others = [text for text in dict.fromkeys(shuffled) if text is not None]
            without += not others
            if others:
                items.add(one.row, (own, *others), one.place)
    said = [f"{count:,} of {name}" for name, count in lacking.items() if count]
    if said:
        sources.notes.append(f"Shuffles that could only say the same and are no option: {', '.join(said)}.")
    if without:
        sources.notes.append(f"{without:,} captions with no other order are left out.")
    sources.notes.append(f"Shuffled with seed {seed}, parts of speech by {tagger}.")
    return sources.task(*items.question({"accuracy": everything(len(items))}), *items.gallery())


COCO = Benchmark(
    name="coco-order",
    title="COCO-Order",
    measures="binding",
    wants="coco_karpathy_test.json or dataset_coco.json in --data; the folder with val2014 in --images",
    source="github.com/mertyg/vision-language-models-are-bows, cocodataset.org",
    licence="CC BY 4.0; pictures: Flickr terms of use",
    paper="arXiv:2210.01936",
    read=read_coco,
    headline=("accuracy",),
)
FLICKR30K = Benchmark(
    name="flickr30k-order",
    title="Flickr30k-Order",
    measures="binding",
    wants="flickr30k_test.json or dataset_flickr30k.json in --data; flickr30k-images in --images",
    source="github.com/mertyg/vision-language-models-are-bows, shannon.cs.illinois.edu/DenotationGraph",
    licence="non-commercial research and education; pictures: Flickr terms of use",
    paper="arXiv:2210.01936",
    read=read_flickr30k,
    headline=("accuracy",),
)
