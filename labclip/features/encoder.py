"""`Encoder`: images and captions through a base to unit-length rows."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from labclip.data.images import ImageSource, ParquetImages, reason
from labclip.features.origin import tokenizer_and_preprocess
from labclip.model import LABCLIP
from labclip.towers.images import image_dtype
from labclip.towers.text import TruncationCount, counting_truncation, evaluating

Embeddings = NDArray[np.float32]
Captions = Sequence[str]
T = TypeVar("T")

# What is wrong with one file. Any other failure to read (too many open files, a file server gone) is the machine's,
# and must not leave out image after image.
_UNREADABLE = {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ENAMETOOLONG, ELOOP, EINVAL}


@dataclass(slots=True)
class Encoded:
    """One image's embedding, or what is wrong with the image."""

    source: ImageSource
    row: Embeddings | None = None  # unit-length float32 [dim], little-endian; None where the image can't be used
    digest: bytes = b""  # SHA-256 of the image's bytes; empty where they could not be read
    problem: str = ""  # it follows the image's name in a sentence; empty where nothing is wrong
    pixels: torch.Tensor | None = None  # what the model is given, until it has been


class Encoder:
    """Encodes with a base; its device and precision are used, its matrix is not.

    Args:
        model: The base, wrapped. It is put into evaluation mode while it works.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one a processor, at most 16.

    Attributes:
        cut: Counts captions cut at the context length; `cut.warn()` says so. Nothing else does.

    Example:
        >>> import labclip
        >>> scene = labclip.scenes.sample(1)
        >>> encoder = Encoder(LABCLIP.from_pretrained("scenes"))
        >>> [image.row.shape for image in encoder.images([ImageSource("scene", data=scene.images[0])])]
        [(256,)]
        >>> [rows.shape for _, rows in encoder.texts([scene.captions])]
        [(1, 256)]
    """

    def __init__(self, model: LABCLIP, *, batch_size: int = 64, workers: int | None = None) -> None:
        if batch_size < 1 or (workers is not None and workers < 1):
            raise ValueError(f"batch_size is {batch_size} and workers {workers}; each is at least 1.")
        self.tokenizer, self._preprocess = tokenizer_and_preprocess(model)
        self.model = model
        self.batch_size = batch_size
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or min(available, 16)
        self.cut = TruncationCount()

    def images(self, sources: Iterable[ImageSource]) -> Generator[Encoded, None, None]:
        """Embed images in their order, decoded in threads a bounded number ahead of the model.

        Those in one Parquet file should come in the order of its rows. Close the iterator where it is left early: until
        then the model stays in evaluation mode.

        Raises:
            OSError: If reading fails for a reason that is not the image's, as with too many open files.
            ValueError: If an embedding is not finite; the image is named.
        """
        before: tuple[list[Encoded], torch.Tensor | None] = [], None
        with evaluating(self.model), _decoding(self.workers) as pool:
            # The features of a batch are copied while an accelerator works on the next one; an empty one is the last.
            for batch in chain(batched(self._decoded(sources, pool), self.batch_size), [[]]):
                features = self._run(batch)
                yield from _filled(*before)
                before = batch, features

    def texts(self, blocks: Iterable[Captions]) -> Iterator[tuple[Captions, Embeddings]]:
        """The base's own embeddings of blocks of captions in turn, each beside its captions.

        A block's are unit-length float32 [len(block), dim], little-endian; captions with a common prefix share work.
        ValueError names a caption whose embedding is not finite.
        """
        for captions in blocks:
            with torch.no_grad(), evaluating(self.model), counting_truncation(self.cut):
                features = self.model.encode_text(list(captions), normalize=False, aligned=False)
            yield captions, _checked(F.normalize(features.float(), dim=-1), captions)

    def _decoded(self, sources: Iterable[ImageSource], pool: ThreadPoolExecutor) -> Iterator[Encoded]:
        waiting: deque[Future[Encoded]] = deque()
        with ParquetImages() as tables:
            for source in sources:
                # A Parquet file is read in order, so here and not by whichever thread comes first.
                data = tables.read(source) if source.column is not None and source.data is None else None
                waiting.append(pool.submit(self._decode, source, data))
                if len(waiting) >= 2 * self.batch_size + self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _decode(self, source: ImageSource, data: bytes | None) -> Encoded:
        image, doing = Encoded(source), "read"
        try:
            data = source.read() if data is None else data
            image.digest = hashlib.sha256(data).digest()
            doing = "decoded"
            decoded = source.decode(data)
            doing = "preprocessed"
            image.pixels = self._preprocess(decoded)
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it, among others
            missing = isinstance(error, FileNotFoundError)  # which has no number where it is of a bucket
            if doing == "read" and isinstance(error, OSError) and not missing and error.errno not in _UNREADABLE:
                raise
            image.problem = str(error) if doing == "decoded" else reason(f"can't be {doing}", error)
        return image

    @torch.no_grad()
    def _run(self, batch: Sequence[Encoded]) -> torch.Tensor | None:
        """Unit-length embeddings of what has pixels, float32 [n, dim] on the model's device; None of no images."""
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return None
        stacked, device = torch.stack(pixels), self.model.matrix.device
        for image in batch:
            image.pixels = None
        if device.type == "cuda":
            stacked = stacked.pin_memory()
        given = stacked.to(device, image_dtype(self.model.clip.visual), non_blocking=True)
        return F.normalize(self.model.encode_image(given, normalize=False).float(), dim=-1)


def _filled(batch: Sequence[Encoded], features: torch.Tensor | None) -> Sequence[Encoded]:
    """What was decoded, with the features of what can be used."""
    if features is not None:
        good = [image for image in batch if not image.problem]
        for image, row in zip(good, _checked(features, [image.source for image in good]), strict=True):
            image.row = row
    return batch


def _checked(features: torch.Tensor, items: Sequence[Any]) -> Embeddings:
    """Unit-length features as rows for a file; one that is not finite or all zeros is an error that names its item."""
    rows: Embeddings = features.cpu().numpy().astype("<f4", copy=False)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if len(wrong := np.flatnonzero(~(np.abs(lengths - 1) < 0.01))):
        raise ValueError(
            f"The embedding of '{items[wrong[0]]}' is all zeros or not finite. The model's weights are damaged, or its "
            f'precision too low: try precision="fp32".'
        )
    return rows


def batched(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` in order; the last may be shorter."""
    rest = iter(stream)
    while batch := list(islice(rest, size)):
        yield batch


@contextmanager
def _decoding(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read and decode; what is not begun when they are left is not done."""
    threads = torch.get_num_threads()
    # One thread each inside torch, as DataLoader does it: else every worker starts a team as large as the machine.
    pool = ThreadPoolExecutor(workers, "labclip-decode", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # what the workers set would be the default of threads started later
