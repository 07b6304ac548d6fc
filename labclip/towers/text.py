"""Captions and token ids to the base's text embeddings, each encoded at the length it needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import nn

from labclip.checks import described
from labclip.towers.prefixes import encode_prefixes, has_own, is_watched, like, runs_by_prefix, sort_by_prefix

Tokenizer = Callable[[Sequence[str]], torch.Tensor]

# Rows times positions of one chunk. Beyond this a processor gains nothing, and padding costs more.
_CHUNK_CPU = 2_048
_CHUNK_ACCELERATOR = 65_536


@dataclass
class TruncationCount:
    """Captions that were cut at the context length, counted over several calls, with the first of them."""

    count: int = 0
    total: int = 0
    context: int = 0
    example: str = ""

    def warn(self, what: str = "captions", *, stacklevel: int = 2) -> None:
        """Give one warning for all that were cut; none if none was."""
        if self.count:
            warnings.warn(
                f"{self.count} of {self.total} {what} are longer than the {self.context} tokens of the context and "
                f"were cut, for example {self.example[:60]!r}. Shorten them if their end matters.",
                stacklevel=stacklevel + 1,
            )


_COUNTED: ContextVar[TruncationCount | None] = ContextVar("_COUNTED", default=None)


@contextmanager
def counting_truncation(cut: TruncationCount) -> Iterator[None]:
    """Count captions that are cut instead of warning of them."""
    token = _COUNTED.set(cut)
    try:
        yield
    finally:
        _COUNTED.reset(token)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: dropout would make the features random."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def as_captions(text: str | Iterable[str]) -> list[str]:
    """One caption or several as a list, also from a column of NumPy, pandas or pyarrow; ValueError if it is neither."""
    not_a_list = not isinstance(text, Iterable) or isinstance(text, bytes | bytearray | Mapping | Set)
    if not_a_list or len(getattr(text, "shape", (1,))) != 1:  # a table would be read as the names of its columns
        raise ValueError(
            f"text is {described(text)}. Pass a caption, a list of captions or one column of them, or token ids as a "
            f"tensor [n, context_length]."
        )
    if isinstance(text, str):
        return [text]
    captions = text.to_pylist() if hasattr(text, "to_pylist") else list(text)  # pyarrow's values are no strings
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is {described(caption)}, not a str. Pass captions or a token tensor.")
    return captions


def tokenize(tokenizer: Tokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, int64 [n, context_length]; warns once of captions cut there, unless `counting_truncation` counts them.

    OpenCLIP's tokenizers cut silently, and what is cut can be the very attribute that mattered.
    """
    tokens = tokenizer(captions)
    # Two equal last tokens are padding; only a row filled to the end can have been cut and is counted out in full.
    full = (tokens[:, -1] != tokens[:, -2]).nonzero().flatten().tolist()
    found = [captions[row] for row in full if _token_count(tokenizer, captions[row]) > tokens.shape[1]]
    cut = _COUNTED.get() or TruncationCount()
    cut.count, cut.total, cut.context = cut.count + len(found), cut.total + len(captions), tokens.shape[1]
    cut.example = cut.example or next(iter(found), "")
    if cut is not _COUNTED.get():
        cut.warn(stacklevel=4)
    return tokens


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values may be looked at: not while torch compiles, traces, captures or maps."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(tensor) in (torch.Tensor, nn.Parameter)
        and not tensor.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def encode_captions(
    clip: nn.Module, tokenizer: Tokenizer, captions: list[str], device: torch.device, *, trim: bool = True
) -> torch.Tensor:
    """The base's unnormalised text embeddings of captions, by `encode_trimmed` where that gives them and `trim` is set.

    Returns:
        Text embeddings, [len(captions), dim], in the order of `captions`, with the model's dtype.
    """
    model: Any = clip
    tokens = tokenize(tokenizer, captions)
    features = encode_trimmed(clip, tokens, device) if trim else None
    if features is None:
        chunks = torch.split(tokens, max(1, _budget(device) // tokens.shape[1]))
        features = torch.cat([model.encode_text(chunk.to(device), normalize=False) for chunk in chunks])
    return features


def encode_trimmed(clip: nn.Module, tokens: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """The base's unnormalised text embeddings of token ids, each row at the length it needs.

    Under a causal mask with end-of-text pooling nothing behind the pooled token can reach it, and captions that begin
    alike share what they begin with: each distinct prefix is encoded once, with no padding. The same numbers to
    rounding, several times faster than every row at the full context.

    Args:
        clip: The base.
        tokens: Token ids, int64 or int32 [n, length].
        device: Where the base is.

    Returns:
        Text embeddings, [n, dim], with the model's dtype. None where that is not sure to be exact.

    Raises:
        ValueError: If a row is longer than the model's context.
    """
    tower = causal_tower(clip)
    if tower is None or not len(tokens):
        return None
    tokens = tokens.cpu()
    lengths, positions = _pooled_position(tower, tokens) + 1, len(tower.positional_embedding)
    if int(lengths.max()) > positions:
        raise ValueError(
            f"The tokenizer made {int(lengths.max())} tokens of a caption, but the model takes {positions}. "
            f"Use open_clip.get_tokenizer(NAME) with the model's own name."
        )
    order = sort_by_prefix(tokens, lengths)
    features = []
    for rows in _chunks(order, lengths, _budget(device)):
        chunk = tokens[rows, : int(lengths[rows].max())]
        features.append(_project(tower, encode_prefixes(tower, chunk, lengths[rows], device)))
    return torch.cat(features)[order.argsort().to(device)]


def _budget(device: torch.device) -> int:
    return _CHUNK_CPU if device.type == "cpu" else _CHUNK_ACCELERATOR


def causal_tower(clip: nn.Module) -> Any | None:
    """The text tower of a model in which padding cannot reach the embedding, or None where it can."""
    tower: Any = getattr(clip, "text", clip)
    if not isinstance(tower, CLIP | TextTransformer) or not _is_openclips_own(clip, tower):
        return None
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    mask = tower.attn_mask
    if pool not in ("argmax", "eos") or mask is None or getattr(tower, "cls_emb", None) is not None:
        return None
    causal = torch.full_like(mask, float("-inf")).triu_(1)
    return tower if torch.equal(mask, causal) and runs_by_prefix(tower) else None


def _is_openclips_own(clip: nn.Module, tower: nn.Module) -> bool:
    """Whether text goes OpenCLIP's own way: what a subclass, a patch or a hook on the tower does sees whole rows."""
    own = CLIP if isinstance(clip, CLIP) else CustomTextCLIP
    if not has_own(clip, own, "encode_text", "_encode_text"):
        return False
    return tower is clip or (has_own(tower, TextTransformer, "forward", "_embeds") and not is_watched(tower))


def _pooled_position(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    if getattr(tower, "text_pool_type", getattr(tower, "pool_type", None)) == "argmax":
        return tokens.argmax(dim=-1)
    return tokens.eq(getattr(tower, "text_eos_id", getattr(tower, "eos_id", 0))).int().argmax(dim=-1)


def _project(tower: Any, x: torch.Tensor) -> torch.Tensor:
    if tower.text_projection is None:
        return x
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(x)
    return x @ tower.text_projection


def _chunks(order: torch.Tensor, lengths: torch.Tensor, budget: int) -> list[torch.Tensor]:
    """Cut rows, shorter ones first, into runs of at most `budget` positions each, padding counted."""
    padded = like(lengths[order]).tolist()
    chunks, start = [], 0
    for stop in range(1, len(padded) + 1):
        if stop == len(padded) or (stop - start + 1) * padded[stop] > budget:
            chunks.append(order[start:stop])
            start = stop
    return chunks


def _token_count(tokenizer: Any, caption: str) -> int:
    """Tokens of a caption, special ones included, uncut; 0 where the tokenizer cannot tell."""
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(caption)) + 2
    inner, clean = getattr(tokenizer, "tokenizer", None), getattr(tokenizer, "clean_fn", None)
    if not callable(inner):
        return 0
    return len(inner(clean(caption) if callable(clean) else caption)["input_ids"])
