"""The matrices the paper's authors published, with the SHA-256 that verifies each, and the figures others published.

None of those figures was measured by labclip. Imports no torch: `labclip list` and `labclip info` answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
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

    `benchmark` is as `labclip evaluate` takes it, or "probes" for the linear probes of `labclip diagnose`; `clip` is ""
    where the notes do not say; `words` say what was asked; in `command` FOLDER is a matrix that one fits first, as none
    was published; `matrix` is name and alignment of the published matrix that it is of; `measured_as` is what labclip
    calls the metric.
    """

    benchmark: str
    metric: str
    clip: str
    values: Mapping[str, float]
    words: str
    command: str
    matrix: tuple[str, str] | None = None
    measured_as: str = ""


_B32 = ("ViT-B-32", "coco")
_SUGARCREPE = "labclip evaluate sugarcrepe --model ViT-B-32 --data sugar-crepe/data --images coco/val2017"
_ARO = "--model ViT-B-32 --data aro --images aro/images"

REPORTED: tuple[PublishedFigure, ...] = (
    PublishedFigure(
        "clevr", "binding", "ViT-L/14", {"base": 0.58, "labclip": 0.95, "fine-tuned": 1.00},
        "which colour belongs to which object (CLEVR)",
        "labclip evaluate clevr --model ViT-L-14 --alignment FOLDER --data clevr",
    ),
    PublishedFigure(
        "pug-spar", "binding", "ViT-L/14", {"base": 0.53, "labclip": 0.97, "fine-tuned": 1.00},
        "which texture belongs to which animal (PUG:SPAR)",
        "labclip evaluate pug-spar --model ViT-L-14 --alignment FOLDER --data PUG_SPAR",
    ),
    PublishedFigure(
        "pug-spare", "binding", "ViT-L/14", {"base": 0.50, "labclip": 0.94, "fine-tuned": 1.00},
        "which texture belongs to which animal (PUG:SPARE)",
        "labclip evaluate pug-spare --model ViT-L-14 --alignment FOLDER --data PUG_SPARE",
    ),
    PublishedFigure(
        "vg-a", "accuracy", "ViT-B/32", {"base": 0.63, "labclip": 0.69, "NegCLIP": 0.71},
        "which attribute belongs to which object (VG-Attribution)",
        f"labclip evaluate vg-a {_ARO}", _B32, "macro",
    ),
    PublishedFigure(
        "vg-r", "accuracy", "ViT-B/32", {"base": 0.63, "labclip": 0.82, "NegCLIP": 0.81},
        "which object does what to which (VG-Relation)",
        f"labclip evaluate vg-r {_ARO}", _B32, "macro",
    ),
    PublishedFigure(
        "sugarcrepe", "replace", "ViT-B/32", {"base": 0.80, "labclip": 0.82, "NegCLIP": 0.85},
        "one word replaced (SugarCrepe)",
        _SUGARCREPE, _B32,
    ),
    PublishedFigure(
        "sugarcrepe", "swap", "ViT-B/32", {"base": 0.62, "labclip": 0.74, "NegCLIP": 0.75},
        "two words swapped (SugarCrepe)",
        _SUGARCREPE, _B32,
    ),
    PublishedFigure(
        "coco", "t2i_r1", "ViT-B/32", {"base": 0.30, "labclip": 0.41, "NegCLIP": 0.41},
        "image search by captions, R@1 (COCO)",
        "labclip evaluate coco --model ViT-B-32 --data coco_karpathy_test.json --images coco --option captions=5", _B32,
    ),
    PublishedFigure(
        "negation", "accuracy", "", {"base": 0.393, "labclip": 0.345},
        "which caption, some of them negated (NegBench COCO-MCQ)",
        "labclip evaluate negation --model ViT-B-32 --data negbench --images coco/val2017",
    ),
    PublishedFigure(
        "probes", "from the image", "", {"base": 0.96, "chance": 0.12},
        "linear probe on images (CLEVR)",
        "labclip diagnose --model ViT-L-14 --data clevr"
    ),
    PublishedFigure(
        "probes", "from the text", "", {"base": 1.00, "chance": 0.12},
        "linear probe on captions (CLEVR)",
        "labclip diagnose --model ViT-L-14 --data clevr"
    ),
)  # fmt: skip
"""CLEVR and PUG are of matrices fitted on those very data, of which none was published."""

_NEGATION = next(one.values for one in REPORTED if one.benchmark == "negation")
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
        found: dict[str, dict[str, dict[str, float]]] = {}
        for one in REPORTED:
            if one.matrix == (self.name, self.alignment):
                for side, values in found.setdefault(one.benchmark, {"base": {}, "labclip": {}}).items():
                    values[one.metric] = one.values[side]
        return found

    @property
    def metadata(self) -> dict[str, Any]:
        """What an `Alignment` made of it carries; no "results", as labclip did not measure the figures."""
        source = (
            f"{self.file} of {AUTHORS_REPOSITORY} at {AUTHORS_COMMIT[:7]}, which has no licence: "
            f"downloaded for your own use, not to be published again"
        )
        figures = {"reported": self.reported, "reported_source": REPORTED_SOURCE} if self.reported else {}
        return {"recipe": self.recipe, "data": self.data, "source": source, "costs": list(KNOWN_COSTS), **figures}

    def __str__(self) -> str:
        return f"{self.name} ({self.alignment})"


def _published(
    name: str, alignment: str, dim: int, scale: float, size: int, file_sha256: str, matrix_sha256: str,
    recipe: str = "hard-negative batches of 1024, Adam, lr 1e-3, 10 epochs",
) -> Published:  # fmt: skip
    data = f"{alignment.upper()} captions, with negatives whose nouns and adjectives are permuted"
    file = f"labclip_{alignment}_neg_{name.removeprefix('ViT-').replace('-', '')}.pt"
    hub = f"labclip/labclip-{name.lower()}-{alignment}"
    return Published(
        name, alignment, f"{name}-quickgelu", dim, scale, file, size, file_sha256, matrix_sha256, hub, data,
        f"paper: {recipe}",
    )  # fmt: skip


PUBLISHED: tuple[Published, ...] = (
    _published(
        "ViT-B-32", "coco", 512, 4.2660932540893555, 1_050_290,
        "833133433207f0851017ca5121d7f769c539c9ed1a6340da7e8d948fa8beaaaa",
        "8cc53c13784f4c53580b0b0de6fd5a4464a9d8a93f708e3a8cec5c3449bd6c35",
    ),
    _published(
        "ViT-B-16", "coco", 512, 4.287960529327393, 1_050_290,
        "f8f46942bcc92424016864f0be1b9c348cfc700438197aeb43971ce328fc2b74",
        "646f4c714cdf77fdbfa6c0dd4c0f03284344bd351f9946f3c051ceb34b1d8e48",
    ),
    _published(
        "ViT-L-14", "coco", 768, 4.320479393005371, 2_361_010,
        "9c88dc13b55933b44b9f22b672dd4874f8d7881b000385e11c03934680a0f99a",
        "3e3493cc6830db0044560b1672b171b5e7efd9b30f4afd4a0826f779c03e79ed",
    ),
    _published(
        "ViT-B-32", "cc3m", 512, 3.4044077396392822, 1_050_308,
        "f4902c1400e28349f9527a24c774c3d0590badc7143bdbef197b53cce5f517d0",
        "8b32053bcd237c183b499e993dc793f0628c8d8a6b3f0d592a1df5edd20f1d7a",
        "hard-negative batches; the settings are not recorded",
    ),
)  # fmt: skip


def list_pretrained() -> list[str]:
    """Names that `LABCLIP.from_pretrained` and `Alignment.from_pretrained` know; folders and repositories work too.

    Example:
        >>> list_pretrained()
        ['scenes', 'ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-B-32-cc3m']
    """
    return [EMBEDDED, *(_name_of(entry) for entry in PUBLISHED)]


def _name_of(entry: Published) -> str:
    first = next(other for other in PUBLISHED if other.name == entry.name)
    return entry.name if entry is first else f"{entry.name}-{entry.alignment}"


def find_entry(name: str) -> Published | None:
    """The published matrix of a name: "ViT-B-32", "ViT-B-32-quickgelu" (its base's own name), "ViT-B-32-cc3m"."""
    for entry in PUBLISHED:
        if name in (_name_of(entry), entry.model, f"{entry.name}-{entry.alignment}"):
            return entry
    return None


def is_known(name: object) -> bool:
    """Whether a name, as the user typed it, is in the table, and wins over a folder that is called so; no Path is."""
    return isinstance(name, str) and (name == EMBEDDED or find_entry(name) is not None)


def entries_for(base: Base) -> list[Published]:
    """The published matrices that were fitted on a base, the usual one first."""
    return [entry for entry in PUBLISHED if entry.base.matches(base)]


def find_matrix(sha256: str) -> Published | None:
    """The published matrix that has this SHA-256, or None."""
    return next((entry for entry in PUBLISHED if entry.matrix_sha256 == sha256), None)
