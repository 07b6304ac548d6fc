"""The paper's fully fine-tuned baseline (FT): the same loss, with both encoders unfrozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from labclip.checks import checked_integer
from labclip.model import LABCLIP


def finetune(
    model: LABCLIP, images: torch.Tensor, texts: Sequence[str], negatives: Sequence[str | None], *, epochs: int = 5,
    batch_size: int = 256, learning_rate: float = 1e-5, seed: int = 0, device: str | torch.device | None = None,
    progress: bool = True,
) -> nn.Module:  # fmt: skip
    """Train a copy of a model's base on hard negatives, for comparison with what one matrix does.

    Every embedding changes, so an index of images has to be built again, and a checkpoint is the whole model.

    Args:
        model: The base is taken from it, without its matrix; it is left as it was.
        images: Preprocessed, float [n, 3, height, width].
        texts: The caption of each, n of them.
        negatives: A wrong caption of each; None where there is none.
        epochs: Passes over the images.
        batch_size: Images a step; a last, smaller batch is left out.
        learning_rate: AdamW's learning rate at the start, with a cosine schedule and no weight decay.
        seed: Seed of the order.
        device: Where to train; the model's own by default.
        progress: Whether to show a bar on stderr.

    Returns:
        The fine-tuned OpenCLIP model, in evaluation mode.

    Raises:
        ValueError: If there are not as many captions and negatives as images, or fewer than two.

    Example:
        >>> import torch, labclip
        >>> model = labclip.LABCLIP.from_pretrained("scenes")
        >>> scenes = labclip.scenes.sample(8)
        >>> images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2) / 255
        >>> tuned = labclip.training.finetune(
        ...     model, images, scenes.captions, scenes.swapped_captions, epochs=1, batch_size=4
        ... )
        >>> type(tuned).__name__
        'CLIP'

    Source: arXiv:2502.03566, FT.
    """
    if not len(images) == len(texts) == len(negatives) >= 2:
        raise ValueError(
            f"There are {len(images)} images, {len(texts)} captions and {len(negatives)} negatives. Pass one of each, "
            f"two or more."
        )
    epochs, batch_size = checked_integer("epochs", epochs, least=1), checked_integer("batch_size", batch_size, least=2)
    if getattr(model.clip, "logit_bias", None) is not None:
        raise ValueError("The base is trained with a sigmoid loss (SigLIP); finetune has CLIP's alone.")
    if not images.is_floating_point() or model.tokenizer is None:
        raise ValueError(
            "Preprocessed images and a tokenizer are needed. Pass torch.stack([model.preprocess(image) for image in "
            "images]), and LABCLIP(..., tokenizer=open_clip.get_tokenizer(NAME))."
        )
    where = torch.device(device) if device else model.matrix.device
    clip: Any = copy.deepcopy(model.clip).to(where).train().requires_grad_()  # loaded models come frozen
    tokens = model.tokenizer(list(texts))
    others = [negative or text for negative, text in zip(negatives, texts, strict=True)]
    wrong = model.tokenizer(others)
    missing = torch.tensor([other == text for other, text in zip(others, texts, strict=True)])
    size = min(batch_size, len(images))
    steps = epochs * (len(images) // size)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=steps, desc="finetune", unit="batch", disable=not progress)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in torch.split(order[: len(images) // size * size], size):
            image = clip.encode_image(images[rows].to(where), normalize=True)
            text = clip.encode_text(torch.cat([tokens[rows], wrong[rows]]).to(where), normalize=True)
            logits = clip.logit_scale.exp() * image @ text.T
            absent = torch.cat([torch.zeros(size, dtype=torch.bool), missing[rows]]).to(where)
            target = torch.arange(size, device=where)
            loss = F.cross_entropy(logits.masked_fill(absent, -torch.inf), target)
            loss = (loss + F.cross_entropy(logits[:, :size].T, target)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.update()
    bar.close()
    return clip.eval()
