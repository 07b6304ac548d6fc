"""The benchmarks: a reader for each or for several with the same form of files, and a JSON file that describes them."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from labclip.evaluation.benchmarks.forms import Form
from labclip.evaluation.sources import Benchmark
from labclip.files import known_benchmarks


def _benchmarks() -> dict[str, Benchmark]:
    """The benchmarks in benchmarks.json, by name.

    `reader` is "module.function" in this package. Readers of several benchmarks take the `form` of the files, or the
    `forms` of their parts; a form that is a string is that of the benchmark with this name. `metrics` replaces the
    reader's docstring.
    """
    entries = known_benchmarks()
    forms = {name: entry.pop("form", None) for name, entry in entries.items()}
    benchmarks = {}
    for name, entry in entries.items():
        module, _, function = entry.pop("reader").partition(".")
        read, form = getattr(import_module(f"{__name__}.{module}"), function), forms[name]
        if form is not None:
            read = partial(read, Form(**(forms[form] if isinstance(form, str) else form)))
        elif parts := entry.pop("forms", None):
            read = partial(read, {part: Form(**fields) for part, fields in parts.items()})
        if "metrics" in entry:
            read.__doc__ = entry.pop("metrics")
        benchmarks[name] = Benchmark(**entry | {"read": read, "headline": tuple(entry["headline"])})
    return benchmarks


BENCHMARKS = _benchmarks()
