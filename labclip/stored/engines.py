"""How shards are shared out: an engine aligns each of them and gives its outcome, in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from labclip.packages import connected_ray
from labclip.stored.output import UnwritableError
from labclip.stored.places import Shard
from labclip.stored.shards import Work

Outcome = tuple[Shard, dict[str, Any] | str]
"""A shard with its record, or with what is wrong with it."""

Engine = Callable[[Work, Sequence[Shard], Callable[[int], Any]], Iterable[Outcome]]
"""What aligns shards; the last argument is told of bytes that are done.

UnwritableError if a target can't be written, which ends the run.
"""


def in_turn(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards one after the other in this process, whose threads each product uses."""
    for shard in shards:
        try:
            yield shard, work(shard, seen)
        except ValueError as error:
            yield shard, str(error)


def over_ray(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards with Ray Data, a task for each, on the cluster of RAY_ADDRESS or else on this machine."""
    connected_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    def align(row: dict[str, Any]) -> dict[str, Any]:
        item, shard, done = row.pop("item"), Shard(**row), 0

        def count(size: int) -> None:
            nonlocal done
            done += size

        found: dict[str, Any] = {"record": None, "problem": None, "unwritable": None}
        try:
            found["record"] = json.dumps(work(shard, count))
        except UnwritableError as error:
            found["unwritable"] = str(error)
        except ValueError as error:
            found["problem"] = str(error)
        return {"item": item, "bytes": done, **found}

    if not shards:
        return
    rows = [{"item": number, **vars(shard)} for number, shard in enumerate(shards)]
    for row in data.from_items(rows, override_num_blocks=len(rows)).map(align).iter_rows():
        if row["unwritable"]:
            raise UnwritableError(row["unwritable"])
        seen(row["bytes"])
        yield shards[row["item"]], row["problem"] or json.loads(row["record"])


ENGINES: dict[str, Engine] = {"local": in_turn, "ray": over_ray}
"""Engines by their names; the first is the default."""
