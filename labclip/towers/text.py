"""From captions to token ids, and to the base's text embeddings."""

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
    """How many captions were cut at the context length, counted over several calls, and the first of them."""

    count: int = 0
    total: int = 0
    context: int = 0
    example: str = ""

    def warn(self, noun: str = "captions", *, stacklevel: int = 2) -> None:
        """Warn once about all captions that were cut, if any; `noun` is what the message calls them."""
        if self.count:
            warnings.warn(
                f"{self.count} of {self.total} {noun} are longer than the {self.context} tokens of the context and "
                f"were cut, for example {self.example[:60]!r}. Shorten them if their end matters.",
                stacklevel=stacklevel + 1,
            )


_COUNT: ContextVar[TruncationCount | None] = ContextVar("_COUNT", default=None)


@contextmanager
def counting_truncation(count: TruncationCount) -> Iterator[None]:
    """Inside the block, add captions that are cut to `count` instead of warning about them."""
    token = _COUNT.set(count)
    try:
        yield
    finally:
        _COUNT.reset(token)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block, the model is in evaluation mode: with dropout, features would be random."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def as_captions(text: str | Iterable[str]) -> list[str]:
    """Turn a caption, a list of captions, or a column of NumPy, pandas or pyarrow into a list; else ValueError."""
    is_column = isinstance(text, Iterable) and not isinstance(text, bytes | bytearray | Mapping | Set)
    if not is_column or len(getattr(text, "shape", (1,))) != 1:  # iterating over a table gives its column names
        raise ValueError(
            f"text is {describe(text)}. Pass a caption, a list of captions or one column of them, or token ids as a "
            f"tensor [n, context_length]."
        )
    if isinstance(text, str):
        return [text]
    captions = text.to_pylist() if hasattr(text, "to_pylist") else list(text)  # pyarrow iterates over its own scalars
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {index} is {describe(caption)}, not a str. Pass captions or a token tensor.")
    return captions


def tokenize(tokenizer: Tokenizer, captions: list[str]) -> torch.Tensor:
    """Tokenize captions to ids, int64 [n, context_length].

    Warns once about captions that are cut at the context length, or counts them inside `counting_truncation`:
    OpenCLIP's tokenizers cut silently, and the end of a caption can hold an attribute that matters.
    """
    tokens = tokenizer(captions)
    # Two equal last tokens are padding. Only rows without padding can have been cut; only their tokens are counted.
    full_rows = (tokens[:, -1] != tokens[:, -2]).nonzero().flatten().tolist()
    cut_captions = [captions[row] for row in full_rows if _token_count(tokenizer, captions[row]) > tokens.shape[1]]
    count = _COUNT.get() or TruncationCount()
    count.count += len(cut_captions)
    count.total += len(captions)
    count.context, count.example = tokens.shape[1], count.example or next(iter(cut_captions), "")
    if count is not _COUNT.get():
        count.warn(stacklevel=4)
    return tokens


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether Python may read a tensor's values: not during compilation, tracing, CUDA graph capture or `vmap`."""
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
    """The base's unnormalised text embeddings of captions, [len(captions), dim], with the model's dtype.

    With `trim` they come from `encode_trimmed` if that is exact, else from the model's own `encode_text`.
    """
    model: Any = clip
    tokens = tokenize(tokenizer, captions)
    features = encode_trimmed(clip, tokens, device) if trim else None
    if features is None:
        chunks = torch.split(tokens, max(1, positions_at_once(device) // tokens.shape[1]))
        features = torch.cat([model.encode_text(chunk.to(device), normalize=False) for chunk in chunks])
    return features


def _token_count(tokenizer: Any, caption: str) -> int:
    """The number of tokens of an uncut caption, special tokens included; 0 if the tokenizer can't tell."""
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(caption)) + 2
    hf_tokenizer, clean = getattr(tokenizer, "tokenizer", None), getattr(tokenizer, "clean_fn", None)
    if not callable(hf_tokenizer):
        return 0
    return len(hf_tokenizer(clean(caption) if callable(clean) else caption)["input_ids"])
