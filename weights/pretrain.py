"""A CLIP small enough to train on two CPU cores in minutes, whose cosine is nearly a bag of words.

Images are paired with *tags*, which name colours and shapes without saying which goes with which, and rarely with a
sentence. So image and text embeddings hardly agree on binding. A second loss, without images, compares two wordings of
one scene, with its colour-swapped sentences as negatives. It makes the text tower encode binding.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from labclip.scenes import captions
from labclip.scenes.renderer import Layout, render
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import draw_scenes, swap

log = logging.getLogger(__name__)

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
MEAN, STD = 0.55, 0.25  # of the images, the same for all channels
PREPROCESS_CFG = {
    "size": 64, "mode": "RGB", "mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic",
    "resize_mode": "shortest",
}  # fmt: skip


@dataclass(frozen=True)
class Pretraining:
    """Settings of one run.

    Attributes:
        scenes: Number of images, of all colour-shape pairs.
        three_share: Fraction of scenes with three objects; the others have two. The same fraction of each batch, and of
            the texts of the text-only loss.
        steps: Optimiser steps. The text tower encodes binding after about 150.
        batch_size: Images per step.
        sentence_share: Probability that an image comes with a sentence instead of tags. It sets how far binding of the
            base is from chance: at 0 it is chance, at 0.12 the cosine nearly always binds.
        learning_rate: Peak, reached after `warmup` steps; then it falls to a hundredth along a cosine.
        warmup: Steps.
        weight_decay: On matrices only.
        wording_scale: Fixed inverse temperature of the text-only loss.
        seed: Seed of the scenes, the initial weights and the order.
    """

    scenes: int = 60_000
    three_share: float = 0.0
    steps: int = 450
    batch_size: int = 256
    sentence_share: float = 0.035
    learning_rate: float = 1e-3
    warmup: int = 40
    weight_decay: float = 0.05
    wording_scale: float = 12.0
    seed: int = 0


def render_all(layout: Layout, workers: int = 2) -> NDArray[np.uint8]:
    """Draw all scenes of a layout at 64 pixels, in several processes: uint8 [n, 64, 64, 3]."""
    parts = [layout[start : start + 2048] for start in range(0, len(layout), 2048)]
    with ProcessPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(render, parts)))


class Vocabulary:
    """The few tokens that captions use, numbered from 0: the part of OpenAI's vocabulary that is trained."""

    def __init__(self) -> None:
        templates = [*captions.SENTENCES.values(), *captions.TAGS.values()]
        texts = [*itertools.chain(*templates), *COLOURS, *SHAPES, "a", "an"]
        words = sorted({word for text in texts for word in text.split() if "{" not in word})
        tokenize = open_clip.SimpleTokenizer(context_length=4)
        ids = {word: tokenize(word)[0].tolist() for word in words}
        assert all(row[3] == 0 for row in ids.values()), "every word is one token"
        start, end = ids["red"][0], ids["red"][2]
        self.ids = sorted({0, start, end, *(row[1] for row in ids.values())})  # the end token stays the largest
        index = {token: i for i, token in enumerate(self.ids)}
        self._words = {word: index[row[1]] for word, row in ids.items()}
        self._start, self._end = index[start], index[end]

    def __call__(self, texts: list[str]) -> Tensor:
        """Token indices, padded with 0 to the longest text: int64 [n, length]."""
        rows = [[self._start, *(self._words[word] for word in text.split()), self._end] for text in texts]
        length = max(map(len, rows))
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def pretrain(settings: Pretraining, *groups: tuple[NDArray[np.uint8], Layout]) -> tuple[open_clip.CLIP, Vocabulary]:
    """Train the small CLIP from scratch: about half a second a step on two cores.

    Args:
        settings: See `Pretraining`.
        groups: Images and layout of scenes of two objects, then of three if there are any, as `pretraining_scenes`
            draws them. A batch takes its fraction of each.

    Returns:
        The model in evaluation mode, and its small vocabulary.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng([settings.seed, 0x7EA1])
    vocabulary = Vocabulary()
    text_cfg = MODEL_CFG["text_cfg"] | {"vocab_size": len(vocabulary.ids)}
    model = open_clip.CLIP(MODEL_CFG["embed_dim"], dict(MODEL_CFG["vision_cfg"]), text_cfg)
    model.logit_scale.data.fill_(math.log(20.0))
    model.visual.to(memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, settings))
    three = 2 * round(settings.three_share * settings.batch_size / 2)  # even, as half as many scenes give wordings
    sizes = (settings.batch_size - three, three)[: len(groups)]
    started = time.perf_counter()
    model.train()
    for step in range(settings.steps):
        batch, scene_texts, first_wordings, second_wordings = [], [], [], []
        for (images, layout), size in zip(groups, sizes, strict=True):
            rows = rng.integers(len(images), size=size)
            batch.append(images[rows])
            scene_texts += _scene_texts(rng, layout.colours[rows], layout.shapes[rows], settings.sentence_share)
            rows = rng.integers(len(images), size=size // 2)
            wordings = _wordings(rng, layout.colours[rows], layout.shapes[rows])
            first_wordings, second_wordings = first_wordings + wordings[0], second_wordings + wordings[1]

        image = F.normalize(model.encode_image(to_input(np.concatenate(batch))), dim=-1)  # [batch, dim]
        text = F.normalize(_encode_text(model, vocabulary(scene_texts + first_wordings + second_wordings)), dim=-1)
        text, first, second = text.chunk(3)  # [batch, dim] each
        image_loss = _contrastive_loss(model.logit_scale.exp() * image @ text.T)
        wording_loss = _contrastive_loss(settings.wording_scale * first @ second.T)

        optimizer.zero_grad(set_to_none=True)
        (image_loss + wording_loss).backward()
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(0, math.log(100.0))
        if (step + 1) % 50 == 0:
            log.info(
                "step %4d of %d   image-text loss %.3f   text-text loss %.3f   %.0f s",
                *(step + 1, settings.steps, image_loss.item(), wording_loss.item(), time.perf_counter() - started),
            )
    return model.eval(), vocabulary


def _contrastive_loss(logits: Tensor) -> Tensor:
    """CLIP's symmetric loss of logits [n, n] whose diagonal is right."""
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Images as the model's preprocessing gives them: uint8 [n, 64, 64, 3] to float32 [n, 3, 64, 64]."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def save_clip(model: open_clip.CLIP, vocabulary: Vocabulary, folder: Path) -> None:
    """Write an ordinary OpenCLIP folder: float16, all 49,408 tokens, with zeros for those that were not trained."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    table = torch.zeros(MODEL_CFG["text_cfg"]["vocab_size"], MODEL_CFG["text_cfg"]["width"])
    table[vocabulary.ids] = state["token_embedding.weight"]
    state["token_embedding.weight"] = table
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _factor(step: int, settings: Pretraining) -> float:
    """Learning rate as a fraction of its peak."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def _scene_texts(
    rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64], sentence_share: float
) -> list[str]:
    """A text for each image: tags, or rarely a sentence."""
    tags = captions.tags(rng, colours, shapes)
    sentences, _ = captions.sentences(rng, colours, shapes, colours)
    return np.where(rng.random(len(tags)) < sentence_share, sentences, tags).tolist()


def draw_templates(rng: np.random.Generator, n: int, k: int, n_objects: int) -> NDArray[np.int64]:
    """Draw `k` different sentence templates for each of `n` scenes: indices into `SENTENCES[n_objects]`, [n, k]."""
    return np.argsort(rng.random((n, len(captions.SENTENCES[n_objects]))), axis=1)[:, :k]


def _wordings(
    rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]
) -> tuple[list[str], list[str]]:
    """Two wordings of n scenes and of the same with the colours swapped: two lists of 2 n texts in the same order."""
    objects = colours.shape[1]
    templates = draw_templates(rng, len(colours), 2, objects)
    swapped = colours[:, ::-1] if objects == 2 else swap(rng, colours)
    first, second = (captions.sentences(rng, colours, shapes, swapped, templates[:, i]) for i in range(2))
    return first[0] + first[1], second[0] + second[1]


def _encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """`model.encode_text` without the padding after the longest text, which the causal mask hides anyway."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


def pretraining_scenes(settings: Pretraining) -> list[tuple[NDArray[np.uint8], Layout]]:
    """Draw and render the scenes of a run: of two objects, and of three if `three_share` is above 0."""
    three = round(settings.three_share * settings.scenes)
    groups = []
    for objects, count in ((2, settings.scenes - three), (3, three)):
        if count:
            layout, _ = draw_scenes(count, seed=1_000_000 + settings.seed, split="all", n_objects=objects)
            groups.append((render_all(layout), layout))
    return groups
