"""The paper's measurements on embeddings and labels, and the diagnosis made of them.

Benchmarks live in `labclip.evaluation`, fitting in `labclip.training`.
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
