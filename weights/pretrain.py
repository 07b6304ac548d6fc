"""A CLIP small enough to train on two CPU cores in minutes, whose cosine is nearly a bag of words.

Images are paired with *tags*, which name colours and shapes without saying which goes with which, and, rarely, with a
sentence; so the joint space hardly binds. A second, text-only loss between two wordings of one scene, with its
colour-swapped sentences as negatives, makes the text tower read binding; it never sees an image.
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
MEAN, STD = 0.55, 0.25  # of the images, all channels alike
PREPROCESS_CFG = {
    "size": 64,
    "mode": "RGB",
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True)
class Pretraining:
    """Settings of one run.

    Attributes:
        scenes: Images rendered, of all colour-shape pairs.
        three_share: Share of the scenes that show three objects, the others show two; also of each batch and of the
            texts of the text-only loss.
        steps: Optimiser steps; the text tower reads binding from some 150 on.
        batch_size: Images a step.
        sentence_share: Probability that an image comes with a sentence instead of tags. It sets how far the base
            is from chance: at 0 its cosine does not bind at all, at 0.12 nearly always.
        learning_rate: Peak, after `warmup` steps, falling to a hundredth along a cosine.
        warmup: Steps.
        weight_decay: On matrices only.
        wording_scale: Fixed inverse temperature of the text-only loss.
        seed: Of the scenes, the initial weights and the order.
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
    """The few tokens the captions use, numbered from 0: the vocabulary trained, a slice of OpenAI's."""

    def __init__(self) -> None:
        templates = [*captions.SENTENCES.values(), *captions.TAGS.values()]
        texts = [*itertools.chain(*templates), *COLOURS, *SHAPES, "a", "an"]
        words = sorted({word for text in texts for word in text.split() if "{" not in word})
        tokenize = open_clip.SimpleTokenizer(context_length=4)
        ids = {word: tokenize(word)[0].tolist() for word in words}
        assert all(row[3] == 0 for row in ids.values()), "every word is one token"
        start, end = ids["red"][0], ids["red"][2]
        self.ids = sorted({0, start, end, *(row[1] for row in ids.values())})  # the end token stays the largest
        place = {token: i for i, token in enumerate(self.ids)}
        self._words = {word: place[row[1]] for word, row in ids.items()}
        self._start, self._end = place[start], place[end]

    def __call__(self, texts: list[str]) -> Tensor:
        """Token numbers padded with 0 to the longest text: int64 [n, length]."""
        rows = [[self._start, *(self._words[word] for word in text.split()), self._end] for text in texts]
        length = max(map(len, rows))
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def pretrain(settings: Pretraining, *parts: tuple[NDArray[np.uint8], Layout]) -> tuple[open_clip.CLIP, Vocabulary]:
    """Train the small CLIP from scratch: about half a second a step on two cores.

    Args:
        settings: See `Pretraining`.
        parts: Images and layout of the scenes of two objects, and of those of three, as `pretraining_scenes` draws
            them; a batch takes its share of each.

    Returns:
        The model in evaluation mode, with the small vocabulary, and that vocabulary.
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
    target = torch.arange(settings.batch_size)
    three = 2 * round(settings.three_share * settings.batch_size / 2)  # even: half as many scenes give wordings
    sizes = (settings.batch_size - three, three)[: len(parts)]
    started = time.perf_counter()
    model.train()
    for step in range(settings.steps):
        drawn, scene_texts, first, second = [], [], [], []
        for (images, layout), size in zip(parts, sizes, strict=True):
            rows = rng.integers(len(images), size=size)
            drawn.append(images[rows])
            scene_texts += _scene_texts(rng, layout.colours[rows], layout.shapes[rows], settings.sentence_share)
            rows = rng.integers(len(images), size=size // 2)
            one, other = _wordings(rng, layout.colours[rows], layout.shapes[rows])
            first, second = first + one, second + other

        image = F.normalize(model.encode_image(to_input(np.concatenate(drawn))), dim=-1)  # [batch, dim]
        text = F.normalize(_encode_text(model, vocabulary(scene_texts + first + second)), dim=-1)
        text, one, other = text.chunk(3)  # [batch, dim] each
        logits = model.logit_scale.exp() * image @ text.T
        image_loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        wording_logits = settings.wording_scale * one @ other.T
        wording = (F.cross_entropy(wording_logits, target) + F.cross_entropy(wording_logits.T, target)) / 2

        optimizer.zero_grad(set_to_none=True)
        (image_loss + wording).backward()
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(0, math.log(100.0))
        if (step + 1) % 50 == 0:
            log.info(
                "step %4d of %d   image-text loss %.3f   text-text loss %.3f   %.0f s",
                *(step + 1, settings.steps, image_loss.item(), wording.item(), time.perf_counter() - started),
            )
    return model.eval(), vocabulary


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Images as the model's preprocessing gives them: uint8 [n, 64, 64, 3] to float32 [n, 3, 64, 64]."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def save_clip(model: open_clip.CLIP, vocabulary: Vocabulary, folder: Path) -> None:
    """Write an ordinary OpenCLIP folder: float16, all 49,408 tokens, those never trained at zero."""
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
    """Learning rate as a share of its peak."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def _scene_texts(
    rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64], sentence_share: float
) -> list[str]:
    """Tags for each image, or, rarely, a sentence."""
    tags = captions.tags(rng, colours, shapes)
    sentences, _ = captions.sentences(rng, colours, shapes, colours)
    binds = rng.random(len(tags)) < sentence_share
    return [sentence if bound else tag for bound, sentence, tag in zip(binds, sentences, tags, strict=True)]


def _wordings(
    rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]
) -> tuple[list[str], list[str]]:
    """Two wordings each of some scenes, and the same with the colours swapped: two lists of 2 n texts in one order."""
    objects = colours.shape[1]
    templates = captions.draw_templates(rng, len(colours), 2, objects)
    swapped = colours[:, ::-1] if objects == 2 else swap(rng, colours)
    first, second = (captions.sentences(rng, colours, shapes, swapped, templates[:, i]) for i in range(2))
    return first[0] + first[1], second[0] + second[1]


def _encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """`model.encode_text` on no more positions than there are; under a causal mask the result is the same."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


def pretraining_scenes(settings: Pretraining) -> list[tuple[NDArray[np.uint8], Layout]]:
    """Draw and render the scenes a run learns from: of two objects, and where there is a share of them of three."""
    three = round(settings.three_share * settings.scenes)
    parts = []
    for objects, count in ((2, settings.scenes - three), (3, three)):
        if count:
            layout, _ = draw_scenes(count, seed=1_000_000 + settings.seed, split="all", n_objects=objects)
            parts.append((render_all(layout), layout))
    return parts
