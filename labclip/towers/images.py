"""From PIL images to the input of an image tower."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from labclip.checks import describe
from labclip.towers.pixels import eight_bits, upright

Preprocess = Callable[[Any], torch.Tensor]
"""One PIL image -> float tensor [3, height, width]."""


def as_shown(preprocess: Any) -> Any:
    """Add a first step to OpenCLIP's image transform, a `Compose`: turn images as their EXIF orientation says.

    As a step of the transform it is part of the cache key, so embeddings of images turned and not turned stay apart.
    """
    return type(preprocess)([upright, *preprocess.transforms])


def as_stored(preprocess: Preprocess) -> Preprocess:
    """Remove the step that turns images by their EXIF orientation: the result is exactly OpenCLIP's transform."""
    compose: Any = type(preprocess)
    transforms = getattr(preprocess, "transforms", None)
    return compose([transform for transform in transforms if transform is not upright]) if transforms else preprocess


def as_batch(image: Any, preprocess: Preprocess | None, *, tower: nn.Module, device: torch.device) -> Any:
    """PIL images -> a batch [n, 3, height, width] with the tower's dtype; tensors and dicts are returned unchanged."""
    if isinstance(image, Mapping):
        return image
    is_batch = isinstance(image, torch.Tensor) and image.is_floating_point() and image.ndim == 4
    if is_batch and (image.shape[-1] != 3 or image.shape[1] == 3):  # a last axis of 3 alone means channels last
        return image
    images = list(image) if isinstance(image, list | tuple) else [image]
    if not images or not all(isinstance(image, Image) for image in images):
        raise ValueError(
            f"image is {describe(image)}. Pass a PIL image, PIL.Image.open(FILE), or a list of them, or a float "
            f"tensor [n, 3, height, width], torch.stack([model.preprocess(image) for image in images])."
        )
    if preprocess is None:
        raise ValueError(
            "This LABCLIP has no preprocess for PIL images. Pass LABCLIP(clip, alignment, preprocess=...) with the "
            "third value of open_clip.create_model_and_transforms, or preprocessed tensors."
        )
    try:
        images = [eight_bits(image) for image in images]
    except ValueError as error:
        raise ValueError(f"An image {error}.") from error
    return torch.stack([preprocess(image) for image in images]).to(device, image_dtype(tower))


def image_dtype(tower: nn.Module) -> torch.dtype:
    """The dtype of the images that a tower takes: that of its first convolution."""
    # Not that of its first parameter, the position embeddings, which OpenCLIP's half precision keeps in float32.
    convolutions = (module.weight.dtype for module in tower.modules() if isinstance(module, nn.Conv2d))
    matrices = (weight.dtype for weight in tower.parameters() if weight.ndim > 1)
    return next(itertools.chain(convolutions, matrices), torch.float32)
