"""`RayEncoder`: an `Encoder` that works on a Ray cluster, in the same batches and order as the local one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch

from labclip.data.images import ImageSource
from labclip.features.encoder import Captions, Embeddings, Encoded, Encoder, batched
from labclip.model import LABCLIP
from labclip.packages import connected_ray
from labclip.towers.text import TruncationCount

_BATCHES = 8  # image batches per task; within a task, a worker decodes ahead of the model
_AHEAD = 2  # tasks queued per worker, so that it need not wait for the next one


class RayEncoder(Encoder):
    """Encodes with Ray workers that each hold the model and take a GPU, or as many CPUs as torch has threads here.

    `workers` is the number of decoding threads of each: by default one per processor of its machine, at most 16.
    """

    def __init__(self, model: LABCLIP, *, batch_size: int = 64, workers: int | None = None) -> None:
        super().__init__(model, batch_size=batch_size, workers=workers)
        self._ray = connected_ray()
        self._options = {"batch_size": batch_size, "workers": workers}
        self._shared: Any = None

    def images(self, sources: Iterable[ImageSource]) -> Generator[Encoded, None, None]:
        """See `Encoder.images`. All machines must find the files under the same paths."""
        for task, outcomes in self._in_order("images", batched(sources, _BATCHES * self.batch_size)):
            yield from (Encoded(source, *outcome) for source, outcome in zip(task, outcomes, strict=True))

    def texts(self, blocks: Iterable[Captions]) -> Iterator[tuple[Captions, Embeddings]]:
        """See `Encoder.texts`."""
        for captions, (features, cut) in self._in_order("texts", blocks):
            cut.count, cut.total = self.cut.count + cut.count, self.cut.total + cut.total
            cut.example = self.cut.example or cut.example
            self.cut = cut
            yield captions, features

    def _in_order(self, method: str, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each task with a worker's result, in order. A bounded number of tasks run at a time."""
        from ray.util import ActorPool

        iterator = iter(tasks)
        if not (first := list(islice(iterator, 1))):
            return  # start no workers without a task
        workers, pending = self._start_workers(), list[Any]()
        pool = ActorPool(workers * _AHEAD)
        try:
            for task in chain(first, iterator):
                if not pool.has_free():
                    yield pending.pop(0), pool.get_next()
                pool.submit(lambda worker, task: getattr(worker, method).remote(task), task)
                pending.append(task)
            while pending:
                yield pending.pop(0), pool.get_next()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # the error that local encoding would raise
        finally:
            for worker in workers:  # a kept traceback would keep the workers and their memory alive
                self._ray.kill(worker)

    def _start_workers(self) -> list[Any]:
        """As many workers as the cluster has room for."""
        device, threads = self.model.matrix.device, torch.get_num_threads()
        on_gpu = device.type == "cuda"
        needed, resource = (1, "GPU") if on_gpu else (threads, "CPU")
        sizes = [int(node["Resources"].get(resource, 0)) for node in self._ray.nodes() if node["Alive"]]
        count = sum(size // needed for size in sizes)
        if not count:
            remedy = 'device="cpu"' if on_gpu else f"OMP_NUM_THREADS={max(sizes)}"
            raise ValueError(
                f"A worker needs {needed} {resource} like this process, but no machine of the Ray cluster has more "
                f"than {max(sizes)}. Set {remedy}."
            )
        try:
            self._shared = self._ray.put(self.model.cpu())  # on the worker, the GPU may have another number
        finally:
            self.model.to(device)
        needs = {"num_cpus": 1 if on_gpu else threads, "num_gpus": int(on_gpu)}
        worker = self._ray.remote(max_restarts=-1, max_task_retries=3, **needs)(_Worker)
        return [worker.remote([self._shared], device.type, threads, self._options) for _ in range(count)]


class _Worker:
    """The encoder in a process of the cluster."""

    def __init__(self, shared: Sequence[Any], device: str, threads: int, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(threads)  # another number of threads would round sums differently
        self._encoder = Encoder(connected_ray().get(shared[0]).to(device), **options)

    def images(self, sources: Sequence[ImageSource]) -> list[tuple[Embeddings | None, bytes, str]]:
        return [(image.row, image.digest, image.problem) for image in self._encoder.images(sources)]

    def texts(self, captions: Captions) -> tuple[Embeddings, TruncationCount]:
        self._encoder.cut = TruncationCount()
        ((_, features),) = self._encoder.texts([captions])
        return features, self._encoder.cut
