"""The text side of a model of any library: its last linear map, its activation, its embedding of a caption."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from open_clip import SimpleTokenizer
from torch import nn

from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION
from labclip.checks import first_line
from labclip.io.architecture import VOCABULARY
from labclip.io.folded import mark_of
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
    features = None if alignment.fingerprint is None else _caption_features(model, tokenizer, alignment)
    fingerprint = None if features is None else nn.functional.normalize(features[0].float(), dim=0).cpu()
    openclip.check_fits(alignment, mark_of(model), _quick_gelu(model), fingerprint)


def _quick_gelu(model: Any) -> bool | None:
    """Whether the text side runs QuickGELU, or None."""
    if not of_transformers(model):
        return uses_quick_gelu(model)
    activation = getattr(getattr(model.config, "text_config", model.config), "hidden_act", None)
    return activation == "quick_gelu" if isinstance(activation, str) else None


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
    tokenizer = tokenizer or beside(model, "AutoTokenizer")
    if tokenizer is not None:
        # To the full context, as OpenCLIP does: SigLIP's padding reaches the embedding.
        length = config.max_position_embeddings
        encoded = tokenizer(
            [FINGERPRINT_CAPTION], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return text_features(model, **encoded.to(device))
    if config.vocab_size != VOCABULARY or config.model_type != "clip_text_model":
        return None
    tokens = SimpleTokenizer(context_length=config.max_position_embeddings)([FINGERPRINT_CAPTION])
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
    ids, last = [3, 5, 7, 9, 11], getattr(config, "eos_token_id", None)
    ids = [number % config.vocab_size for number in [*ids, last if isinstance(last, int) else 13]]
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    try:
        return text_features(model, input_ids=tokens).cpu().double()
    except (TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:  # whatever its own code raises
        raise ValueError(
            f"This {type(model).__name__} gives no text features of token ids ({first_line(error)}), so that a fold "
            f"can't be checked. Apply the alignment to its features instead: alignment(text_features)."
        ) from error


def check_merged(folded: Any, before: torch.Tensor, alignment: Alignment) -> None:
    """Refuse with ValueError a folded model of transformers whose sample features are not those before, aligned."""
    check_features(
        sample_features(folded), before @ alignment.matrix.detach().cpu().double().T,
        f"Merged into this {type(folded).__name__}, the matrix gives other text features: its text projection is not "
        f"its last step", "Apply the alignment to its features instead: alignment(text_features).",
        dtype=next(folded.parameters()).dtype,
    )  # fmt: skip


def check_features(
    found: torch.Tensor, exact: torch.Tensor, said: str, remedy: str, *, dtype: torch.dtype = torch.float32
) -> None:
    """Refuse with ValueError features that are others than rounding in a dtype makes of the exact ones."""
    error = float((found - exact).abs().max() / exact.abs().max())
    if not error <= (1e-4 if dtype in (torch.float32, torch.float64) else 5e-2):
        raise ValueError(f"{said} (relative error {error:.2g}). {remedy}")


def dim_of(owner: Any, projection: Any) -> int | None:
    """Length of the embeddings that a projection gives; None where there is none and the tower does not say.

    ValueError if it is neither a linear map, nor ends in one, nor is missing.
    """
    if isinstance(projection, nn.Sequential):
        projection = projection[-1]
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if isinstance(projection, torch.Tensor):
        return int(projection.shape[1])
    if not isinstance(projection, nn.Identity | None):
        raise ValueError(f"Cannot fold into a text projection of type {type(projection).__name__}.")
    if isinstance(norm := getattr(owner, "ln_final", None), nn.LayerNorm):
        return norm.normalized_shape[0]
    return getattr(owner, "output_dim", None)
