"""`Alignment`: one matrix on the text embedding, and `compose`: one query vector from several aligned texts."""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.base import FINGERPRINT_CAPTION, Base
from labclip.checks import checked_number, describe

Array = TypeVar("Array", torch.Tensor, NDArray[np.floating[Any]])
ArrayOrList = TypeVar("ArrayOrList", torch.Tensor, NDArray[np.floating[Any]], list[Any])

MAX_LOGIT_SCALE = math.log(1000.0)
"""Largest plausible log-temperature t: CLIP clamps exp(t) at 100 and SigLIP ends near 118. A larger value is exp(t),
passed by mistake."""

MAX_STRENGTH = 1.5
"""Largest usual strength: `Alignment.at` warns above it, and the page's slider ends there."""


def align(text_features: torch.Tensor, matrix: torch.Tensor, *, normalize: bool = False) -> torch.Tensor:
    """Map text embeddings onto the image embeddings they describe: ``text @ matrix.T``.

    There is no bias, so normalising before or after gives the same direction. The product is always computed in
    float32, also under autocast: bfloat16 blurs the margins between captions of the same words.

    Args:
        text_features: Text embeddings, [..., dim], any scale.
        matrix: The alignment matrix, float32 [dim, dim].
        normalize: Whether to return unit-length rows (zero rows stay zero).

    Returns:
        Aligned embeddings, [..., dim], with the dtype and device of `text_features`.

    Source: arXiv:2502.03566 (LABCLIP).
    """
    with torch.autocast(text_features.device.type, enabled=False):
        aligned = F.linear(text_features.float(), matrix)
        if normalize:
            aligned = F.normalize(aligned, dim=-1)
    return aligned.to(text_features.dtype)


def is_identity(matrix: torch.Tensor) -> torch.Tensor:
    """Whether a matrix is exactly the identity; one bool on the matrix's device."""
    return (matrix.diagonal() == 1).all() & (matrix.count_nonzero() == len(matrix))


class Shareable:
    """A model or an alignment, which can be saved as a folder and uploaded to the Hub."""

    save_pretrained: Callable[..., None]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload with labclip",
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Save and upload to the Hugging Face Hub.

        Args:
            repo_id: "org/name"; made if it does not exist.
            commit_message: The commit's subject.
            private: Whether a new repository is private; None takes the organisation's default.
            token: Hub token; None uses the stored one.
            create_pr: Whether to open a pull request instead of committing.

        Returns:
            The URL of the commit or pull request.

        Raises:
            ValueError: If `repo_id` is not a repository's name, or `save_pretrained` fails. If that needs `config=` for
                a base, call it first, and type `labclip push FOLDER ORG/NAME`.
            PermissionError: If the Hub refuses the token or the repository.
            OSError: If the network is off, or the Hub can't be reached or refuses the upload.
        """
        from labclip.io.hub import push_folder

        with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
            self.save_pretrained(folder)
            return push_folder(
                folder, repo_id, commit_message=commit_message, private=private, token=token, create_pr=create_pr
            )


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Alignment(Shareable):
    """A matrix that maps a CLIP's text embeddings onto the image embeddings they describe.

    It is immutable: `at` returns a new one. Image embeddings do not change, so your image index stays valid.

    Attributes:
        fitted: The matrix as fitted, at strength 1, float32 [dim, dim].
        matrix: The matrix that is applied, float32 [dim, dim], contiguous, finite: I + strength * (fitted - I).
        base: The OpenCLIP model it was fitted on, or None when unknown.
        logit_scale: The fitted log-temperature, like OpenCLIP's `model.logit_scale` (cosines are multiplied by its
            exponential), or None when unknown.
        strength: 0 is the base model exactly, 1 the matrix as fitted; a little above 1 exaggerates its effect.
        fingerprint: The base's own unit-length text embedding of the caption "a photo of a cat next to a dog",
            float32 [dim], or None. It identifies the base.
        metadata: How and on what data the matrix was fitted, and what it was measured to do. Plain JSON values.

    Example:
        >>> import torch
        >>> alignment = Alignment(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> alignment(torch.tensor([[2.0, 0.0]]))
        tensor([[0., 2.]])
        >>> alignment.at(0.5).matrix
        tensor([[ 0.5000, -0.5000],
                [ 0.5000,  0.5000]])
    """

    fitted: torch.Tensor
    matrix: torch.Tensor
    base: Base | None
    logit_scale: float | None
    strength: float
    fingerprint: torch.Tensor | None
    metadata: dict[str, Any]

    def __init__(
        self,
        matrix: torch.Tensor | NDArray[Any],
        *,
        base: Base | None = None,
        logit_scale: float | None = None,
        strength: float = 1.0,
        metadata: Mapping[str, Any] | None = None,
        fingerprint: torch.Tensor | None = None,
    ) -> None:
        """Make an alignment from a fitted matrix, a tensor or NumPy array [dim, dim], which is copied as float32.

        Raises:
            ValueError: If the matrix is not square, floating point and finite, or another value does not fit it.
        """
        fitted = checked_matrix(matrix)
        strength = checked_number("strength", strength)
        dim = fitted.shape[0]
        if base is not None and getattr(base, "embed_dim", None) != dim:
            raise ValueError(
                f"The matrix is {dim} x {dim} but base is {base!r}. Pass the labclip.Base it was fitted on."
            )
        if logit_scale is not None:
            logit_scale = checked_number("logit_scale", logit_scale)
            if logit_scale > MAX_LOGIT_SCALE:
                raise ValueError(
                    f"logit_scale is {logit_scale:g}, but it is a logarithm, as OpenCLIP's model.logit_scale. "
                    f"Pass math.log({logit_scale:g})."
                )
        vars(self).update(
            fitted=fitted,
            matrix=_blend(fitted, strength),
            base=base,
            logit_scale=logit_scale,
            strength=strength,
            metadata=copy.deepcopy(dict(metadata or {})),
            fingerprint=None if fingerprint is None else _checked_fingerprint(fingerprint, dim),
        )

    @classmethod
    def identity(cls, dim: int) -> Alignment:
        """The alignment that changes nothing.

        Args:
            dim: The embedding dimension.
        """
        return cls(torch.eye(dim))

    @property
    def dim(self) -> int:
        """The embedding dimension."""
        return int(self.matrix.shape[0])

    @property
    def is_identity(self) -> bool:
        """Whether applying this alignment changes nothing at all."""
        return bool(is_identity(self.matrix))

    def __call__(self, text_features: ArrayOrList, normalize: bool = False) -> ArrayOrList:
        """Align text embeddings.

        Args:
            text_features: The base's text embeddings, [..., dim], any scale: a floating-point tensor or NumPy array,
                or a list of floats, which may be nested.
            normalize: Whether to return unit-length rows.

        Returns:
            Aligned embeddings, [..., dim], of the input's type: a tensor with its dtype and device, a NumPy array with
            its dtype, or a list. Computed in float32, also under autocast. NaN stays NaN.

        Raises:
            ValueError: If the last axis is not `dim`, or the values are not floating point.

        Example:
            >>> import numpy as np
            >>> Alignment.identity(2)(np.array([[3.0, 4.0]], dtype=np.float16), normalize=True)
            array([[0.6, 0.8]], dtype=float16)
            >>> Alignment.identity(2)([3.0, 4.0])
            [3.0, 4.0]
        """
        if isinstance(text_features, list):
            return self(np.array(text_features), normalize).tolist() if text_features else []
        if not isinstance(text_features, torch.Tensor | np.ndarray) or not is_floating(text_features):
            raise ValueError(
                f"Text features are {describe(text_features)}. Pass embeddings, floats [..., {self.dim}]; for "
                f"captions and tokens call model.encode_text, which aligns them."
            )
        if isinstance(text_features, np.ndarray):
            # A copy, since torch can't use read-only or big-endian arrays, as memory-mapped files may be.
            tensor = torch.from_numpy(text_features.astype(np.float32))
            with torch.no_grad():
                return self(tensor, normalize).numpy().astype(text_features.dtype, copy=False)
        if text_features.ndim == 0 or text_features.shape[-1] != self.dim:
            fitted_on = f", fitted on {self.base}" if self.base else ""
            raise ValueError(
                f"Text features have shape {list(text_features.shape)}, but the alignment has dim "
                f"{self.dim}{fitted_on}. Load an alignment for your base: labclip.list_pretrained() names them."
            )
        return align(text_features, self.matrix.to(text_features.device), normalize=normalize)

    def at(self, strength: float) -> Alignment:
        """The same alignment at another strength: I + strength * (fitted - I).

        Args:
            strength: 0 is the base model exactly, 1 the matrix as fitted; outside [0, 1.5] you get a UserWarning.
        """
        value = checked_number("strength", strength)
        if not 0.0 <= value <= MAX_STRENGTH:
            warnings.warn(
                f"strength is {value:g}. Usual values are 0, the base, to 1, the matrix as fitted; a little above 1 "
                f"exaggerates its effect. Below 0 or above {MAX_STRENGTH:g} the fit says nothing about the "
                f"embeddings.",
                stacklevel=2,
            )
        return with_record(self, strength=value)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Alignment:
        """Load an alignment by name, from a folder, or from the Hub.

        Args:
            name_or_path: A name from `labclip.list_pretrained()`, a folder ("./name" always means a folder), or a Hub
                repository "org/name".
            revision: Hub revision: a branch, tag or commit.
            token: Hub token; None uses the stored one.
            cache_dir: Where downloads are cached; None uses the Hub's own cache.
            force_download: Whether to download again what is cached.
            local_files_only: Whether to read the cache only, with no network.

        Raises:
            FileNotFoundError: If the name, folder or repository does not exist.
            ValueError: If its files are damaged or are not an alignment.
            OSError: If it can't be downloaded.
        """
        from labclip.io.hub import Access
        from labclip.io.names import load_alignment

        return load_alignment(name_or_path, Access(revision, token, cache_dir, force_download, local_files_only))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save as a folder: `model.safetensors`, `config.json` and `README.md`, a model card.

        Args:
            folder: The folder to write; made if it does not exist. A save that fails changes nothing in it.

        Raises:
            ValueError: If the metadata is not plain JSON.
        """
        from labclip.io.folder import replacing, write

        with replacing(folder) as scratch:
            write(self, scratch)

    def __repr__(self) -> str:
        base = f", base={str(self.base)!r}" if self.base else ""
        return f"Alignment(dim={self.dim}{base}{'' if self.strength == 1.0 else f', strength={self.strength:g}'})"


def compose(parts: Array, without: Array | None = None, weight: float = 0.5) -> Array:
    """Compose one query vector, for any index of image embeddings, from the embeddings of the query's parts.

    The query is the sum of the parts' unit-length embeddings, minus `weight` times the sum of those of `without`,
    normalised. CLIP reads the caption "A without B" like "A and B"; subtracting the embedding of B leaves B out.

    Args:
        parts: Aligned text embeddings of what the image must show, [..., k, dim], any scale: a floating-point tensor or
            NumPy array.
        without: Aligned text embeddings of what it must not show, [..., j, dim], or None.
        weight: Factor of the sum of `without`.

    Returns:
        The query, unit-length, [..., dim], with the dtype and device of `parts`; computed in float32.

    Raises:
        ValueError: If there are no parts, the two arguments differ in type or dim or are not floats, or they cancel.

    Example:
        >>> compose(np.array([[3.0, 0.0], [0.0, 1.0]])).round(3)
        array([0.707, 0.707])
        >>> compose(np.array([[3.0, 0.0]]), without=np.array([[0.0, 1.0]])).round(3)
        array([ 0.894, -0.447])
    """
    kind = torch.Tensor if isinstance(parts, torch.Tensor) else np.ndarray
    for rows in (parts,) if without is None else (parts, without):
        if not isinstance(rows, kind) or not is_floating(rows) or rows.ndim < 2 or rows.shape[-1] != parts.shape[-1]:
            raise ValueError(
                f"The embeddings are {describe(rows)}. Pass tensors, or NumPy arrays, of floats, [k, dim], of one "
                f"model; for captions call model.encode_query."
            )
    if isinstance(parts, np.ndarray):
        excluded = None if without is None else torch.from_numpy(without.astype(np.float32))
        query = compose(torch.from_numpy(parts.astype(np.float32)), excluded, weight)
        return query.numpy().astype(parts.dtype, copy=False)
    query = F.normalize(parts.float(), dim=-1).sum(dim=-2)
    if without is not None:
        query = query - weight * F.normalize(without.float(), dim=-1).sum(dim=-2)
    length = query.norm(dim=-1, keepdim=True)
    if bool((length < 1e-6).any()):
        raise ValueError(
            "The query is empty: there are no parts, or `without` cancels them. Pass a part, or a smaller weight."
        )
    return (query / length).to(parts.dtype)


def with_record(alignment: Alignment, **changes: Any) -> Alignment:
    """The same fitted matrix with another `base`, `logit_scale`, `strength`, `metadata` or `fingerprint`."""
    record = {name: getattr(alignment, name) for name in ("base", "logit_scale", "strength", "metadata", "fingerprint")}
    return Alignment(alignment.fitted, **(record | changes))


def with_live_matrix(alignment: Alignment, matrix: torch.Tensor) -> Alignment:
    """A copy of an alignment whose `matrix` is this tensor itself, for example a model's Parameter of equal values."""
    result = copy.copy(alignment)
    vars(result)["matrix"] = matrix
    return result


def checked_alignment(alignment: Any) -> Alignment:
    """Return the alignment; ValueError if it is anything else."""
    if not isinstance(alignment, Alignment):
        raise ValueError(
            f"The alignment is a {type(alignment).__name__}. Pass a labclip.Alignment: Alignment(matrix) for a matrix, "
            f'Alignment.from_pretrained("scenes") for a name or folder, Alignment.identity(dim) to change nothing.'
        )
    return alignment


def is_floating(array: torch.Tensor | NDArray[Any]) -> bool:
    """Whether an array's values are floating-point numbers."""
    return array.is_floating_point() if isinstance(array, torch.Tensor) else np.issubdtype(array.dtype, np.floating)


def checked_matrix(matrix: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """A copy of a matrix as float32 [dim, dim], contiguous, finite."""
    if not isinstance(matrix, torch.Tensor | np.ndarray) or not is_floating(matrix):
        raise ValueError(f"The matrix is {describe(matrix)}. Pass a [dim, dim] tensor or array of floats.")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"The matrix has shape {list(matrix.shape)}, not [dim, dim]. Pass a square matrix.")
    if isinstance(matrix, np.ndarray):
        with np.errstate(over="ignore"):  # values that overflow become infinite and are refused below
            matrix = torch.from_numpy(matrix.astype(np.float32))
    wanted_grad = matrix.requires_grad
    matrix = matrix.detach().to(torch.float32, copy=True).contiguous()
    if not torch.isfinite(matrix).all():
        raise ValueError("The matrix has values that are NaN or infinite. The fit diverged: lower its step.")
    return matrix.requires_grad_(wanted_grad)


def _checked_fingerprint(fingerprint: torch.Tensor, dim: int) -> torch.Tensor:
    """A copy of a unit-length embedding as float32 [dim] on the CPU."""
    fingerprint = torch.as_tensor(fingerprint).detach().to("cpu", torch.float32, copy=True).contiguous()
    if fingerprint.shape != (dim,) or not abs(float(fingerprint.norm()) - 1.0) < 1e-2:
        raise ValueError(
            f"The fingerprint has shape {list(fingerprint.shape)} and length {float(fingerprint.norm()):g}. Pass the "
            f"base's unit-length text embedding of {FINGERPRINT_CAPTION!r}, [{dim}]."
        )
    return fingerprint


def _blend(fitted: torch.Tensor, strength: float) -> torch.Tensor:
    """The matrix at a strength: I + strength * (fitted - I)."""
    if strength == 1.0:
        return fitted
    identity = torch.eye(fitted.shape[0], device=fitted.device)
    matrix = identity + strength * (fitted.detach() - identity)
    # Like the fitted matrix, this one is a leaf of the autograd graph, which can be copied and trained.
    return matrix.requires_grad_(fitted.requires_grad)
