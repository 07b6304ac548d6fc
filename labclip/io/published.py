"""The matrices the paper's authors published, with the SHA-256 that verifies each, and the figures others published.

None of those figures was measured by labclip. Imports no torch: `labclip list` and `labclip info` answer at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.base import Base
from labclip.packages import EMBEDDED

AUTHORS_REPOSITORY = "kdariina/CLIP-not-BoW-unimodally"
AUTHORS_COMMIT = "d3ecb1855c5cbe958673879e2ddc01408e7df19d"
AUTHORS_ENDPOINT = "https://raw.githubusercontent.com"
AUTHORS_ENDPOINT_VARIABLE = "LABCLIP_AUTHORS_ENDPOINT"
"""Environment variable that names a mirror of `AUTHORS_ENDPOINT`."""

REPORTED_SOURCE = (
    "Published figures for the paper (arXiv:2502.03566), as given in third-party notes of it; fractions of 1; not "
    "measured by labclip."
)


@dataclass(frozen=True)
class PublishedFigure:
    """One published figure: `values` are fractions of 1 of "base", "labclip", and other methods by name.

    `benchmark` is as `labclip evaluate` takes it, or "probes" for those of `labclip diagnose`; in `command` FOLDER is a
    matrix that one fits first; `matrix` is name and alignment of the published one; `measured_as` is labclip's name of
    `metric`.
    """

    benchmark: str
    metric: str
    clip: str
    values: Mapping[str, float]
    words: str
    command: str
    matrix: list[str] | None = None
    measured_as: str = ""


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

REPORTED = tuple(PublishedFigure(**row) for row in _TABLE["reported"])
"""CLEVR and PUG are of matrices fitted on those very data, of which none was published."""

_NEGATION = next(figure.values for figure in REPORTED if figure.benchmark == "negation")
KNOWN_COSTS = (
    "Zero-shot classification (CIFAR, ImageNet) drops.",
    f"Negation is not helped: {_NEGATION['base']:.3f} -> {_NEGATION['labclip']:.3f} on NegBench COCO-MCQ.",
    "Attribute-object pairs unseen in the fit stay hard.",
    "Retrieval from large galleries loses more, the farther the matrix is from the identity.",
    "The modality gap grows in some cases.",
)
"""Costs reported for the method in general, not for one matrix; `labclip evaluate` measures them for yours."""


@dataclass(frozen=True)
class Published:
    """One published matrix.

    `name` is what `from_pretrained` calls its base, `alignment` which of that base's matrices it is. The openai weights
    need QuickGELU, so `model` is the `-quickgelu` architecture. `logit_scale` is the log-temperature; `matrix_sha256`
    is that of `labclip.io.folder.matrix_sha256`; `hub_repo` is tried before the authors' repository.
    """

    name: str
    alignment: str
    model: str
    embed_dim: int
    logit_scale: float
    file: str
    size: int
    file_sha256: str
    matrix_sha256: str
    hub_repo: str
    data: str
    recipe: str
    pretrained: str = "openai"

    @property
    def base(self) -> Base:
        """The OpenCLIP model it was fitted on."""
        return Base(self.model, self.pretrained, quick_gelu=True, embed_dim=self.embed_dim)

    @property
    def url(self) -> str:
        """Where the checkpoint lies in the authors' repository, pinned to the commit, or on a mirror of it."""
        endpoint = os.environ.get(AUTHORS_ENDPOINT_VARIABLE) or AUTHORS_ENDPOINT
        return f"{endpoint.rstrip('/')}/{AUTHORS_REPOSITORY}/{AUTHORS_COMMIT}/alignment/weights/{self.file}"

    @property
    def reported(self) -> dict[str, dict[str, dict[str, float]]]:
        """Published figures of this very matrix: {benchmark: {"base": {metric: value}, "labclip": {metric: value}}}."""
        figures: dict[str, dict[str, dict[str, float]]] = {}
        for figure in REPORTED:
            if figure.matrix == [self.name, self.alignment]:
                for side, values in figures.setdefault(figure.benchmark, {"base": {}, "labclip": {}}).items():
                    values[figure.metric] = figure.values[side]
        return figures

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of its `Alignment`; without "results", as labclip did not measure the figures."""
        source = (
            f"{self.file} of {AUTHORS_REPOSITORY} at {AUTHORS_COMMIT[:7]}, which has no licence: "
            f"downloaded for your own use, not to be published again"
        )
        figures = {"reported": self.reported, "reported_source": REPORTED_SOURCE} if self.reported else {}
        return {"recipe": self.recipe, "data": self.data, "source": source, "costs": list(KNOWN_COSTS), **figures}

    def __str__(self) -> str:
        return f"{self.name} ({self.alignment})"


PUBLISHED = tuple(Published(**row) for row in _TABLE["matrices"])


def list_pretrained() -> list[str]:
    """Names that `LABCLIP.from_pretrained` and `Alignment.from_pretrained` know; folders and repositories work too.

    Example:
        >>> list_pretrained()
        ['scenes', 'ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-B-32-cc3m']
    """
    firsts = {entry.name: entry for entry in reversed(PUBLISHED)}
    return [EMBEDDED, *(e.name if e is firsts[e.name] else f"{e.name}-{e.alignment}" for e in PUBLISHED)]


def find_entry(name: str) -> Published | None:
    """The published matrix of a name: "ViT-B-32", "ViT-B-32-quickgelu" (its base's own name), "ViT-B-32-cc3m"."""
    names = ((entry, (entry.name, entry.model, f"{entry.name}-{entry.alignment}")) for entry in PUBLISHED)
    return next((entry for entry, known in names if name in known), None)


def is_known(name: object) -> bool:
    """Whether a name, as the user typed it, is in the table, and wins over a folder that is called so; no Path is."""
    return isinstance(name, str) and (name == EMBEDDED or find_entry(name) is not None)
