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
    """Train a copy of a model's base on hard negatives, to compare it with one matrix.

    All embeddings change. So image indexes have to be built again, and a checkpoint is a whole model.

    Args:
        model: The model whose base is copied, without its matrix. The model itself does not change.
        images: Preprocessed images, float [n, 3, height, width].
        texts: The caption of each image, n of them.
        negatives: The hard negative of each caption, n of them; None if it has none.
        epochs: Passes over the images.
        batch_size: Images per step; the smaller batch at the end of an epoch is dropped.
        learning_rate: AdamW's learning rate at the start, with a cosine schedule and no weight decay.
        seed: Seed of the order.
        device: Where to train; by default the model's device.
        progress: Whether to show a bar on stderr.

    Returns:
        The fine-tuned OpenCLIP model, in evaluation mode.

    Raises:
        ValueError: If the numbers of images, captions and negatives differ or are below two.

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
            f"There are {len(images)} images, {len(texts)} captions and {len(negatives)} negatives. Pass the same "
            f"number of each, at least two."
        )
    epochs, batch_size = checked_integer("epochs", epochs, least=1), checked_integer("batch_size", batch_size, least=2)
    if getattr(model.clip, "logit_bias", None) is not None:
        raise ValueError(
            "The base was trained with a sigmoid loss (SigLIP), but finetune has only CLIP's softmax loss."
        )
    if not images.is_floating_point() or model.tokenizer is None:
        raise ValueError(
            "finetune needs preprocessed images and a tokenizer. Pass torch.stack([model.preprocess(image) for image "
            "in images]), and LABCLIP(..., tokenizer=open_clip.get_tokenizer(NAME))."
        )
    device = torch.device(device or model.matrix.device)
    clip: Any = copy.deepcopy(model.clip).to(device).train().requires_grad_()  # loaded models come frozen
    tokens = model.tokenizer(list(texts))
    negative_texts = [negative or text for negative, text in zip(negatives, texts, strict=True)]
    negative_tokens = model.tokenizer(negative_texts)
    absent = torch.tensor([negative == text for negative, text in zip(negative_texts, texts, strict=True)])
    size = min(batch_size, len(images))
    steps = epochs * (len(images) // size)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=steps, desc="finetune", unit="batch", disable=not progress)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in torch.split(order[: len(images) // size * size], size):
            image = clip.encode_image(images[rows].to(device), normalize=True)
            text = clip.encode_text(torch.cat([tokens[rows], negative_tokens[rows]]).to(device), normalize=True)
            logits = clip.logit_scale.exp() * image @ text.T
            mask = torch.cat([torch.zeros(size, dtype=torch.bool), absent[rows]]).to(device)
            target = torch.arange(size, device=device)
            loss = F.cross_entropy(logits.masked_fill(mask, -torch.inf), target)
            loss = (loss + F.cross_entropy(logits[:, :size].T, target)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.update()
    bar.close()
    return clip.eval()
