"""Captions to token ids, and to the base's text embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from open_clip import SimpleTokenizer
from torch import nn

from labclip.checks import describe
from labclip.towers.prefixes import encode_trimmed, positions_at_once

Tokenizer = Callable[[Sequence[str]], torch.Tensor]


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
            f"text is {describe(text)}. Pass a caption, a list of captions or one column of them, or token ids as a "
            f"tensor [n, context_length]."
        )
    if isinstance(text, str):
        return [text]
    captions = text.to_pylist() if hasattr(text, "to_pylist") else list(text)  # pyarrow's values are no strings
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is {describe(caption)}, not a str. Pass captions or a token tensor.")
    return captions


def tokenize(tokenizer: Tokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, int64 [n, context_length]; warns once of captions cut there, unless `counting_truncation` counts them.

    OpenCLIP's tokenizers cut silently, and what is cut can be the very attribute that mattered.
    """
    tokens = tokenizer(captions)
    # Two equal last tokens are padding; only a row filled to the end can have been cut and is counted out in full.
    full = (tokens[:, -1] != tokens[:, -2]).nonzero().flatten().tolist()
    long = [captions[row] for row in full if _token_count(tokenizer, captions[row]) > tokens.shape[1]]
    cut = _COUNTED.get() or TruncationCount()
    cut.count, cut.total, cut.context = cut.count + len(long), cut.total + len(captions), tokens.shape[1]
    cut.example = cut.example or next(iter(long), "")
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
        chunks = torch.split(tokens, max(1, positions_at_once(device) // tokens.shape[1]))
        features = torch.cat([model.encode_text(chunk.to(device), normalize=False) for chunk in chunks])
    return features


def _token_count(tokenizer: Any, caption: str) -> int:
    """Tokens of a caption, special ones included, uncut; 0 where the tokenizer cannot tell."""
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(caption)) + 2
    inner, clean = getattr(tokenizer, "tokenizer", None), getattr(tokenizer, "clean_fn", None)
    if not callable(inner):
        return 0
    return len(inner(clean(caption) if callable(clean) else caption)["input_ids"])
