"""The text side of a model of any library: its last linear map, its embedding of a caption, the mark of a fold."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from open_clip import SimpleTokenizer
from torch import nn

from labclip._version import __version__
from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION, FOLDED
from labclip.checks import first_line
from labclip.io.architecture import VOCABULARY
from labclip.io.folder import matrix_sha256
from labclip.towers import openclip
from labclip.towers.openclip import check_base, default_tokenizer, uses_quick_gelu
from labclip.towers.text import evaluating

# Where a module keeps its last linear map on the text side, by attribute path, first match wins.
_PLACES = (
    "text_projection",  # OpenCLIP CLIP (Parameter [width, dim]), OpenAI clip, transformers CLIPModel (Linear)
    "text.text_projection",  # OpenCLIP CustomTextCLIP and CoCa
    "text.proj",  # OpenCLIP with a Hugging Face text tower
    "text_model.head",  # transformers SiglipModel
)
_INSTEAD = "Apply the alignment to its features instead: alignment(text_features)."


def mark_of(model: Any) -> dict[str, Any] | None:
    """What was merged into a model, or None: an attribute of OpenCLIP's, in the config of transformers', in ONNX's."""
    config = getattr(model, "config", None)
    for holder in (model, config, getattr(config, "text_config", None)):
        if isinstance(mark := getattr(holder, FOLDED, None), dict):
            return mark
    metadata = {entry.key: entry.value for entry in getattr(model, "metadata_props", ())}
    return json.loads(metadata[FOLDED]) if FOLDED in metadata else None


def set_mark(model: Any, mark: dict[str, Any] | None) -> None:
    """Put a mark on a model, where it lasts: on transformers' text side, whose models open alone as well."""
    if mark is None:
        return
    if hasattr(model, "metadata_props"):  # ONNX
        kept = [one for one in model.metadata_props if one.key != FOLDED]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=FOLDED, value=json.dumps(mark))
    else:
        config = getattr(model, "config", model)
        setattr(getattr(config, "text_config", config), FOLDED, mark)


def new_mark(alignment: Alignment, source: Mapping[str, Any], onto: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a fold: matrix, strength, base, the names that were given, and an earlier fold that it lies on."""
    return {
        "matrix_sha256": matrix_sha256(alignment.fitted),
        "strength": alignment.strength,
        "base": None if alignment.base is None else vars(alignment.base),
        **source,
        "labclip_version": __version__,
    } | ({} if onto is None else {"onto": onto})


def projection_of(model: Any) -> tuple[Any, str]:
    """The module that holds the text projection, and its name there; ValueError if none is found."""
    text_alone = of_transformers(model) and model.config.model_type.endswith("text_model")
    places = [*_PLACES, "head"] if text_alone else _PLACES
    for place in places:
        *path, name = place.split(".")
        owner: Any = model
        for step in path:
            owner = getattr(owner, step, None)
        if isinstance(owner, nn.Module) and hasattr(owner, name):
            return owner, name
    raise ValueError(
        f"Found no text projection in a {type(model).__name__} (looked for {', '.join(places)}). "
        f"Wrap it instead: LABCLIP(model, alignment)."
    )


def of_transformers(model: Any) -> bool:
    """Whether a module is a model of transformers."""
    # By name: sentence-transformers' modules have a config too, and importing transformers takes seconds.
    return any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)


def of_openclip(model: Any) -> bool:
    """Whether a module has OpenCLIP's `encode_text`, which OpenAI's `clip` has without `normalize`."""
    encode = getattr(model, "encode_text", None)
    return callable(encode) and "normalize" in inspect.signature(encode).parameters


def text_features(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Unnormalised text embeddings by a model of transformers, whose releases give a tensor or an object."""
    with torch.no_grad(), evaluating(model):
        output = model.get_text_features(**inputs) if hasattr(model, "get_text_features") else model(**inputs)
    if isinstance(output, torch.Tensor):
        return output
    found = getattr(output, "text_embeds", None)
    return output.pooler_output if found is None else found


def check_fits(model: Any, alignment: Alignment, tokenizer: Any) -> None:
    """Refuse with ValueError a model that the alignment was not fitted on, or into which a matrix was merged already.

    The fingerprint is compared where the alignment has one and a tokenizer is known: the model's own, else that of the
    recorded base, else CLIP's where a model of transformers or OpenAI has CLIP's vocabulary.
    """
    if of_openclip(model):
        check_base(model, alignment, tokenizer or default_tokenizer(alignment.base))
        return
    quick_gelu = uses_quick_gelu(model)
    if of_transformers(model):
        activation = getattr(getattr(model.config, "text_config", model.config), "hidden_act", None)
        quick_gelu = activation == "quick_gelu" if isinstance(activation, str) else None
    features = None if alignment.fingerprint is None else _caption_features(model, tokenizer, alignment)
    fingerprint = None if features is None else nn.functional.normalize(features[0].float(), dim=0).cpu()
    openclip.check_fits(alignment, mark_of(model), quick_gelu, fingerprint)


def _caption_features(model: Any, tokenizer: Any, alignment: Alignment) -> torch.Tensor | None:
    """The embedding of the fingerprint's caption by a model that is not OpenCLIP's, [1, dim], or None."""
    device = next(model.parameters()).device
    if not of_transformers(model):
        tokenizer = tokenizer or default_tokenizer(alignment.base)
        if tokenizer is None or not hasattr(model, "encode_text"):
            return None
        with torch.no_grad():
            return model.encode_text(tokenizer([FINGERPRINT_CAPTION]).to(device))
    config = getattr(model.config, "text_config", model.config)
    length = config.max_position_embeddings
    if (tokenizer := tokenizer or beside(model, "AutoTokenizer")) is not None:
        # To the full context, as OpenCLIP does: SigLIP's padding reaches the embedding.
        encoded = tokenizer(
            [FINGERPRINT_CAPTION], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return text_features(model, **encoded.to(device))
    if config.vocab_size != VOCABULARY or config.model_type != "clip_text_model":
        return None
    tokens = SimpleTokenizer(context_length=length)([FINGERPRINT_CAPTION])
    return text_features(model, input_ids=tokens[:, : int(tokens.argmax()) + 1].to(device))


def beside(model: Any, kind: str) -> Any | None:
    """The "AutoTokenizer" or "AutoProcessor" that lies where a model of transformers was loaded from; no download."""
    if not (name := getattr(model, "name_or_path", "")):
        return None
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def sample_features(model: Any) -> torch.Tensor:
    """The embedding of some token ids by a model of transformers, float64 [1, dim] on the CPU, or ValueError."""
    config = getattr(model.config, "text_config", model.config)
    last = getattr(config, "eos_token_id", None)
    ids = [number % config.vocab_size for number in (3, 5, 7, 9, 11, last if isinstance(last, int) else 13)]
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    try:
        return text_features(model, input_ids=tokens).cpu().double()
    except (TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:  # whatever its own code raises
        raise ValueError(
            f"This {type(model).__name__} gives no text features of token ids ({first_line(error)}), so that a fold "
            f"can't be checked. {_INSTEAD}"
        ) from error


def check_merged(folded: Any, before: torch.Tensor, alignment: Alignment) -> None:
    """Refuse with ValueError a folded model of transformers whose sample features are not those before, aligned."""
    exact = before @ alignment.matrix.detach().cpu().double().T
    said = (
        f"Merged into this {type(folded).__name__}, the matrix gives other text features: its text projection is not "
        f"its last step"
    )
    check_features(sample_features(folded), exact, said, _INSTEAD, dtype=next(folded.parameters()).dtype)


def check_features(
    found: torch.Tensor, exact: torch.Tensor, said: str, remedy: str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Refuse with ValueError features that are others than rounding in a dtype makes of the exact ones."""
    error = float((found - exact).abs().max() / exact.abs().max())
    if not error <= (1e-4 if dtype in (torch.float32, torch.float64) else 5e-2):
        raise ValueError(f"{said} (relative error {error:.2g}). {remedy}")
