"""`Features`: embeddings of images, captions and negatives, with the image of each caption."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.alignment import is_floating
from labclip.base import Base
from labclip.checks import describe
from labclip.data.items import Kind
from labclip.features.folder import CONTENT, COUNTED, FIELDS, LINES, Writer, counts_of, read_folder
from labclip.features.origin import Origin
from labclip.files import MANIFEST, UNFINISHED, make_folder
from labclip.metrics import UNIT
from labclip.model import LABCLIP
from labclip.packages import versions_of

_BLOCK = 4096  # rows in memory at once
_SAME = 1e-5  # two unit-length rows count as equal if no number differs by more
_KINDS = {"embeddings": ("f",), "whole numbers": ("i", "u"), "flags": ("b",)}  # of dtypes
_UNKNOWN_RECORD: dict[str, Any] = {
    "weights_sha256": None, "precision": None, "preprocess": None, "inputs": [], "columns": None, "clean": None,
    "images_sha256": None, "skipped": [],
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Embeddings of images and their captions, in memory or memory-mapped: what `embed` returns and `fit` takes.

    Attributes:
        images: The base's image embeddings, [n_images, dim], any scale; from a folder unit-length float32.
        texts: The base's own text embeddings, without any alignment, [n_texts, dim].
        image_index: The row in `images` that each text describes, int64 [n_texts].
        negatives: Text embeddings of each text's hard negatives, [n_texts, k, dim], or None. Rows where `has_negative`
            is False are ignored.
        has_negative: Which negatives exist, bool [n_texts, k]; None if `negatives` is None.
        negative_images: Embeddings of the images that the negatives describe, [n_texts, k, dim], or None.
        has_negative_image: Which of these exist, bool [n_texts, k]; None if `negative_images` is None.
        kind: The kind of each text, int8 [n_texts]: 0 caption, 1 part of a caption ("a red shirt"), 2 keywords. None if
            all are captions.
        base: The OpenCLIP model that made the embeddings, or None if its name is not known.
        fingerprint: The base's own unit-length text embedding of `labclip.alignment.FINGERPRINT_CAPTION`, [dim], or
            None. It distinguishes bases with the same name.
        folder: The feature folder, or None. Its `images.jsonl` and `captions.jsonl` name the image and text of a row.
        manifest: What the embeddings were made from and what was left out, as JSON values; empty for arrays.
    """

    images: Any
    texts: Any
    image_index: Any
    negatives: Any = None
    has_negative: Any = None
    negative_images: Any = None
    has_negative_image: Any = None
    kind: Any = None
    base: Base | None = None
    fingerprint: Any = None
    folder: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and dtypes, and fill in an index and flags that are None."""
        n_images, dim = _checked("images", self.images, "embeddings", None, None).shape
        n_texts = len(_checked("texts", self.texts, "embeddings", None, dim))
        if self.base is not None and getattr(self.base, "embed_dim", None) != dim:
            raise ValueError(
                f"The embeddings have dim {dim}, but base is {self.base!r}. Pass the labclip.Base that made them."
            )
        if self.image_index is None and n_images != n_texts:
            raise ValueError(f"There are {n_images} images and {n_texts} texts. Pass image_index, each text's image.")
        index = np.arange(n_texts) if self.image_index is None else _array(self.image_index)
        index = _checked("image_index", index, "whole numbers", n_texts).astype(np.int64, copy=False)
        if len(outside := np.flatnonzero((index < 0) | (index >= n_images))):
            first = int(outside[0])
            raise ValueError(f"image_index[{first}] is {int(index[first])}, but images has rows 0 to {n_images - 1}.")
        object.__setattr__(self, "image_index", index)
        k = None
        for name in ("negative", "negative_image"):
            values, flags = getattr(self, f"{name}s"), getattr(self, f"has_{name}")
            if values is None:
                if flags is not None:
                    raise ValueError(f"has_{name} is given without {name}s. Pass {name}s= too, or neither.")
                continue
            k = _checked(f"{name}s", values, "embeddings", n_texts, k, dim).shape[1]
            exists = self._find_present(f"{name}s") if flags is None else np.atleast_2d(_array(flags).T).T
            object.__setattr__(self, f"has_{name}", _checked(f"has_{name}", exists, "flags", n_texts, k))
        if self.kind is not None:
            kinds = _checked("kind", _array(self.kind), "whole numbers", n_texts)
            if not set(np.unique(kinds)) <= {*Kind} or kinds.all():
                raise ValueError(
                    f"kind holds {np.unique(kinds).tolist()}. For each text pass 0 (a caption), 1 (a part) or 2 "
                    f"(keywords); at least one must be 0."
                )
            object.__setattr__(self, "kind", kinds.astype(np.int8, copy=False) if kinds.any() else None)

    @classmethod
    def load(cls, folder: str | Path, *, base: LABCLIP | Base | None = None, verify: bool = False) -> Features:
        r"""Open a feature folder. Embeddings are read when they are used.

        The size of each file and some rows of each array are always checked.

        Args:
            folder: A folder written by `embed` or `save`.
            base: The model that must have made the features (compared by the hash of its weights), or its record.
            verify: Whether to check every byte against the manifest, about a second per GB.

        Returns:
            The features, memory-mapped and read-only.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it is unfinished, damaged, changed, in another format version, or from another base.

        Example:
            >>> import labclip
            >>> scene = labclip.scenes.sample(2)
            >>> model = labclip.LABCLIP.from_pretrained("scenes")
            >>> texts = model.encode_text(scene.captions, aligned=False).detach()
            >>> Features.from_arrays(images=texts, texts=texts, base=model.alignment.base).save("features")
            Features(2 images, 2 texts, 0 negatives each, dim=256, base='scenes (embedded)')
            >>> Features.load("features", base=model.alignment.base, verify=True).images.shape
            (2, 256)
        """
        features = cls(**read_folder(Path(folder), verify=verify))
        if base is not None:
            features.check_model(base)
        return features

    @classmethod
    def from_arrays(
        cls, *, images: Any, texts: Any, negatives: Any = None, image_index: Any = None, has_negative: Any = None,
        negative_images: Any = None, kind: Any = None, base: Base | None = None, fingerprint: Any = None,
    ) -> Features:  # fmt: skip
        """Take embeddings that are already computed: arrays, tensors or memory maps, floating point, any scale.

        Args:
            images: [n_images, dim].
            texts: [n_texts, dim].
            negatives: [n_texts, dim] or [n_texts, k, dim], or None.
            image_index: The row of each text's image, whole numbers [n_texts]. None if text i describes image i.
            has_negative: Which negatives exist, bool [n_texts] or [n_texts, k]. With None, a negative equal to its own
                text is missing; to find these, all rows are read once.
            negative_images: The image of each negative, in the shape of `negatives`. One equal to the text's own image
                is missing.
            kind: The kind of each text, whole numbers [n_texts]: 0 caption, 1 part, 2 keywords.
            base: The model that made the embeddings.
            fingerprint: The base's own text embedding of `labclip.alignment.FINGERPRINT_CAPTION`, [dim].

        Raises:
            ValueError: If shapes do not match, or `image_index` has a value that is not a row of `images`. Values that
                are not finite raise it later, when `fit`, `evaluate` or `save` reads all rows.
        """
        negatives, negative_images = (
            rows[:, None] if getattr(rows, "ndim", 0) == 2 else rows for rows in (negatives, negative_images)
        )
        return cls(
            images, texts, image_index, negatives, has_negative, negative_images, kind=kind, base=base,
            fingerprint=fingerprint,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Features:
        """Write a feature folder, with rows of unit length in float32.

        Args:
            folder: Made if it does not exist. It must not hold features yet.

        Returns:
            The features, memory-mapped from the folder.

        Raises:
            ValueError: If the folder holds features or is a file, or a row is not finite or all zeros.
        """
        folder = Path(folder)
        for name in (MANIFEST, UNFINISHED, *CONTENT):
            if (folder / name).exists():
                raise ValueError(f"{folder} already holds features: {name}. Pass another folder.")
        make_folder(folder)
        old_counts = self.manifest.get("counts", {})
        kept_counts = {name: old_counts.get(name, 0) for name in ("true_negatives", "texts_cut")}
        has_negative = np.zeros((len(self), 0), dtype=bool) if self.has_negative is None else self.has_negative
        counts = counts_of(len(self.images), self.kinds, has_negative, **kept_counts)
        record = {
            "base": None if self.base is None else vars(self.base),
            "dim": self.dim,
            "fingerprint": None if self.fingerprint is None else block_of(self.fingerprint, slice(None)).tolist(),
            **{key: self.manifest.get(key, value) for key, value in _UNKNOWN_RECORD.items()},
            "counts": counts,
        }
        with Writer(folder) as writer:
            for name in FIELDS:
                for block in self._blocks(name):
                    writer.append(name, block)
            same_rows = all(counts.get(key) == old_counts.get(key) for key in ("images", *COUNTED))
            if self.folder is not None and same_rows:
                for path in filter(Path.is_file, (self.folder / name for name in LINES)):
                    with path.open("rb") as lines:
                        for line in lines:
                            writer.append(path.name, line)
            writer.finish(record, versions_of("torch", "numpy"))
        return self.load(folder)

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """The blocks of an array for its file: unit-length rows. A missing negative becomes its text or image."""
        values = getattr(self, name)
        for start in range(0, 0 if values is None else len(values), _BLOCK):
            part = slice(start, start + _BLOCK)
            if not is_floating(values):
                yield values[part]
                continue
            rows = block_of(values, part).cpu().numpy()
            if name in ("negatives", "negative_images"):
                exists = getattr(self, f"has_{name[:-1]}")[part]
                rows = np.where(exists[..., None], rows, self._positives(name, part).cpu().numpy())
            lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
            if len(bad_rows := np.argwhere(~(np.isfinite(lengths) & (lengths > 0)))):
                row, problem = bad_rows[0], "all zeros" if lengths[tuple(bad_rows[0])] == 0 else "not finite"
                raise ValueError(f"{name}: row {start + int(row[0])} is {problem}. Embed it again, or leave it out.")
            yield np.where(np.abs(lengths - 1) > UNIT, rows / lengths, rows)

    def _find_present(self, name: str) -> NDArray[np.bool_]:
        """Which rows of `negatives` or `negative_images` differ in direction from the text or its image, [n, k]."""
        values, differs = getattr(self, name), []
        for start in range(0, len(values), _BLOCK):
            part = slice(start, start + _BLOCK)
            negative = F.normalize(block_of(values, part), dim=-1)
            positive = F.normalize(self._positives(name, part), dim=-1)
            # A row that is not finite counts as different: it raises an error when it is used.
            differs.append(~((positive.to(negative.device) - negative).abs().amax(dim=-1) <= _SAME).cpu())
        return torch.cat(differs).numpy()

    def _positives(self, name: str, part: slice) -> torch.Tensor:
        """What missing rows of `negatives` or `negative_images` equal: some texts, or their images, [n, 1, dim]."""
        own = block_of(self.texts, part) if name == "negatives" else block_of(self.images, self.image_index[part])
        return own[:, None]

    @property
    def origin(self) -> Origin:
        """The model that made the features, as far as it is known."""
        weights, precision = self.manifest.get("weights_sha256"), self.manifest.get("precision")
        return Origin(self.base, self.dim, weights, precision, self.fingerprint)

    def check_model(self, model: LABCLIP | Base) -> None:
        """Raise ValueError if another model made the features, as far as that is known."""
        if not isinstance(model, LABCLIP | Base):
            raise ValueError(f"base is a {type(model).__name__}. Pass a model, or a Base such as model.alignment.base.")
        has_hash = self.origin.weights_sha256 is not None
        origin = Origin(model, model.embed_dim) if isinstance(model, Base) else Origin.of(model, weights=has_hash)
        if difference := self.origin.differs(origin):
            location = "" if self.folder is None else f" of {self.folder}"
            raise ValueError(
                f"The features{location} were embedded by {self.origin}, but the model is {origin}: {difference}. "
                f"Embed again with that model, or pass the model that made the features."
            )

    def __len__(self) -> int:
        """Number of texts: captions, parts and keywords."""
        return len(self.texts)

    @property
    def kinds(self) -> NDArray[np.int8]:
        """`kind`, or zeros if it is None."""
        return np.zeros(len(self), dtype=np.int8) if self.kind is None else self.kind

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self.images.shape[-1])

    @property
    def k(self) -> int:
        """The largest number of negatives of one caption."""
        return 0 if self.negatives is None else int(self.negatives.shape[1])

    def __repr__(self) -> str:
        base = f", base={str(self.base)!r}" if self.base is not None else ""
        return (
            f"Features({len(self.images):,} images, {len(self):,} texts, {self.k} negatives each, dim={self.dim}{base})"
        )


def _checked(name: str, values: Any, noun: str, *shape: int | None) -> Any:
    """The values; ValueError if their dtype is not that of `noun`, or a size differs. None is any size but 0."""
    is_array = isinstance(values, torch.Tensor | np.ndarray)
    kind = "f" if is_array and is_floating(values) else getattr(getattr(values, "dtype", None), "kind", None)
    actual = values.shape if is_array else ()
    fits = len(actual) == len(shape) and all(a and b in (None, a) for a, b in zip(actual, shape, strict=True))
    if kind not in _KINDS[noun] or not fits:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {describe(values)}. Pass {noun} of shape [{wanted}].")
    return values


def _array(values: Any) -> NDArray[Any]:
    return values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)


def block_of(values: Any, rows: slice | NDArray[np.int64]) -> torch.Tensor:
    """Some rows of an array, tensor or memory map, as float32 on its device. The pages of a map are released again."""
    if isinstance(values, torch.Tensor):
        block = values[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(values.device)]
        return block.detach().float()
    block = torch.from_numpy(values[rows].astype(np.float32, copy=isinstance(rows, slice), subok=False))
    memory_map = getattr(values, "_mmap", None)
    if memory_map is not None and values.mode != "c" and hasattr(memory_map, "madvise"):
        memory_map.madvise(mmap.MADV_DONTNEED)  # otherwise the pages count as the process's memory
    return block
