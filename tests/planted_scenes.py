"""Scenes whose embeddings are written down: who has which attribute stands where a test wants it to stand."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from labclip.analysis.scenes import SceneFeatures, labels_of

ATTRIBUTES = ("red", "green", "blue", "white", "black", "pink")
OBJECTS = ("ball", "cone", "cube", "ring", "star")
CODE = 12


def contents(repeat=5, attributes=ATTRIBUTES, objects=OBJECTS):
    """Every scene of two different objects, `repeat` times."""
    return [
        ((a, o), (b, p))
        for a, b in itertools.permutations(attributes, 2)
        for o, p in itertools.combinations(objects, 2)
    ] * repeat


def embedded(scenes, *, image=True, text=True, shared=False, noise=0.05, seed=0, name="embeddings"):
    """Embeddings of a bag of words and, where a side binds, of a random code of each attribute with its object.

    Args:
        scenes: Per scene its objects.
        image: Whether images bind.
        text: Whether captions bind.
        shared: Whether both sides hold the code in the same dimensions, so that cosine sees it.
    """
    labels = labels_of(scenes)
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(len(labels.attributes), len(labels.objects), CODE))

    def side(contents, binds, place):
        bag = np.zeros((len(scenes), len(labels.attributes) + len(labels.objects)))
        bound = np.zeros((len(scenes), 2 * CODE))
        for row, scene in enumerate(contents):
            for attribute, name in scene:
                a, o = labels.attributes.index(attribute), labels.objects.index(name)
                bag[row, a] += 1
                bag[row, len(labels.attributes) + o] += 1
                bound[row, place * CODE : (place + 1) * CODE] += binds * code[a, o] / CODE**0.5
        rows = np.concatenate([bag, bound], axis=1)
        return F.normalize(torch.from_numpy(rows + noise * rng.normal(size=rows.shape)).float(), dim=-1)

    swapped = [((b, o), (a, p)) for (a, o), (b, p) in scenes]
    place = 0 if shared else 1
    everywhere = np.ones(len(scenes), dtype=bool)
    captions, images = side(scenes, text, place), side(scenes, image, 0)
    texts = {"captions": captions, "swapped": side(swapped, text, place), "shuffled": side(scenes, text, place)}
    texts["tags"] = side(scenes, False, place)
    return SceneFeatures(labels, images, texts, {"swapped": everywhere, "shuffled": everywhere}, name)
