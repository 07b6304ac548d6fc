"""What the paper's figures show, measured on embeddings and labels, and the diagnosis made of it.

Benchmarks live in `labclip.evaluation`, fitting in `labclip.training`.
"""

from labclip.analysis.concepts import complexity
from labclip.analysis.confusion import confusions
from labclip.analysis.decomposition import decompose, object_vectors
from labclip.analysis.diagnosis import diagnose
from labclip.analysis.gap import modality_gap
from labclip.analysis.permutations import permutation_similarity, shuffled_words
from labclip.analysis.probes import probe
from labclip.analysis.report import Diagnosis
from labclip.analysis.scene_labels import SceneLabels, folds_of, labels_of
from labclip.analysis.spectrum import spectrum

__all__ = [
    "Diagnosis",
    "SceneLabels",
    "complexity",
    "confusions",
    "decompose",
    "diagnose",
    "folds_of",
    "labels_of",
    "modality_gap",
    "object_vectors",
    "permutation_similarity",
    "probe",
    "shuffled_words",
    "spectrum",
]
