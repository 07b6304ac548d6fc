"""The matrices that the paper's authors published, with their SHA-256, and published figures of them.

labclip measured none of these figures. Imports no torch, so `labclip list` and `labclip info` answer at once.
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
"""Environment variable with the URL of a mirror of `AUTHORS_ENDPOINT`."""

REPORTED_SOURCE = (
    "Published figures for the paper (arXiv:2502.03566), as given in third-party notes of it; fractions of 1; not "
    "measured by labclip."
)


@dataclass(frozen=True)
class PublishedFigure:
    """One published figure."""

    benchmark: str  # the name that `labclip evaluate` takes, or "probes" for the probes of `labclip diagnose`
    metric: str  # its published name
    clip: str  # the base
    values: Mapping[str, float]  # fractions of 1, keyed by "base", "labclip" or another method's name
    words: str  # the metric in words
    command: str  # measures it; FOLDER stands for a matrix that you fit first
    matrix: list[str] | None = None  # name and alignment of the published matrix, if it was measured with one
    measured_as: str = ""  # labclip's name for the metric


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

REPORTED = tuple(PublishedFigure(**row) for row in _TABLE["reported"])
"""All published figures. Those of CLEVR and PUG are of matrices fitted on these datasets, which are not published."""

_NEGATION = next(figure.values for figure in REPORTED if figure.benchmark == "negation")
KNOWN_COSTS = (
    "Zero-shot classification (CIFAR, ImageNet) drops.",
    f"Negation is not helped: {_NEGATION['base']:.3f} -> {_NEGATION['labclip']:.3f} on NegBench COCO-MCQ.",
    "Attribute-object pairs unseen in the fit stay hard.",
    "Retrieval from large galleries loses more, the farther the matrix is from the identity.",
    "The modality gap grows in some cases.",
)
"""Costs reported for the method in general, not for a particular matrix; `labclip evaluate` measures those of yours."""


@dataclass(frozen=True)
class Published:
    """One published matrix."""

    name: str  # the base's name for `from_pretrained`
    alignment: str  # distinguishes the matrices of one base
    model: str  # OpenCLIP architecture: the -quickgelu one, which the openai weights need
    embed_dim: int
    logit_scale: float  # the fitted log-temperature
    file: str  # the checkpoint in the authors' repository
    size: int  # its bytes
    file_sha256: str
    matrix_sha256: str  # from `labclip.io.folder.matrix_sha256`
    hub_repo: str  # tried before the authors' repository
    data: str
    recipe: str
    pretrained: str = "openai"

    @property
    def base(self) -> Base:
        """The OpenCLIP model it was fitted on."""
        return Base(self.model, self.pretrained, quick_gelu=True, embed_dim=self.embed_dim)

    @property
    def url(self) -> str:
        """The URL of the checkpoint in the authors' repository at the pinned commit, or on a mirror of it."""
        endpoint = os.environ.get(AUTHORS_ENDPOINT_VARIABLE) or AUTHORS_ENDPOINT
        return f"{endpoint.rstrip('/')}/{AUTHORS_REPOSITORY}/{AUTHORS_COMMIT}/alignment/weights/{self.file}"

    @property
    def reported(self) -> dict[str, dict[str, dict[str, float]]]:
        """Published figures of this matrix: {benchmark: {"base": {metric: value}, "labclip": {metric: value}}}."""
        figures: dict[str, dict[str, dict[str, float]]] = {}
        for figure in REPORTED:
            if figure.matrix == [self.name, self.alignment]:
                for model, values in figures.setdefault(figure.benchmark, {"base": {}, "labclip": {}}).items():
                    values[figure.metric] = figure.values[model]
        return figures

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of its `Alignment`. It has no "results", since labclip did not measure the figures."""
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
    first_of = {entry.name: entry for entry in reversed(PUBLISHED)}
    return [EMBEDDED, *(e.name if e is first_of[e.name] else f"{e.name}-{e.alignment}" for e in PUBLISHED)]


def find_entry(name: str) -> Published | None:
    """The published matrix of a name: "ViT-B-32", "ViT-B/32", "ViT-B-32-quickgelu" or "ViT-B-32-cc3m"; else None."""
    for entry in PUBLISHED:
        if name.replace("/", "-") in (entry.name, entry.model, f"{entry.name}-{entry.alignment}"):
            return entry
    return None


def is_known(name: object) -> bool:
    """Whether a string is a known name, which takes precedence over a folder of this name. False for a `Path`."""
    return isinstance(name, str) and (name == EMBEDDED or find_entry(name) is not None)
