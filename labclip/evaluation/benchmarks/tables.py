"""Tables of images with captions and negatives: a user's own, and COCO's captions with hard negatives."""

from __future__ import annotations

from pathlib import Path

from labclip.data import BadRow, Columns, ImageSource, read_items
from labclip.data.cleaning import comparable
from labclip.data.items import WORDS
from labclip.data.located import Layout, alone, as_named, inside
from labclip.evaluation.benchmarks.karpathy import coco
from labclip.evaluation.items import Items
from labclip.evaluation.scores import everything
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Choice, Question, Task
from labclip.messages import typed
from labclip.negatives import clean as cleaned
from labclip.negatives import shuffle


def read_own(
    sources: Sources,
    *,
    column: str = "",
    image_column: str = "",
    negative_column: str = "",
) -> Task:
    """`binding`: a caption beats all its negatives; `pairwise`: each of them, where some have several; and retrieval.

    Args:
        sources: The files.
        column: The captions'; "" takes `caption` or `title`.
        image_column: The images'; "" takes `image`, `filename`, `filepath` or `image_path`.
        negative_column: The negatives', several with commas; "" takes `negative`, `negative_2` ..., `negatives`,
            `neg_caption` and `negative_caption`, where they are.
    """
    negatives = tuple(name.strip() for name in negative_column.split(",")) if negative_column else None
    if sources.data is None or not sources.data.is_file():
        what = typed("data=FILE", "--data FILE")
        raise FileNotFoundError(f"{sources.data or 'The data'} is not a file. Pass {what}. {sources.hint}")
    table = _Table(sources, Layout(sources, as_named))
    table.read(sources.data, _Options(column or None, image_column or None, negatives))
    return table.task()


def read_coco(sources: Sources, *, split: str = "test", seed: int = 0, clean: bool = True) -> Task:
    """`binding`: a caption beats all its hard negatives; `pairwise`: each of them, where some have several.

    Negatives come from a table such as NegCLIP's, or are made of Karpathy's captions: nouns swapped with nouns and
    adjectives with adjectives, one negative a caption.

    Args:
        sources: The files.
        split: "test", "val" or "restval" of Karpathy's captions.
        seed: Of the shuffle.
        clean: Whether captions and negatives of a table are both cleaned, to 40 words: in NegCLIP's, a space before the
            full stop tells a negative. Those that are made are always cleaned.
    """
    layout = Layout(sources, as_named, lambda name: name.removeprefix("coco/"), alone, inside("coco"))
    table = _Table(sources, layout, strict=False)
    if sources.data is not None and sources.data.is_file() and sources.data.suffix.lower() != ".json":
        table.read(sources.data, _Options(), clean=clean)
        return table.task()
    found = [(one, text) for one in coco(sources, split) for text in one.captions]
    for one, text in found:
        sources.captions.check(text, one.place)
    made = shuffle([text for _, text in found], seed=seed, image_index=[one.row for one, _ in found])
    for (one, text), negative in zip(found, made, strict=True):
        table.add(one.row, cleaned(text, WORDS), [negative] if negative else [], one.place)
    sources.notes.append(f"Negatives were made with seed {seed}: nouns and adjectives shuffled, 40 words.")
    return table.task()


class _Options(Columns):
    """Columns that a user names by a benchmark's options."""

    def option(self, name: str) -> str:
        return typed(f'options={{"{name}": NAME}}', f"--option {name}=NAME")


class _Table:
    """Rows of a table, as items."""

    def __init__(self, sources: Sources, layout: Layout, *, strict: bool = True) -> None:
        self._sources, self._layout, self._strict = sources, layout, strict
        self._items, self._pairs = Items(sources), Items(sources)
        self._without = self._equal = 0

    def read(self, path: Path, columns: Columns, *, clean: bool = False) -> None:
        """Take every row; a flaw is an error with its place."""
        if path.suffix.lower() == ".tar":
            raise ValueError(f"{path} is a tar. Pass a table: csv, tsv, jsonl, json or Parquet.")
        none = True
        for item in read_items(path, columns=columns, clean=False):
            none = False
            if isinstance(item, BadRow):
                raise ValueError(f"{item.place} {item.reason}.")
            assert item.image is not None
            image = self._image(item.image, item.place)
            for caption, negatives in zip(item.captions, item.negatives, strict=True):
                texts = [cleaned(text, WORDS) if clean else text for text in (caption, *negatives)]
                self.add(image, texts[0], texts[1:], item.place)
        if none:
            raise ValueError(f"{path} has no row.")

    def _image(self, image: ImageSource, place: str) -> int | None:
        if image.data is not None:
            return self._sources.image_in_memory(image.data, place)
        return self._layout.image(image.name, place)

    def add(self, image: int | None, caption: str, negatives: list[str], place: str) -> None:
        """Take one caption. One without a negative counts in retrieval only."""
        if not self._strict:
            kept = [one for one in negatives if comparable(one) != comparable(caption)]
            self._equal += len(negatives) - len(kept)
            negatives = kept
        self._without += image is not None and not negatives
        self._items.add(image, (caption, *negatives), place)
        for one in negatives:
            self._pairs.add(image, (caption, one), place)

    def task(self) -> Task:
        """The questions: binding where there are negatives, retrieval where there are several images."""
        notes = self._sources.notes
        if self._equal:
            notes.append(f"{self._equal:,} negatives that say the same as their caption are left out.")
        if self._without:
            notes.append(f"{self._without:,} of {len(self._items):,} captions have no negative.")
        questions: list[Question] = [*self._binding(), *self._items.gallery()]
        return self._sources.task(*questions)

    def _binding(self) -> list[Choice]:
        bound = self._items.where([len(options) > 1 for options in self._items.options])
        found = bound.question({"binding": everything(len(bound))})
        if len(self._pairs) > len(bound):
            found += self._pairs.question({"pairwise": everything(len(self._pairs))})
        return found


OWN = Benchmark(
    name="csv",
    title="Own table",
    measures="binding",
    wants="a csv, tsv, jsonl, json or Parquet file of image, caption and negative in --data; images in --images or "
    "beside it",
    source="your own",
    licence="yours",
    paper="docs/benchmarks.md",
    read=read_own,
    headline=("binding", "t2i_r1", "i2t_r1"),
)
COCO = Benchmark(
    name="coco-negatives",
    title="COCO hard negatives",
    measures="binding",
    wants="NegCLIP's valid_neg_clip.tsv in --data, or a folder with coco_karpathy_test.json or dataset_coco.json; the "
    "folder with val2014 in --images",
    source="github.com/mertyg/vision-language-models-are-bows (temp_data), cocodataset.org",
    licence="MIT, captions CC BY 4.0; images: Flickr terms of use",
    paper="arXiv:2210.01936, arXiv:2502.03566",
    read=read_coco,
    headline=("binding", "t2i_r1", "i2t_r1"),
)
