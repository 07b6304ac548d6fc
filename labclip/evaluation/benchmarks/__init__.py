"""The benchmarks: readers, a module each or one for those of a form, and what each is called and needs, as data."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from labclip.evaluation.benchmarks.forms import Form
from labclip.evaluation.sources import Benchmark
from labclip.files import known_benchmarks


def _benchmarks() -> dict[str, Benchmark]:
    """The benchmarks of benchmarks.json, by name.

    `reader` is "module.function" in this package. One that reads several benchmarks takes the `form` of each, where the
    files have what, or the `forms` of its parts; a form that is a name is that benchmark's, and `metrics` says what is
    measured.
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
