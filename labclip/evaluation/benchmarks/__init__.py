"""The benchmarks, one small module each, and the table of them. Reading lives here; encoding and metrics do not."""

from labclip.evaluation.benchmarks import (
    aro,
    bivlc,
    cola,
    eqben,
    features,
    karpathy,
    mmvp,
    naturalbench,
    negation,
    order,
    scenes,
    sugarcrepe,
    sugarcrepe_pp,
    synthetic,
    tables,
    valse,
    vl_checklist,
    whatsup,
    winoground,
    zero_shot,
)
from labclip.evaluation.sources import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        scenes.BENCHMARK,
        synthetic.CLEVR,
        synthetic.SPAR,
        synthetic.SPARE,
        sugarcrepe.BENCHMARK,
        sugarcrepe_pp.BENCHMARK,
        aro.VG_A,
        aro.VG_R,
        order.COCO,
        order.FLICKR30K,
        valse.BENCHMARK,
        vl_checklist.BENCHMARK,
        winoground.WINOGROUND,
        winoground.COLORSWAP,
        bivlc.BENCHMARK,
        cola.BENCHMARK,
        eqben.BENCHMARK,
        mmvp.BENCHMARK,
        naturalbench.BENCHMARK,
        whatsup.BENCHMARK,
        negation.BENCHMARK,
        tables.COCO,
        karpathy.COCO,
        karpathy.FLICKR30K,
        zero_shot.BENCHMARK,
        tables.OWN,
        features.BENCHMARK,
    )
}
