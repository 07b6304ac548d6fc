"""`RayEncoder`: an `Encoder` whose work is done on a Ray cluster, in the batches and the order of the local one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from labclip.data.images import ImageSource
from labclip.features.encoder import Embeddings, Encoded, Encoder, batched
from labclip.model import LABCLIP
from labclip.packages import connected_ray
from labclip.towers.text import TruncationCount

T = TypeVar("T")
_BATCHES = 8  # of images in one task: within it a worker decodes ahead of the model
_AHEAD = 2  # tasks that a worker has: it need not wait for the next one


class RayEncoder(Encoder):
    """Encodes with workers that hold the model, one a GPU where the model is on one, else one for torch's threads here.

    `workers` are the decoding threads of each, by default one a processor of its machine, at most 16.
    """

    def __init__(self, model: LABCLIP, *, workers: int | None = None, **options: Any) -> None:
        super().__init__(model, workers=workers, **options)
        self._ray = connected_ray()
        self._options = {"batch_size": self.batch_size, "workers": workers, "progress": False}
        self._shared: Any = None

    def images(
        self, sources: Iterable[ImageSource], *, total: int | None = None, done: int = 0
    ) -> Generator[Encoded, None, None]:
        """See `Encoder.images`; all machines must see the files under these paths."""
        tasks = ((task, (task,)) for task in batched(sources, _BATCHES * self.batch_size))
        with self.bar("images", total, done) as bar:
            for task, found in self._in_order("images", tasks):
                yield from (Encoded(source, *one) for source, one in zip(task, found, strict=True))  # these are here
                bar.update(len(found))

    def blocks(self, blocks: Iterable[tuple[T, Mapping[str, str]]]) -> Iterator[tuple[T, Embeddings]]:
        """See `Encoder.blocks`."""
        tasks = ((key, (list(captions), list(captions.values()))) for key, captions in blocks)
        for key, (features, cut) in self._in_order("texts", tasks):
            cut.count, cut.total = self.cut.count + cut.count, self.cut.total + cut.total
            cut.example = self.cut.example or cut.example
            self.cut = cut
            yield key, features

    def _in_order(self, method: str, tasks: Iterable[tuple[T, tuple[Any, ...]]]) -> Iterator[tuple[T, Any]]:
        """Results of a worker's method in the order of the tasks, a bounded number of which are under way."""
        workers: list[Any] = []
        waiting: deque[tuple[T, Any]] = deque()
        try:
            for number, (task, arguments) in enumerate(tasks):
                workers = workers or self._workers()
                if len(waiting) == _AHEAD * len(workers):
                    yield self._result(*waiting.popleft())
                worker = workers[number % len(workers)]
                waiting.append((task, getattr(worker, method).remote(*arguments)))
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            for worker in workers:  # an error that somebody keeps would keep them, and what they hold
                self._ray.kill(worker)

    def _result(self, task: T, result: Any) -> tuple[T, Any]:
        try:
            return task, self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None  # as it would be raised here

    def _workers(self) -> list[Any]:
        """Workers, as many as the cluster has room for."""
        device, threads = self.model.matrix.device, torch.get_num_threads()
        on_gpu = device.type == "cuda"
        each, what = (1, "GPU") if on_gpu else (threads, "CPU")
        sizes = [int(node["Resources"].get(what, 0)) for node in self._ray.nodes() if node["Alive"]]
        count = sum(size // each for size in sizes)
        if not count:
            remedy = 'device="cpu"' if on_gpu else f"OMP_NUM_THREADS={max(sizes)}"
            raise ValueError(
                f"A worker needs {each} {what} as this process has, but no machine of the Ray cluster has more than "
                f"{max(sizes)}. Set {remedy}."
            )
        try:
            self._shared = self._ray.put(self.model.cpu())  # its GPU may have another number there
        finally:
            self.model.to(device)
        needs = {"num_cpus": 1 if on_gpu else threads, "num_gpus": int(on_gpu)}
        worker = self._ray.remote(max_restarts=-1, max_task_retries=3, **needs)(_Worker)
        return [worker.remote([self._shared], device.type, threads, self._options) for _ in range(count)]


class _Worker:
    """What a process of the cluster does."""

    def __init__(self, shared: Sequence[Any], device: str, threads: int, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(threads)  # a sum that is split otherwise rounds otherwise
        self._encoder = Encoder(connected_ray().get(shared[0]).to(device), **options)

    def images(self, sources: Sequence[ImageSource]) -> list[tuple[Embeddings | None, bytes, str]]:
        return [(one.row, one.digest, one.problem) for one in self._encoder.images(sources)]

    def texts(self, captions: Sequence[str], locations: Sequence[str]) -> tuple[Embeddings, TruncationCount]:
        self._encoder.cut = TruncationCount()
        return self._encoder.texts(captions, locations), self._encoder.cut
