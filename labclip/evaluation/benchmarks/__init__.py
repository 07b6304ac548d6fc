"""The benchmarks: readers, a module each or one for those of a form, and what each is called and needs, as data."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from labclip.evaluation.sources import Benchmark
from labclip.files import read_json


def _benchmarks() -> dict[str, Benchmark]:
    """Those of benchmarks.json; `reader` is "module.function" in this package."""
    found = {}
    for entry in read_json(Path(__file__).with_name("benchmarks.json")):
        module, _, function = entry.pop("reader").partition(".")
        read = getattr(import_module(f"{__name__}.{module}"), function)
        found[entry["name"]] = Benchmark(**entry | {"read": read, "headline": tuple(entry["headline"])})
    return found


BENCHMARKS = _benchmarks()
