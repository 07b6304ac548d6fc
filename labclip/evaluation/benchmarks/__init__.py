"""The benchmarks, one small module each, and the table of them. Reading lives here; encoding and metrics do not."""

from labclip.evaluation.benchmarks import sugarcrepe
from labclip.evaluation.sources import Benchmark

_MODULES = (sugarcrepe,)
BENCHMARKS: dict[str, Benchmark] = {module.BENCHMARK.name: module.BENCHMARK for module in _MODULES}
