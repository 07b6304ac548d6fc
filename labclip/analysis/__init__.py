"""The paper's measures of embeddings with labels, and the diagnosis that combines them.

Benchmarks are in `labclip.evaluation`, fitting is in `labclip.training`.
"""

from labclip.analysis.diagnosis import diagnose
from labclip.analysis.probes import confusions, probe
from labclip.analysis.report import Diagnosis
from labclip.analysis.scenes import SceneLabels, folds_of, labels_of, shuffled_words
from labclip.analysis.space import modality_gap, permutation_similarity, spectrum

__all__ = [
    "Diagnosis", "SceneLabels", "confusions", "diagnose", "folds_of", "labels_of", "modality_gap",
    "permutation_similarity", "probe", "shuffled_words", "spectrum",
]  # fmt: skip
