"""`Features`: unit-length or raw embeddings of images, captions and their negatives, with whose caption each is."""

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
_SAME = 1e-5  # unit-length rows nearer than this in every number are one row
_UNKNOWN: dict[str, Any] = {
    "weights_sha256": None, "precision": None, "preprocess": None, "inputs": [], "columns": None, "clean": None,
    "images_sha256": None, "skipped": [],
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Embeddings of images and their captions, in memory or memory-mapped: what `embed` returns and `fit` takes.

    Attributes:
        images: The base's image embeddings, [n_images, dim], any scale; from a folder unit-length float32.
        texts: The base's own text embeddings of the captions (no alignment applied), [n_texts, dim].
        image_index: The row of each caption's image, int64 [n_texts].
        negatives: Text embeddings of each caption's hard negatives, [n_texts, k, dim], or None. Where `has_negative` is
            False the row counts for nothing.
        has_negative: Which negatives there are, bool [n_texts, k]; None if `negatives` is.
        negative_images: Image embeddings of what the negatives describe, [n_texts, k, dim], or None.
        has_negative_image: Which of them there are, bool [n_texts, k]; None if `negative_images` is.
        kind: What each text is, int8 [n_texts]: 0 a caption, 1 a part of one ("a red shirt"), 2 keywords; None where
            all are captions.
        base: The OpenCLIP model they are of, or None where its name is not known.
        fingerprint: The base's own unit-length text embedding of `labclip.alignment.FINGERPRINT_CAPTION`, [dim], which
            tells bases of one name apart; or None.
        folder: Where they lie, or None; `images.jsonl` and `captions.jsonl` there say what each row is.
        manifest: What they were made from and what was left out, plain JSON values; empty for arrays.
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
        """Check that the parts belong together, and fill in the index and flags that are None."""
        count, dim = _shape("images", self.images, 2)
        texts, _ = _shape("texts", self.texts, 2, dim=dim)
        if self.base is not None and getattr(self.base, "embed_dim", None) != dim:
            raise ValueError(
                f"The embeddings have dim {dim}, but base is {self.base!r}. Pass the labclip.Base they are of."
            )
        if self.image_index is None and count != texts:
            raise ValueError(f"There are {count} images and {texts} texts. Pass image_index, whose caption each is.")
        index = np.arange(texts) if self.image_index is None else _whole("image_index", self.image_index, texts)
        if len(outside := np.flatnonzero((index < 0) | (index >= count))):
            first = int(outside[0])
            raise ValueError(f"image_index[{first}] is {int(index[first])}, but images has rows 0 to {count - 1}.")
        object.__setattr__(self, "image_index", index)
        for name, own, rows in (("negative", self.texts, None), ("negative_image", self.images, index)):
            values, flags = getattr(self, f"{name}s"), getattr(self, f"has_{name}")
            if values is None:
                if flags is not None:
                    raise ValueError(f"has_{name} is there, but no {name}s. Pass {name}s=, or leave it out.")
                continue
            if (shape := _shape(f"{name}s", values, 3, dim=dim)) != (texts, self.k, dim):
                raise ValueError(
                    f"{name}s has shape {list(shape)}, not {[texts, self.k, dim]}. Pass as many for each text, "
                    f"and an image for each negative; where there is none, the text's own row or image."
                )
            there = _differs(own, rows, values) if flags is None else np.atleast_2d(_array(flags).T).T
            if there.dtype != np.bool_ or there.shape != shape[:2]:
                raise ValueError(f"has_{name} is {there.dtype} {list(there.shape)}, not bool {list(shape[:2])}.")
            object.__setattr__(self, f"has_{name}", there)
        if self.kind is not None:
            kinds = _whole("kind", self.kind, texts)
            if not set(np.unique(kinds)) <= {*Kind} or kinds.all():
                raise ValueError(
                    f"kind holds {np.unique(kinds).tolist()}. Pass for each text 0 (a caption), 1 (a part) or 2 "
                    f"(keywords), and 0 for one at least."
                )
            object.__setattr__(self, "kind", kinds.astype(np.int8, copy=False) if kinds.any() else None)

    @classmethod
    def load(cls, folder: str | Path, *, base: LABCLIP | Base | None = None, verify: bool = False) -> Features:
        r"""Open a feature folder; embeddings are read when they are used.

        The size of each file and some rows of each array are always checked.

        Args:
            folder: What `embed` or `save` made.
            base: The model the features must be of, or its record. A model is compared by the hash of its weights.
            verify: Whether to check every byte against the manifest, about a second per GB.

        Returns:
            The features, memory-mapped and read-only.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it is unfinished, damaged, changed, of a later format, or of another base.

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
            image_index: The row of each caption's image, whole numbers [n_texts]; None where text i describes image i.
            has_negative: Which negatives there are, bool [n_texts] or [n_texts, k]; None takes a row equal to its
                caption's own as absent, which reads all of them once.
            negative_images: An image of each negative, the shape of `negatives`; one equal to the caption's own image
                is absent.
            kind: What each text is, whole numbers [n_texts]: 0 a caption, 1 a part, 2 keywords.
            base: The model they are of.
            fingerprint: The base's text embedding that tells bases apart, [dim].

        Raises:
            ValueError: If shapes do not belong together, or an index is no row. What is not finite is refused where
                all rows are read: by `fit`, `evaluate` and `save`.
        """
        negatives, negative_images = (
            rows[:, None] if getattr(rows, "ndim", 0) == 2 else rows for rows in (negatives, negative_images)
        )
        return cls(
            images, texts, image_index, negatives, has_negative, negative_images, kind=kind, base=base,
            fingerprint=fingerprint,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Features:
        """Write a feature folder, from which `load` gives the same: rows of unit length, float32.

        Args:
            folder: Made if it does not exist; it must hold no features yet.

        Returns:
            The features, memory-mapped from there.

        Raises:
            ValueError: If the folder holds features or is a file, or a row is not finite or all zeros.
        """
        folder = Path(folder)
        if there := [name for name in (MANIFEST, UNFINISHED, *CONTENT) if (folder / name).exists()]:
            raise ValueError(f"{folder} holds features already, {there[0]}. Pass another folder.")
        make_folder(folder)
        known = self.manifest.get("counts", {})
        more = {name: known.get(name, 0) for name in ("true_negatives", "texts_cut")}
        has = np.zeros((len(self), 0), dtype=bool) if self.has_negative is None else self.has_negative
        counts = counts_of(len(self.images), self.kinds, has, **more)
        fingerprint = None if self.fingerprint is None else block_of(self.fingerprint, slice(None)).tolist()
        record = {
            "base": None if self.base is None else vars(self.base),
            "dim": self.dim,
            "fingerprint": fingerprint,
            **{key: self.manifest.get(key, value) for key, value in _UNKNOWN.items()},
            "counts": counts,
        }
        with Writer(folder) as files:
            for name, file in FIELDS.items():
                for block in self._blocks(name):
                    files.append(file, block)
            if self.folder is not None and all(counts.get(key) == known.get(key) for key in ("images", *COUNTED)):
                for path in filter(Path.is_file, (self.folder / name for name in LINES)):
                    with path.open("rb") as lines:
                        for line in lines:
                            files.append(path.name, line)
            files.finish(record, versions_of("torch", "numpy"))
        return self.load(folder)

    def _blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """An array as it is to be written: rows of unit length, the caption's own where there is none."""
        values = getattr(self, name)
        for start in range(0, 0 if values is None else len(values), _BLOCK):
            part = slice(start, start + _BLOCK)
            if not is_floating(values):
                yield np.ascontiguousarray(values[part], values.dtype if values.itemsize == 1 else "<i8")
                continue
            rows = block_of(values, part).cpu().numpy()
            if name in ("negatives", "negative_images"):
                own = self.texts if name == "negatives" else self.images
                mine = block_of(own, part if name == "negatives" else self.image_index[part]).cpu().numpy()
                rows = np.where(getattr(self, f"has_{name[:-1]}")[part][..., None], rows, mine[:, None])
            lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
            if len(bad := np.argwhere(~(np.isfinite(lengths) & (lengths > 0)))):
                what = "all zeros" if lengths[tuple(bad[0])] == 0 else "not finite"
                raise ValueError(f"{name}: row {start + int(bad[0][0])} is {what}. Embed it again, or leave it out.")
            yield np.where(np.abs(lengths - 1) > UNIT, rows / lengths, rows).astype("<f4", copy=False)

    @property
    def origin(self) -> Origin:
        """The model that the features are of, as far as it is known."""
        weights, precision = self.manifest.get("weights_sha256"), self.manifest.get("precision")
        return Origin(self.base, self.dim, weights, precision, self.fingerprint)

    def check_model(self, model: LABCLIP | Base) -> None:
        """Raise ValueError if the features are not of this model, as far as that is known."""
        if not isinstance(model, LABCLIP | Base):
            raise ValueError(f"base is a {type(model).__name__}. Pass a model or a Base, as model.alignment.base is.")
        hashed = self.origin.weights_sha256 is not None
        given = Origin(model, model.embed_dim) if isinstance(model, Base) else Origin.of(model, weights=hashed)
        if differs := self.origin.differs(given):
            where = "" if self.folder is None else f" of {self.folder}"
            raise ValueError(
                f"The features{where} were embedded by {self.origin}, but the model is {given}: {differs}. Embed again "
                f"with that model, or pass the one that they are of."
            )

    def __len__(self) -> int:
        """Texts: captions, and their parts and keywords where there are some."""
        return len(self.texts)

    @property
    def kinds(self) -> NDArray[np.int8]:
        """`kind`, filled in where all are captions."""
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
        of = f", base={str(self.base)!r}" if self.base is not None else ""
        return (
            f"Features({len(self.images):,} images, {len(self):,} texts, {self.k} negatives each, dim={self.dim}{of})"
        )


def _shape(name: str, values: Any, ndim: int, *, dim: int | None = None) -> tuple[int, ...]:
    """The shape of embeddings, checked."""
    if not isinstance(values, torch.Tensor | np.ndarray) or not is_floating(values):
        raise ValueError(f"{name} is {describe(values)}. Pass embeddings, a floating-point array or tensor.")
    shape = tuple(int(size) for size in values.shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"{name} has shape {list(shape)}, not {'[n, dim]' if ndim == 2 else '[n, k, dim]'}.")
    if dim not in (None, shape[-1]):
        raise ValueError(f"images has dim {dim} but {name} has dim {shape[-1]}. Embed both with one model.")
    return shape


def _array(values: Any) -> NDArray[Any]:
    return values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)


def _whole(name: str, values: Any, count: int) -> NDArray[np.int64]:
    """Whole numbers, one for each text, checked."""
    array = _array(values)
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (count,):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}. Pass {count} whole numbers, one for each text.")
    return array.astype(np.int64, copy=False)


def _differs(own: Any, index: NDArray[np.int64] | None, others: Any) -> NDArray[np.bool_]:
    """Which of [n, k, dim] others differ from their own row of [n, dim], or of its row `index`: bool [n, k]."""
    differing = []
    for start in range(0, len(others), _BLOCK):
        part = slice(start, start + _BLOCK)
        theirs = F.normalize(block_of(others, part), dim=-1)
        mine = F.normalize(block_of(own, part if index is None else index[part]), dim=-1)[:, None]
        # What is not finite is no absent negative: it is refused where it is used.
        differing.append(~((mine.to(theirs.device) - theirs).abs().amax(dim=-1) <= _SAME).cpu())
    return torch.cat(differing).numpy()


def block_of(values: Any, rows: slice | NDArray[np.int64]) -> torch.Tensor:
    """Some rows of an array, a tensor or a memory map, as float32 on its device; a map's pages are released again."""
    if isinstance(values, torch.Tensor):
        taken = values[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(values.device)]
        return taken.detach().float()
    block = torch.from_numpy(values[rows].astype(np.float32, copy=isinstance(rows, slice), subok=False))
    mapped = getattr(values, "_mmap", None)
    if mapped is not None and values.mode != "c" and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)  # else what was read counts as the process's memory
    return block
