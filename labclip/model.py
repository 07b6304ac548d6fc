"""`LABCLIP`: an OpenCLIP model whose methods return aligned text features."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import nn

from labclip.alignment import Alignment, Shareable, align, checked_alignment, compose, is_identity, with_live_matrix
from labclip.checks import describe
from labclip.towers.images import as_batch
from labclip.towers.openclip import check_base, default_preprocess, default_tokenizer
from labclip.towers.prefixes import encode_trimmed
from labclip.towers.text import Tokenizer, as_captions, encode_captions, is_readable, tokenize

Images = torch.Tensor | Image | Sequence[Image]
Texts = torch.Tensor | str | Iterable[str]

# Methods of the wrapped model that return no text features. Other methods are refused, since they would not be aligned.
_FORWARDED_METHODS = frozenset(
    {"generate", "lock_image_tower", "lock_text_tower", "no_weight_decay", "set_grad_checkpointing"}
)
# Attributes from which users would compute text features without the alignment.
_UNALIGNED = frozenset({"text", "text_projection"})


class LABCLIP(Shareable, nn.Module):
    """A drop-in replacement for an OpenCLIP model: the same methods, arguments and outputs, with text features aligned.

    Image features are the wrapped model's own, so your image index stays valid. With the identity matrix, or at
    strength 0, every output equals the wrapped model's bit for bit. The matrix is float32 in every precision.

    A model that labclip loads is in evaluation mode and frozen, so its features need no gradient and `.numpy()` works
    on them. To train the matrix, call `model.matrix.requires_grad_()`; to train the base,
    `model.clip.train().requires_grad_()`. A model that you load and wrap yourself keeps its mode and gradients.

    Attributes:
        clip: The wrapped OpenCLIP model.
        matrix: The matrix that is applied, a float32 Parameter [dim, dim].
        alignment: The matrix with its record. Assign another to replace it: `model.alignment = alignment.at(0.5)`.
        preprocess: PIL image -> float tensor [3, height, width], or None.
        tokenizer: Captions -> token ids [n, context_length], or None.
        trim: Whether texts are encoded at the length they need; with False all are padded to the full context.

    Example:
        >>> from labclip import LABCLIP, scenes
        >>> from PIL.Image import fromarray
        >>> model, two = LABCLIP.from_pretrained("scenes"), scenes.sample(2, seed=0)
        >>> images = model.encode_image([fromarray(image) for image in two.images])
        >>> model.similarity(images, model.encode_text(two.captions)).numpy().shape
        (2, 2)
    """

    clip: Any
    trim: bool = True
    matrix: nn.Parameter
    aligned_logit_scale: torch.Tensor | None
    _alignment: Alignment
    _recorded_scale: float | None

    def __init__(
        self,
        clip: nn.Module,
        alignment: Alignment,
        *,
        preprocess: Callable[[Image], torch.Tensor] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            clip: Any OpenCLIP model; it is not copied.
            alignment: The matrix fitted on it.
            preprocess: Its image transform, for PIL images; by default made from the model's own configuration.
            tokenizer: Its tokenizer, for strings; by default the one of `alignment.base`, if that is known.

        Raises:
            ValueError: If the alignment was not fitted on this model: dim, activation or fingerprint differ.
        """
        super().__init__()
        if isinstance(clip, LABCLIP):
            raise ValueError("The model is a LABCLIP already. Wrap model.clip, or assign model.alignment.")
        if not isinstance(clip, nn.Module) or not hasattr(clip, "encode_text"):
            raise ValueError(
                f"A {type(clip).__name__} is not an OpenCLIP model. Pass one from open_clip.create_model(...). A model "
                f"of transformers or of OpenAI's clip is folded instead: labclip.fold(model, alignment)."
            )
        self.clip = clip
        self.tokenizer = tokenizer or default_tokenizer(checked_alignment(alignment).base)
        self.preprocess = preprocess or default_preprocess(clip)
        self.openclip_config: dict[str, Any] | None = None
        self._normalize = {
            side: inspect.signature(getattr(clip, side)).parameters["normalize"].default
            for side in ("encode_image", "encode_text")
        }
        self.training = clip.training
        self.matrix = nn.Parameter(torch.empty(0, device=next(clip.parameters()).device))
        self.register_buffer("aligned_logit_scale", None)
        self.alignment = alignment

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        alignment: Alignment | str | Path | None = None,
        base: nn.Module | None = None,
        strength: float | None = None,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> LABCLIP:
        """Load a base and its alignment, by name, from a folder, or from the Hub.

        Args:
            name_or_path: A name from `labclip.list_pretrained()`, a folder ("./name" always means a folder), a Hub
                repository "org/name", or "MODEL:TAG", any architecture and weights of OpenCLIP. "MODEL:TAG", and a
                folder or repository without an alignment, get the identity matrix, which changes nothing.
            alignment: Another alignment for this base: a published one such as "cc3m", a name, a folder, a Hub
                repository, or an `Alignment`.
            base: An OpenCLIP model already loaded, which is wrapped instead of loading one.
            strength: 0 is the base model exactly, 1 the matrix as fitted; None keeps the alignment's own strength.
            device: Device of the model; None is the CPU, or the device of `base`.
            precision: OpenCLIP's precision of the base: "fp32", "fp16", "bf16", "pure_fp16", "pure_bf16".
            revision: Hub revision of `name_or_path`.
            token: Hub token; None uses the stored one.
            cache_dir: Where downloads are cached; None uses the Hub's own cache.
            force_download: Whether to download again what is cached.
            local_files_only: Whether to read the cache only, with no network.

        Returns:
            The model, in evaluation mode and frozen, with `preprocess` and `tokenizer` set. A model passed as `base`
            keeps its mode and gradients.

        Raises:
            FileNotFoundError: If the name, folder or repository does not exist.
            ValueError: If its files are damaged, or the matrix was not fitted on this base.
            OSError: If it can't be downloaded.
        """
        from labclip.io.hub import Access
        from labclip.io.opening import load_model

        access = Access(revision, token, cache_dir, force_download, local_files_only)
        return load_model(name_or_path, access, alignment, base, strength, device, precision)

    @property
    def alignment(self) -> Alignment:
        """The matrix in use with its record.

        A matrix from a state dict, or one changed in place, gets a new record: strength 1 and no metadata.
        """
        record, matrix, scale = self._alignment, self._matrix_parameter, _as_number(self.aligned_logit_scale)
        if scale != self._recorded_scale or not torch.equal(matrix, record.matrix.to(matrix.device)):
            record = Alignment(matrix, base=record.base, logit_scale=scale, fingerprint=record.fingerprint)
        return with_live_matrix(record, matrix)

    @alignment.setter
    def alignment(self, alignment: Alignment) -> None:
        checked_alignment(alignment)
        check_base(self.clip, alignment, self.tokenizer)
        matrix, scale = self._matrix_parameter, None
        matrix.data = alignment.matrix.detach().to(matrix.device, copy=True)
        matrix.requires_grad_(alignment.matrix.requires_grad)
        if alignment.logit_scale is not None and alignment.strength != 0.0:
            base_scale = self.clip.logit_scale.detach().float()
            scale = torch.lerp(base_scale, torch.full_like(base_scale, alignment.logit_scale), alignment.strength)
        self.aligned_logit_scale = scale
        self._recorded_scale = _as_number(scale)
        self._alignment = with_live_matrix(alignment, alignment.matrix.detach().clone())

    @property
    def logit_scale(self) -> torch.Tensor:
        """The log-temperature: the base's, or interpolated by strength between the base's and the fitted one."""
        base_scale: torch.Tensor = self.clip.logit_scale
        return base_scale if self.aligned_logit_scale is None else self.aligned_logit_scale.to(base_scale.dtype)

    def encode_image(self, image: Images, normalize: bool | None = None) -> torch.Tensor:
        """The wrapped model's image features, unchanged.

        Args:
            image: Preprocessed images, [n, 3, height, width], or a PIL image or a list of them.
            normalize: Whether to return unit-length rows; None is the wrapped class's default (True only for CoCa).

        Returns:
            Image features, [n, dim].

        Raises:
            ValueError: If `image` is anything else, or it is a PIL image and the model has no `preprocess`.
        """
        normalize = self._normalize["encode_image"] if normalize is None else normalize
        return self.clip.encode_image(self._image_batch(image), normalize=normalize)

    def encode_text(self, text: Texts, normalize: bool | None = None, aligned: bool = True) -> torch.Tensor:
        """Aligned text features.

        Texts are encoded at the length they need, and each distinct prefix once. This equals the wrapped model's own
        encoding up to rounding: 1e-6 for unit-length rows in float32. The wrapped model itself encodes token ids if
        that may not be exact (a text tower that is not one of OpenCLIP's causal ones, hooks, patches, dropout,
        `torch.compile`, tracing), if the matrix changes nothing, or if `trim` is False.

        Args:
            text: Token ids, int64 or int32 [n, context_length], or a caption, or several captions: a list, or a column
                of NumPy, pandas or pyarrow.
            normalize: Whether to return unit-length rows; None is the wrapped class's default (True only for CoCa).
            aligned: Whether to align; False returns the base's own text features.

        Returns:
            Text features, [n, dim], with the wrapped model's dtype; the matrix product is computed in float32.

        Raises:
            ValueError: If `text` is anything else, or it is a string and the model has no tokenizer.
        """
        normalize = self._normalize["encode_text"] if normalize is None else normalize
        if isinstance(text, torch.Tensor):
            if text.is_floating_point() or text.is_complex() or text.ndim != 2:
                raise ValueError(
                    f"text is {describe(text)}. Pass token ids, whole numbers [n, context_length], as "
                    f"model.tokenizer(captions) gives them, or the captions themselves."
                )
            trim = aligned and self._may_trim(text)
            features = encode_trimmed(self.clip, text, self.matrix.device) if trim else None
        elif captions := as_captions(text):
            features = encode_captions(self.clip, self._need_tokenizer(), captions, self.matrix.device, trim=self.trim)
        else:
            features = self.matrix.new_zeros(0, len(self.matrix))
        if features is None:
            features = self.clip.encode_text(text, normalize=normalize)
        elif normalize:
            features = F.normalize(features, dim=-1)
        return self._align(features, normalize) if aligned else features

    def encode_query(
        self, parts: str | Sequence[str] | Sequence[Sequence[str]], without: str | Sequence[str] = (),
        weight: float = 0.5,
    ) -> torch.Tensor:  # fmt: skip
        """One aligned vector for a query with several parts; see `labclip.compose`. The strings are not parsed.

        Args:
            parts: What the image must show, for example ["a red cube", "a blue ball"], or a list of such lists.
            without: What it must not show; applies to every query.
            weight: Factor of the sum of the embeddings of `without`.

        Returns:
            The query, unit-length, [dim]; for a list of lists one row for each, [n, dim].

        Raises:
            ValueError: If a query has no part, or `without` cancels its parts.

        Example:
            >>> model = LABCLIP.from_pretrained("scenes")
            >>> model.encode_query(["a red cube", "a blue sphere"], without=["a green ring"]).shape
            torch.Size([256])
        """
        single = isinstance(parts, str) or all(isinstance(part, str) for part in parts)
        queries = [as_captions(query) for query in ([parts] if single else parts)]  # type: ignore[arg-type]
        excluded = as_captions(without)
        features = self.encode_text([text for query in [*queries, excluded] for text in query], normalize=True)
        *query_parts, left_out = torch.split(features, [*map(len, queries), len(excluded)])
        composed = torch.stack([compose(part, left_out if excluded else None, weight) for part in query_parts])
        return composed[0] if single else composed

    def similarity(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Cosine similarity of image features and aligned text features.

        Args:
            image_features: From `encode_image`, [n_images, dim], any scale and floating dtype.
            text_features: From `encode_text`, [n_texts, dim], any scale and floating dtype. They are not aligned again.

        Returns:
            Cosines, float32 [n_images, n_texts], also under autocast.

        Raises:
            ValueError: If either is not a floating-point tensor [n, dim].
        """
        for features in (image_features, text_features):
            is_float = isinstance(features, torch.Tensor) and features.is_floating_point()  # token ids are not
            if not is_float or features.ndim != 2 or features.shape[1] != len(self.matrix):
                raise ValueError(
                    f"Features are {describe(features)}. Pass floating-point tensors [n, {len(self.matrix)}], as "
                    f"encode_image and encode_text give them, or torch.from_numpy(array)."
                )
        with torch.autocast(image_features.device.type, enabled=False):
            return F.normalize(image_features.float(), dim=-1) @ F.normalize(text_features.float(), dim=-1).T

    def get_logits(self, image: Images, text: Texts) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled cosines of what `encode_image` and `encode_text` take; the wrapped class's `get_logits`, aligned.

        Returns:
            Logits, [n_images, n_texts], and their transpose.
        """
        logits = self._logits(self.encode_image(image, normalize=True), self.encode_text(text, normalize=True))
        return logits, logits.T

    def forward(self, image: Images | None = None, text: Texts | None = None, **kwargs: Any) -> Any:
        """The wrapped class's forward, with the text side aligned.

        `image` and `text` are what `encode_image` and `encode_text` take, or None; `kwargs` are the class's other ones.

        Returns:
            As the wrapped class: a tuple (image_features, text_features, scale, and the bias if it has one) or a dict.
        """
        return self._align_output(self.clip(*self._prepare_inputs(image, text), **kwargs), normalize=True)

    def forward_intermediates(
        self, image: Images | None = None, text: Texts | None = None, *, normalize: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """The wrapped class's `forward_intermediates`, with the final text features and logits aligned.

        Intermediate features of the towers are not changed. `image`, `text` and `kwargs` are those of `forward`;
        `normalize` is whether the final features have unit length.
        """
        output = self.clip.forward_intermediates(*self._prepare_inputs(image, text), normalize=normalize, **kwargs)
        return self._align_output(output, normalize)

    def fold(self) -> nn.Module:
        """A copy of the wrapped model with the matrix merged into its text projection: a plain OpenCLIP model."""
        from labclip.io.folding import fold

        return fold(self)

    def save_pretrained(self, folder: str | Path, *, config: str | Mapping[str, Any] | None = None) -> None:
        """Save base and alignment as one self-contained folder, which `from_pretrained` opens with no network.

        Args:
            folder: The folder to write; made if it does not exist.
            config: The architecture of the base: OpenCLIP's name for it, or a `model_cfg`. Needed only for a base that
                you loaded and wrapped yourself, and whose name in `alignment.base` is not one of OpenCLIP's.

        Raises:
            ValueError: If the architecture of the base is not known, or `config` describes another one.
        """
        from labclip.io.saving import save_model

        save_model(self, folder, config=config)

    def __prepare_scriptable__(self) -> nn.Module:
        """The folded model, for `torch.jit.script`, which can't compile the wrapper's branches on its input."""
        return self.fold()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            clip = self.__dict__.get("_modules", {}).get("clip")
            if clip is None or name.startswith("__") or not hasattr(clip, name):
                raise
        if name in _UNALIGNED or (inspect.ismethod(getattr(clip, name)) and name not in _FORWARDED_METHODS):
            raise AttributeError(
                f"LABCLIP has no {name!r}, since text features computed with it would not be aligned. "
                f"Use encode_text, or model.fold() for a plain model, or model.clip.{name} for the base's own."
            )
        return getattr(clip, name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LABCLIP:
        """Move the matrix with the model, but keep it float32: half precision blurs the margins it was fitted for."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        for module in self.children() if recurse else ():
            module._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(move, recurse=False)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if prefix + "matrix" in state_dict:  # this model gets a buffer for the fitted scale only if the state has one
            scale = state_dict.get(prefix + "aligned_logit_scale")
            self.aligned_logit_scale = None if scale is None else torch.zeros_like(scale, device=self.matrix.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.matrix.data = self.matrix.data.float()

    @property
    def _matrix_parameter(self) -> nn.Parameter:
        """The matrix; ValueError if it is computed from other parameters, since a change of it would be lost."""
        if "matrix" not in self._parameters:
            raise ValueError(
                "The matrix of this LABCLIP is computed from other parameters (parametrize, weight_norm, prune). "
                'Remove that, as torch.nn.utils.parametrize.remove_parametrizations(model, "matrix") does.'
            )
        return self.matrix

    @property
    def _changes_text(self) -> bool | None:
        """Whether the matrix is not the identity; if it is, the wrapped model's output is returned bit for bit.

        It is checked at every call, since torch does not track writes of fused optimisers, or into `.data`. None if
        its values can't be read, for example while torch compiles.
        """
        matrix = self._matrix_parameter
        if matrix.requires_grad:
            return True
        if not is_readable(matrix):
            return None
        # The first row is enough in most cases; reading the whole matrix takes half as long as encoding a caption.
        return bool(matrix[0, 1:].any()) or not is_identity(matrix)

    def _may_trim(self, tokens: torch.Tensor) -> bool:
        """Whether `encode_trimmed` may encode token ids: not if the wrapped model's exact output or error is needed."""
        readable = is_readable(tokens) and tokens.dtype in (torch.int64, torch.int32)
        full_length = tokens.shape[1] == getattr(self.clip, "context_length", None)
        return self.trim and readable and full_length and self._changes_text is True

    def _align(self, features: torch.Tensor, normalize: bool) -> torch.Tensor:
        changes_text = self._changes_text
        if changes_text is False:
            return features
        aligned = align(features, self.matrix, normalize=normalize)
        return aligned if changes_text else torch.where(is_identity(self.matrix), features, aligned)

    def _logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        logits = self.logit_scale.exp() * image_features @ text_features.T
        return logits if self.clip.logit_bias is None else logits + self.clip.logit_bias

    def _align_output(self, output: Any, normalize: bool) -> Any:
        """Align the text features, logits and scale in what the wrapped model's forward returns, a tuple or a dict."""
        if not isinstance(output, dict):
            image_features, text_features, _, *bias = output
            text_features = None if text_features is None else self._align(text_features, normalize)
            return (image_features, text_features, self.logit_scale.exp(), *bias)
        if output.get("text_features") is not None:
            output["text_features"] = self._align(output["text_features"], normalize)
        if "logit_scale" in output:
            output["logit_scale"] = self.logit_scale.exp()
        if "image_logits" in output:
            output["image_logits"] = self._logits(output["image_features"], output["text_features"])
            output["text_logits"] = output["image_logits"].T
        return output

    def _prepare_inputs(self, image: Any, text: Any) -> tuple[Any, Any]:
        if text is not None and not isinstance(text, torch.Tensor):
            text = tokenize(self._need_tokenizer(), as_captions(text)).to(self.matrix.device)
        return None if image is None else self._image_batch(image), text

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                "This LABCLIP has no tokenizer for strings. Pass LABCLIP(clip, alignment, "
                "tokenizer=open_clip.get_tokenizer(NAME)) with the name of the base's architecture."
            )
        return self.tokenizer

    def _image_batch(self, image: Any) -> Any:
        return as_batch(image, self.preprocess, tower=self.clip.visual, device=self.matrix.device)


def _as_number(scale: torch.Tensor | None) -> float | None:
    """A log-temperature, [] or [1], as a float; None on the meta device."""
    return None if scale is None or scale.is_meta else float(scale.detach().flatten()[0])
