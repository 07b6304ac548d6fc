"""MMVP-VLM: pairs of images that CLIP takes for alike, in nine visual patterns (arXiv:2401.06209)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from labclip.data.entries import fields, table_rows
from labclip.data.located import ImageLayout
from labclip.evaluation.benchmarks.pairs import PairRow, pairs_of
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task

PROMPT = "a photo of "
"""The authors put it before every statement."""


def read(sources: Sources) -> Task:
    """`image` (the authors' accuracy: both statements prefer their image), `text` and `group`, also of each pattern."""
    return sources.task(*pairs_of(sources, _rows(sources)))


def _rows(sources: Sources) -> Iterator[PairRow]:
    layout = ImageLayout(sources, "MLLM_VLM Images/{path}", "MMVP_VLM_Images/{path}", "{path}")
    (path,) = sources.files("Questions.csv")
    waiting: dict[int, tuple[str, int | None, str, str]] = {}
    for place, cells in table_rows(path):
        number, pattern, statement = fields(cells, ("Question ID", "Type", "Statement"), place)
        if not str(number).isdecimal() or int(number) in waiting:
            raise ValueError(f"{place}: Question ID is {number!r}, not a number that no other row has.")
        sources.captions.check(statement, place)
        kind = re.sub(r"\W+", "_", str(pattern).lower()).strip("_")
        waiting[int(number)] = place, layout.image(f"{pattern}/{int(number)}.jpg", place), PROMPT + statement, kind
    for number, (place, image, caption, kind) in waiting.items():
        # An odd number and the next one are a pair.
        other = number + 1 if number % 2 else number - 1
        if other not in waiting:
            raise ValueError(f"{place}: question {number} has no partner, question {other}.")
        if number % 2:
            _, second, said, _ = waiting[other]
            yield place, (image, second), (caption, said), [kind] if kind else []


BENCHMARK = Benchmark(
    "mmvp-vlm", "MMVP-VLM", "binding", read,
    wants="Questions.csv as data, beside its folder of images, which may be given as images",
    source="huggingface.co/datasets/MMVP/MMVP_VLM, github.com/tsb0601/MMVP",
    licence="MIT",
    paper="arXiv:2401.06209",
    headline=("image",),
)  # fmt: skip
