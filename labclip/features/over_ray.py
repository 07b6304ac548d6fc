"""`RayEncoder`: an `Encoder` whose work is done on a Ray cluster, in the batches and the order of the local one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch

from labclip.data.images import ImageSource
from labclip.encode.encoder import Embeddings, Encoded, Encoder, batched
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
        self._ray, self._decoders = connected_ray(), workers
        self._shared: list[Any] = []

    def images(
        self, sources: Iterable[ImageSource], *, total: int | None = None, done: int = 0
    ) -> Generator[Encoded, None, None]:
        """See `Encoder.images`; all machines must see the files under these paths."""
        tasks = ((task, (task,)) for task in batched(iter(sources), _BATCHES * self.batch_size))
        with self.bar("images", total, done) as bar:
            for task, (found, error) in self._in_order("images", tasks):
                # The sources are here already.
                yield from (Encoded(source, *one) for source, one in zip(task, found, strict=False))
                bar.update(len(found))
                if error is not None:
                    raise error

    def blocks(self, blocks: Iterable[tuple[T, Mapping[str, str]]]) -> Iterator[tuple[T, Embeddings]]:
        """See `Encoder.blocks`."""
        tasks = ((key, (list(places), list(places.values()))) for key, places in blocks)
        for key, (features, cut, error) in self._in_order("texts", tasks):
            if error is not None:
                raise error
            self.cut = TruncationCount(self.cut.count + cut.count, self.cut.total + cut.total, cut.context,
                           self.cut.example or cut.example)  # fmt: skip
            yield key, features

    def _in_order(self, method: str, tasks: Iterable[tuple[T, tuple[Any, ...]]]) -> Iterator[tuple[T, Any]]:
        """Results of a worker's method in the order of the tasks, a bounded number of which are under way."""
        pool: list[Any] = []
        waiting: deque[tuple[T, Any]] = deque()
        failed = self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError

        def first() -> tuple[T, Any]:
            task, result = waiting.popleft()
            try:
                return task, self._ray.get(result)
            except failed as error:
                raise ValueError(
                    f"A Ray worker ended again and again ({str(error).splitlines()[0]}). What was embedded is kept. "
                    f"See that its machine has memory for the model and `batch_size` "
                    f"{self.batch_size}, and type the same call again."
                ) from error

        try:
            for number, (task, arguments) in enumerate(tasks):
                pool = pool or self._workers()
                if len(waiting) == _AHEAD * len(pool):
                    yield first()
                asked = getattr(pool[number % len(pool)], method)
                waiting.append((task, asked.remote(self._shared, *arguments)))
            while waiting:
                yield first()
        finally:
            for worker in pool:  # an error that somebody keeps would keep them, and what they hold
                self._ray.kill(worker)

    def _workers(self) -> list[Any]:
        """Workers, as many as the cluster has room for."""
        ray, device, threads = self._ray, self.model.matrix.device, torch.get_num_threads()
        on_gpu = device.type == "cuda"
        each, what = (1, "GPU") if on_gpu else (threads, "CPU")
        sizes = [int(node["Resources"].get(what, 0)) for node in ray.nodes() if node["Alive"]]
        count = sum(size // each for size in sizes)
        if not count:
            remedy = 'device="cpu"' if on_gpu else f"OMP_NUM_THREADS={max(sizes)}"
            raise ValueError(
                f"A worker needs {each} {what} as this process has, but no machine of the Ray cluster has more than "
                f"{max(sizes)}. Set {remedy}."
            )
        worker = ray.remote(
            num_cpus=1 if on_gpu else threads, num_gpus=int(on_gpu), max_restarts=-1, max_task_retries=3
        )(_Worker)
        try:
            self._shared = [ray.put(self.model.cpu())]  # its GPU may have another number there
        except TypeError as error:
            raise ValueError(
                f"The model can't be sent to Ray workers ({str(error).splitlines()[0]}). Its preprocess and its "
                f"tokenizer have to be such that pickle takes them."
            ) from error
        finally:
            self.model.to(device)
        options = {"batch_size": self.batch_size, "workers": self._decoders}
        return [worker.remote(device.type, threads, options) for _ in range(count)]


class _Worker:
    """What a process of the cluster does. Errors are given back: those before them count, and Ray would rename them."""

    def __init__(self, device: str, threads: int, options: Mapping[str, Any]) -> None:
        torch.set_num_threads(threads)  # a sum that is split otherwise rounds otherwise
        self._device, self._options = device, options

    @cache  # noqa: B019 (a process has one)
    def _encoder(self, shared: Any) -> Encoder:
        """The model comes with each task, since Ray does not promise a constructor's arguments to one that restarts."""
        return Encoder(connected_ray().get(shared).to(self._device), progress=False, **self._options)

    def images(
        self, shared: Sequence[Any], sources: Sequence[ImageSource]
    ) -> tuple[list[tuple[Any, bytes, str]], Exception | None]:
        found: list[tuple[Any, bytes, str]] = []
        try:
            for one in self._encoder(shared[0]).images(sources):
                found.append((one.row, one.digest, one.problem))
        except (OSError, ValueError) as error:
            return found, error
        return found, None

    def texts(
        self, shared: Sequence[Any], captions: Sequence[str], places: Sequence[str]
    ) -> tuple[Embeddings | None, TruncationCount, Exception | None]:
        encoder = self._encoder(shared[0])
        encoder.cut = TruncationCount()
        try:
            return encoder.texts(captions, places), encoder.cut, None
        except ValueError as error:
            return None, encoder.cut, error
