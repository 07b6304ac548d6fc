"""An OpenCLIP model whose text features are aligned, on every path that yields them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import nn

from labclip.alignment import Alignment, align, checked_alignment, compose, is_identity, with_live_matrix
from labclip.checks import describe
from labclip.towers.images import as_batch
from labclip.towers.openclip import check_base, default_preprocess, default_tokenizer
from labclip.towers.prefixes import encode_trimmed
from labclip.towers.text import Tokenizer, as_captions, encode_captions, is_readable, tokenize

Images = torch.Tensor | Image | Sequence[Image]
Texts = torch.Tensor | str | Iterable[str]

# Methods of the wrapped model that yield no text features. Any other is refused rather than passed on unaligned.
_FORWARDED_METHODS = frozenset(
    {"generate", "lock_image_tower", "lock_text_tower", "no_weight_decay", "set_grad_checkpointing"}
)
# What people compute text features with by hand, past the alignment.
_UNALIGNED = frozenset({"text", "text_projection"})


class LABCLIP(nn.Module):
    """A drop-in for an OpenCLIP model: the same methods, arguments and outputs, with the text side aligned.

    Image features are the wrapped model's own, so an index of them stays valid. With the identity matrix, or at
    strength 0, every output is the wrapped model's bit for bit. The matrix is float32 whatever the model's precision.

    A model that labclip loads comes in evaluation mode and frozen, so that features carry no graph and `.numpy()` works
    as it is typed. Ask for gradients where they are wanted: `model.matrix.requires_grad_()` for the matrix,
    `model.clip.train().requires_grad_()` for the base. A model that you load and wrap keeps its parameters as they are.

    Attributes:
        clip: The wrapped OpenCLIP model.
        matrix: The matrix that is applied, a float32 Parameter [dim, dim].
        alignment: The matrix with its record. Assign another to replace it: `model.alignment = alignment.at(0.5)`.
        preprocess: PIL image -> float tensor [3, height, width], or None.
        tokenizer: Captions -> token ids [n, context_length], or None.
        trim: Whether texts are encoded at the length they need; `model.trim = False` encodes all at the full context.

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
            clip: Any OpenCLIP model; it is held, not copied.
            alignment: The matrix fitted on it.
            preprocess: Its image transform, for PIL images; by default made from the model's own configuration.
            tokenizer: Its tokenizer, for strings; by default the one of `alignment.base`, where that is known.

        Raises:
            ValueError: If the alignment was not fitted on this model: dim, activation or fingerprint differ.
        """
        super().__init__()
        if isinstance(clip, LABCLIP):
            raise ValueError("The model is a LABCLIP already. Wrap model.clip, or assign model.alignment.")
        if not isinstance(clip, nn.Module) or not hasattr(clip, "encode_text"):
            raise ValueError(
                f"A {type(clip).__name__} is not an OpenCLIP model. Pass open_clip.create_model(...)'s. A model of "
                f"transformers or of OpenAI's clip takes the matrix in: labclip.fold(model, alignment)."
            )
        checked_alignment(alignment)
        self.clip = clip
        self.tokenizer = tokenizer or default_tokenizer(alignment.base)
        self.preprocess = preprocess or default_preprocess(clip)
        check_base(clip, alignment, self.tokenizer)
        self.openclip_config: dict[str, Any] | None = None
        self._normalize = {
            side: inspect.signature(getattr(clip, side)).parameters["normalize"].default
            for side in ("encode_image", "encode_text")
        }
        self.training = clip.training
        self.matrix = nn.Parameter(torch.empty(0, device=next(clip.parameters()).device))
        self.register_buffer("aligned_logit_scale", None)
        self._install(alignment)

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
            name_or_path: A name of `labclip.list_pretrained()`, a folder ("./name" is always one), a Hub repository
                "org/name", or "MODEL:TAG", any architecture and weights of OpenCLIP. The last, and a folder or
                repository that holds a base alone, open with the identity, which changes nothing.
            alignment: Another alignment than the name's own: "cc3m" and the like, a name, a folder, a repository, or
                an `Alignment`.
            base: An OpenCLIP model already loaded, to be wrapped instead of loading one.
            strength: 0 is the base model exactly, 1 the matrix as fitted; None is what the alignment was saved with.
            device: Where to put the model; None is the CPU, or where `base` is.
            precision: OpenCLIP's precision of the base: "fp32", "fp16", "bf16", "pure_fp16", "pure_bf16".
            revision: Hub revision of `name_or_path`.
            token: Hub token; None takes the stored one.
            cache_dir: Where downloads are kept; None takes the Hub's own cache.
            force_download: Whether to fetch again what is cached.
            local_files_only: Whether to use the cache alone.

        Returns:
            The model in evaluation mode and frozen (`base` stays as it is), with `preprocess` and `tokenizer` set.

        Raises:
            FileNotFoundError: If the name, folder or repository does not exist.
            ValueError: If what is there is not sound, or the base is not the one the matrix was fitted on.
            OSError: If it can't be fetched.
        """
        from labclip.io.hub import Access
        from labclip.io.opening import load_model

        access = Access(revision, token, cache_dir, force_download, local_files_only)
        return load_model(
            name_or_path, access, alignment=alignment, base=base, strength=strength, device=device, precision=precision
        )

    @property
    def alignment(self) -> Alignment:
        """The matrix in use with its record.

        A matrix from a state dict, or changed in place, counts as fitted: it has strength 1 and no metadata.
        """
        record, matrix, scale = self._alignment, self._own_matrix, _plain(self.aligned_logit_scale)
        if scale != self._recorded_scale or not torch.equal(matrix, record.matrix.to(matrix.device)):
            record = Alignment(matrix, base=record.base, logit_scale=scale, fingerprint=record.fingerprint)
        return with_live_matrix(record, matrix)

    @alignment.setter
    def alignment(self, alignment: Alignment) -> None:
        checked_alignment(alignment)
        check_base(self.clip, alignment, self.tokenizer)
        self._install(alignment)

    @property
    def logit_scale(self) -> torch.Tensor:
        """Log-temperature, as OpenCLIP's: the fitted one, interpolated with the base's by strength, or the base's."""
        own: torch.Tensor = self.clip.logit_scale
        return own if self.aligned_logit_scale is None else self.aligned_logit_scale.to(own.dtype)

    def encode_image(self, image: Images, normalize: bool | None = None) -> torch.Tensor:
        """The wrapped model's image features, untouched.

        Args:
            image: Preprocessed images, [n, 3, height, width], or a PIL image or a list of them.
            normalize: Whether to return unit-length rows; None is as the wrapped class (True for CoCa alone).

        Returns:
            Image features, [n, dim].

        Raises:
            ValueError: If it is anything else, or PIL images come without a `preprocess`.
        """
        normalize = self._normalize["encode_image"] if normalize is None else normalize
        return self.clip.encode_image(self._images(image), normalize=normalize)

    def encode_text(self, text: Texts, normalize: bool | None = None, aligned: bool = True) -> torch.Tensor:
        """Text features, aligned. Texts are encoded at the length they need, each distinct prefix once.

        The same numbers to rounding, 1e-6 of a unit-length row in float32. Token ids go the wrapped model's own way,
        at the full context, where that is not sure (another tower than OpenCLIP's causal ones, hooks, patches, dropout,
        `torch.compile` and tracing), where the matrix changes nothing, and where `trim` is False.

        Args:
            text: Token ids, int64 or int32 [n, context_length], or a caption, or a list of captions or a column of
                NumPy's, pandas' or pyarrow's.
            normalize: Whether to return unit-length rows; None is as the wrapped class (True for CoCa alone).
            aligned: False gives the base's own text features.

        Returns:
            Text features, [n, dim], with the wrapped model's dtype; the matrix product itself is float32.

        Raises:
            ValueError: If it is anything else, or strings come without a tokenizer.
        """
        normalize = self._normalize["encode_text"] if normalize is None else normalize
        if isinstance(text, torch.Tensor):
            if text.is_floating_point() or text.is_complex() or text.ndim != 2:
                raise ValueError(
                    f"text is {describe(text)}. Pass token ids, whole numbers [n, context_length], as "
                    f"model.tokenizer(captions) gives them, or the captions themselves."
                )
            features = encode_trimmed(self.clip, text, self.matrix.device) if aligned and self._trims(text) else None
        elif captions := as_captions(text):
            features = encode_captions(self.clip, self._known_tokenizer, captions, self.matrix.device, trim=self.trim)
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
        """One vector for a query put together from parts, aligned; see `labclip.compose`. Nothing is parsed.

        Args:
            parts: What must be there: ["a red cube", "a blue ball"], or a list of such lists.
            without: What must not be there, in every query.
            weight: Factor of the sum of the embeddings of `without`.

        Returns:
            Unit-length, [dim]; for a list of lists a row for each, [n, dim].

        Raises:
            ValueError: If a query has no part, or its parts and what is left out cancel.

        Example:
            >>> model = LABCLIP.from_pretrained("scenes")
            >>> model.encode_query(["a red cube", "a blue sphere"], without=["a green ring"]).shape
            torch.Size([256])
        """
        single = isinstance(parts, str) or all(isinstance(part, str) for part in parts)
        queries = [as_captions(query) for query in ([parts] if single else parts)]  # type: ignore[arg-type]
        left_out = as_captions(without)
        features = self.encode_text([text for query in [*queries, left_out] for text in query], normalize=True)
        *rows, others = torch.split(features, [*map(len, queries), len(left_out)])
        composed = torch.stack([compose(row, others if left_out else None, weight) for row in rows])
        return composed[0] if single else composed

    def similarity(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Cosine similarity of image features and text features that are aligned already, as `encode_text` gives them.

        Args:
            image_features: [n_images, dim], any scale and floating dtype.
            text_features: [n_texts, dim], any scale and floating dtype.

        Returns:
            Cosines, float32 [n_images, n_texts], also under autocast.

        Raises:
            ValueError: If either is no floating-point tensor [n, dim].
        """
        for features in (image_features, text_features):
            floats = isinstance(features, torch.Tensor) and features.is_floating_point()  # token ids would do too
            if not floats or features.ndim != 2 or features.shape[1] != len(self.matrix):
                raise ValueError(
                    f"Features are {describe(features)}. Pass floating-point tensors [n, {len(self.matrix)}], as "
                    f"encode_image and encode_text give them, or torch.from_numpy(array)."
                )
        with torch.autocast(image_features.device.type, enabled=False):
            return F.normalize(image_features.float(), dim=-1) @ F.normalize(text_features.float(), dim=-1).T

    def get_logits(self, image: Images, text: Texts) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled similarities of what `encode_image` and `encode_text` take, as the wrapped class gives them, aligned.

        Returns:
            Logits by image, [n_images, n_texts], and their transpose.
        """
        logits = self._logits(self.encode_image(image, normalize=True), self.encode_text(text, normalize=True))
        return logits, logits.T

    def forward(self, image: Images | None = None, text: Texts | None = None, **kwargs: Any) -> Any:
        """The wrapped class's forward, text side aligned.

        `image` and `text` are what `encode_image` and `encode_text` take, or None; `kwargs` what else the class takes.

        Returns:
            As the wrapped class: a tuple (image_features, text_features, scale, bias if there is one) or a dict.
        """
        return self._aligned(self.clip(*self._inputs(image, text), **kwargs), normalize=True)

    def forward_intermediates(
        self, image: Images | None = None, text: Texts | None = None, *, normalize: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """The wrapped class's `forward_intermediates`, with final text features and logits aligned.

        Intermediate features of the towers stay what they are. `image`, `text` and `kwargs` are those of `forward`;
        with `normalize` final features have unit length.
        """
        output = self.clip.forward_intermediates(*self._inputs(image, text), normalize=normalize, **kwargs)
        return self._aligned(output, normalize)

    def fold(self) -> nn.Module:
        """A copy of the wrapped model with the matrix merged into its text projection: no overhead, plain OpenCLIP."""
        from labclip.io.folding import fold

        return fold(self)

    def save_pretrained(self, folder: str | Path, *, config: str | Mapping[str, Any] | None = None) -> None:
        """Save base and alignment as one self-contained folder, which `from_pretrained` opens with no network.

        Args:
            folder: Where to; made if it does not exist.
            config: The architecture of a base that you loaded and wrapped: OpenCLIP's name of it, or a `model_cfg`.
                One that labclip loaded, or that OpenCLIP has by the name in `alignment.base`, needs none.

        Raises:
            ValueError: If the architecture of the base is not known, or `config` is that of another.
        """
        from labclip.io.saving import save_model

        save_model(self, folder, config=config)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload with labclip",
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """`Alignment.push_to_hub` of the alignment and its base.

        A base that needs `config=` to be saved goes up from its folder: `labclip push FOLDER ORG/NAME`.
        """
        from labclip.io.hub import push

        return push(self, repo_id, commit_message=commit_message, private=private, token=token, create_pr=create_pr)

    def __prepare_scriptable__(self) -> nn.Module:
        """The folded model, for `torch.jit.script`: the wrapper looks at its input, which scripting can't follow."""
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
                f"LABCLIP does not pass on {name!r}, since text features computed with it would not be aligned. "
                f"Use encode_text, or model.fold() for a plain model, or model.clip.{name} for the base's own."
            )
        return getattr(clip, name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LABCLIP:
        """Move with the model, but never to another dtype: half a matrix blurs the margins it was fitted for."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        for module in self.children() if recurse else ():
            module._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(moved, recurse=False)  # type: ignore[no-untyped-call]
        return self

    def _install(self, alignment: Alignment) -> None:
        """Take over an alignment: its matrix into the Parameter, its record beside it."""
        matrix, blended = self._own_matrix, None
        matrix.data = alignment.matrix.detach().to(matrix.device, copy=True)
        matrix.requires_grad_(alignment.matrix.requires_grad)
        if alignment.logit_scale is not None and alignment.strength != 0.0:
            own = self.clip.logit_scale.detach().float()
            blended = torch.lerp(own, torch.full_like(own, alignment.logit_scale), alignment.strength)
        self.aligned_logit_scale = blended
        self._recorded_scale = _plain(blended)
        self._alignment = with_live_matrix(alignment, alignment.matrix.detach().clone())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if prefix + "matrix" in state_dict:  # a state with a fitted temperature brings it, one without takes it away
            scale = state_dict.get(prefix + "aligned_logit_scale")
            self.aligned_logit_scale = None if scale is None else torch.zeros_like(scale, device=self.matrix.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.matrix.data = self.matrix.data.float()

    @property
    def _own_matrix(self) -> nn.Parameter:
        """The matrix; ValueError where something else computes it, so that what is done to it would be lost."""
        if "matrix" not in self._parameters:
            raise ValueError(
                "The matrix of this LABCLIP is computed from other parameters (parametrize, weight_norm, prune). "
                'Remove that, as torch.nn.utils.parametrize.remove_parametrizations(model, "matrix") does.'
            )
        return self.matrix

    @property
    def _aligns(self) -> bool | None:
        """Whether the matrix does anything; if not, the wrapped model's output is passed on bit for bit.

        Looked at each time: torch does not count the writes of fused optimisers, nor those into `.data`. None where
        values can't be looked at, as while torch compiles.
        """
        matrix = self._own_matrix
        if matrix.requires_grad:
            return True
        if not is_readable(matrix):
            return None
        # A look at every value takes half the time of a short caption.
        return bool(matrix[0, 1:].any()) or not is_identity(matrix)

    def _trims(self, tokens: torch.Tensor) -> bool:
        """Whether token ids may go another way than the wrapped model's, which gives its bits, and its error if any."""
        readable = is_readable(tokens) and tokens.dtype in (torch.int64, torch.int32)
        whole = tokens.shape[1] == getattr(self.clip, "context_length", None)
        return self.trim and readable and whole and self._aligns is True

    def _align(self, features: torch.Tensor, normalize: bool) -> torch.Tensor:
        aligns = self._aligns
        if aligns is False:
            return features
        aligned = align(features, self.matrix, normalize=normalize)
        return aligned if aligns else torch.where(is_identity(self.matrix), features, aligned)

    def _logits(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        logits = self.logit_scale.exp() * image_features @ text_features.T
        return logits if self.clip.logit_bias is None else logits + self.clip.logit_bias

    def _aligned(self, output: Any, normalize: bool) -> Any:
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

    def _inputs(self, image: Any, text: Any) -> tuple[Any, Any]:
        if text is not None and not isinstance(text, torch.Tensor):
            text = tokenize(self._known_tokenizer, as_captions(text)).to(self.matrix.device)
        return None if image is None else self._images(image), text

    @property
    def _known_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                "This LABCLIP has no tokenizer for strings. Pass LABCLIP(clip, alignment, "
                "tokenizer=open_clip.get_tokenizer(NAME)) with the name of the base's architecture."
            )
        return self.tokenizer

    def _images(self, image: Any) -> Any:
        return as_batch(image, self.preprocess, tower=self.clip.visual, device=self.matrix.device)


def _plain(scale: torch.Tensor | None) -> float | None:
    """A log-temperature as a number, None on the meta device; OpenCLIP's is a scalar or has one element."""
    return None if scale is None or scale.is_meta else float(scale.detach().flatten()[0])
