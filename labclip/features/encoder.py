"""`Encoder` embeds images and captions with a base, as unit-length rows."""

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

from labclip.data.images import ImageSource, reason, with_parquet_bytes
from labclip.model import LABCLIP
from labclip.towers.images import image_dtype
from labclip.towers.text import TruncationCount, counting_truncation, evaluating

Embeddings = NDArray[np.float32]
Captions = Sequence[str]
T = TypeVar("T")

# Errors of one file, which skips one image. Any other failure (too many open files, a file server that is down)
# concerns the machine: skipping would lose image after image.
_FILE_ERRORS = {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ENAMETOOLONG, ELOOP, EINVAL}


@dataclass(slots=True)
class Encoded:
    """The embedding of one image, or its problem."""

    source: ImageSource
    row: Embeddings | None = None  # unit-length float32 [dim], little-endian; None if the image can't be used
    digest: bytes = b""  # SHA-256 of the image's bytes; empty if they could not be read
    problem: str = ""  # to be appended to the image's name: "is not a complete image"; empty if there is none
    pixels: torch.Tensor | None = None  # the model's input; None once it has been encoded


class Encoder:
    """Encodes images and captions with the base of a model, on its device and in its precision, without its matrix.

    Args:
        model: The wrapped base. It is in evaluation mode while it encodes.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one per processor, at most 16.

    Attributes:
        cut: Counts the captions that are cut at the context length. Only `cut.warn()` warns of them.

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
            raise ValueError(f"batch_size is {batch_size} and workers is {workers}. Pass at least 1 for each.")
        if model.tokenizer is None or model.preprocess is None:
            missing_name = "tokenizer" if model.tokenizer is None else "preprocess"
            raise ValueError(f"The model has no {missing_name}. Pass LABCLIP(clip, alignment, {missing_name}=...).")
        self.tokenizer, self._preprocess = model.tokenizer, model.preprocess
        self.model = model
        self.batch_size = batch_size
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or min(available, 16)
        self.cut = TruncationCount()

    def images(self, sources: Iterable[ImageSource]) -> Generator[Encoded, None, None]:
        """Embed images in order. Threads decode a bounded number of images ahead of the model.

        Images of one Parquet file should come in the order of its rows. Close the iterator if you leave it early: until
        then the model stays in evaluation mode.

        Raises:
            OSError: If reading fails for a reason other than the image, for example too many open files.
            ValueError: If an embedding is not finite. The message names the image.
        """
        previous, features = list[Encoded](), None
        with evaluating(self.model), _decoding_pool(self.workers) as pool:
            # A batch is copied from the accelerator while it runs the next one. The empty batch flushes the last.
            for batch in chain(batched(self._decoded(sources, pool), self.batch_size), [[]]):
                next_features = self._run(batch)
                if features is not None:
                    images = [image for image in previous if not image.problem]
                    rows = _check_rows(features, [image.source for image in images])
                    for image, row in zip(images, rows, strict=True):
                        image.row = row
                yield from previous
                previous, features = batch, next_features

    def texts(self, blocks: Iterable[Captions]) -> Iterator[tuple[Captions, Embeddings]]:
        """Embed blocks of captions in order. Captions of a block that share a prefix share its work.

        Yields each block with its unit-length embeddings, float32 [len(block), dim], little-endian. If one is not
        finite, ValueError names its caption.
        """
        for captions in blocks:
            with torch.no_grad(), evaluating(self.model), counting_truncation(self.cut):
                features = self.model.encode_text(list(captions), normalize=False, aligned=False)
            yield captions, _check_rows(F.normalize(features.float(), dim=-1), captions)

    def _decoded(self, sources: Iterable[ImageSource], pool: ThreadPoolExecutor) -> Iterator[Encoded]:
        """The images in order, with their pixels or problems."""
        pending: deque[Future[Encoded]] = deque()
        for source, data in with_parquet_bytes(sources):  # in row order, so by this thread and not by the pool
            pending.append(pool.submit(self._decode, source, data))
            if len(pending) >= 2 * self.batch_size + self.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _decode(self, source: ImageSource, data: bytes | None) -> Encoded:
        image, step = Encoded(source), "read"
        try:
            data = source.read() if data is None else data
            image.digest = hashlib.sha256(data).digest()
            step = "decoded"
            decoded = source.decode(data)
            step = "preprocessed"
            image.pixels = self._preprocess(decoded)
        except (OSError, ValueError) as error:  # ValueError: for example a file name with a NUL character
            is_missing = isinstance(error, FileNotFoundError)  # from a bucket it has no errno
            if step == "read" and isinstance(error, OSError) and not is_missing and error.errno not in _FILE_ERRORS:
                raise
            image.problem = str(error) if step == "decoded" else reason(f"can't be {step}", error)
        return image

    @torch.no_grad()
    def _run(self, batch: Sequence[Encoded]) -> torch.Tensor | None:
        """Unit-length embeddings of the images with pixels, float32 [n, dim] on its device; None without any."""
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return None
        stacked, device = torch.stack(pixels), self.model.matrix.device
        for image in batch:
            image.pixels = None
        if device.type == "cuda":
            stacked = stacked.pin_memory()
        pixels_on_device = stacked.to(device, image_dtype(self.model.clip.visual), non_blocking=True)
        return F.normalize(self.model.encode_image(pixels_on_device, normalize=False).float(), dim=-1)


def _check_rows(features: torch.Tensor, items: Sequence[Any]) -> Embeddings:
    """Unit-length features as little-endian rows. ValueError names the item whose row is all zeros or not finite."""
    rows: Embeddings = features.cpu().numpy().astype("<f4", copy=False)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if len(bad_rows := np.flatnonzero(~(np.abs(lengths - 1) < 0.01))):
        raise ValueError(
            f"The embedding of '{items[bad_rows[0]]}' is all zeros or not finite. The model's weights are damaged, or "
            f'its precision is too low: try precision="fp32".'
        )
    return rows


def batched(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in order; the last may be shorter."""
    iterator = iter(stream)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _decoding_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of decoding threads. On leaving, tasks that have not started are cancelled."""
    threads = torch.get_num_threads()
    # One torch thread per worker, as in DataLoader: otherwise each worker starts one thread per processor.
    pool = ThreadPoolExecutor(workers, "labclip-decode", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # later threads would start with the workers' setting
