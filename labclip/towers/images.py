"""PIL images to what an image tower takes."""

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
    """OpenCLIP's image transform, a `Compose`, with images turned by their EXIF first, as people see them.

    It is a part of the transform, so that embeddings of images that were not turned are told apart from these.
    """
    return type(preprocess)([upright, *preprocess.transforms])


def as_stored(preprocess: Preprocess) -> Preprocess:
    """A model's image transform without the turn by EXIF: exactly OpenCLIP's."""
    compose: Any = type(preprocess)
    transforms = getattr(preprocess, "transforms", None)
    return compose([transform for transform in transforms if transform is not upright]) if transforms else preprocess


def as_batch(image: Any, preprocess: Preprocess | None, *, tower: nn.Module, device: torch.device) -> Any:
    """PIL images as a batch of the tower's dtype; preprocessed tensors and dicts that a tower takes, as they are."""
    if isinstance(image, Mapping):
        return image
    batch = isinstance(image, torch.Tensor) and image.is_floating_point() and image.ndim == 4
    if batch and (image.shape[-1] != 3 or image.shape[1] == 3):  # else the channels stand last
        return image
    images = list(image) if isinstance(image, list | tuple) else [image]
    if not images or not all(isinstance(image, Image) for image in images):
        raise ValueError(
            f"image is {describe(image)}. Pass a PIL image or a list of them, as PIL.Image.open(FILE), or a float "
            f"tensor [n, 3, height, width], as torch.stack([model.preprocess(image) for image in images])."
        )
    if preprocess is None:
        raise ValueError(
            "This LABCLIP has no preprocess for PIL images. Pass LABCLIP(clip, alignment, preprocess=...) with the "
            "third value of open_clip.create_model_and_transforms, or preprocessed tensors."
        )
    try:
        eight = [eight_bits(image) for image in images]
    except ValueError as error:
        raise ValueError(f"An image {error}.") from error
    return torch.stack([preprocess(image) for image in eight]).to(device, image_dtype(tower))


def image_dtype(tower: nn.Module) -> torch.dtype:
    """The dtype that images are to have for a tower: that of its first convolution.

    Position embeddings come before it among the parameters, and stay float32 in OpenCLIP's half precision.
    """
    convolutions = (module.weight.dtype for module in tower.modules() if isinstance(module, nn.Conv2d))
    matrices = (weight.dtype for weight in tower.parameters() if weight.ndim > 1)
    return next(itertools.chain(convolutions, matrices), torch.float32)
