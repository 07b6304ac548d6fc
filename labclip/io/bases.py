"""OpenCLIP's models built from a file of weights and wrapped: no random initialisation first, no code run."""

from __future__ import annotations

import logging
import pickle
import textwrap
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import create_model_and_transforms, load_checkpoint
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from labclip.alignment import Alignment, with_record
from labclip.base import FOLDED, Base, described_mark
from labclip.checks import first_line
from labclip.files import CONFIG, WEIGHT_FILES, is_alignment_folder, weights_in
from labclip.io import PRECISIONS
from labclip.io.architecture import config_of
from labclip.io.folder import load, read_config
from labclip.io.hub import Access, base_weights
from labclip.model import LABCLIP
from labclip.packages import MissingPackageError
from labclip.towers.images import as_shown
from labclip.towers.openclip import fingerprint_of, folder_tokenizer, read_openclip_config, text_tower, tokenizer_of
from labclip.towers.text import Tokenizer

# What a tag's configuration says about preprocessing, by the argument of OpenCLIP that overrides it.
_TRANSFORM_KEYS = {key: f"image_{key}" for key in ("mean", "std", "interpolation", "resize_mode")}


def load_named(
    wanted: Base, alignment: Alignment, access: Access, *, precision: str, device: Any, **openclip: Any
) -> tuple[LABCLIP, Any]:
    """Load an OpenCLIP architecture with the weights of a tag, or of a file, and wrap it; also preprocess_train."""
    check_same_base(alignment, wanted)
    tag_config = open_clip.get_pretrained_cfg(wanted.model, wanted.pretrained)
    for key, argument in _TRANSFORM_KEYS.items():
        if key in tag_config:
            openclip.setdefault(argument, tag_config[key])
    if wanted.quick_gelu:
        openclip["force_quick_gelu"] = True
    clip, train, val = build(wanted.model, weights_of(wanted, access), precision=precision, device=device, **openclip)
    model_cfg = open_clip.get_model_config(wanted.model) | ({"quick_gelu": True} if wanted.quick_gelu else {})
    tokenizer = tokenizer_of(wanted.model, model_cfg)
    if tag_config and alignment.base is not None and alignment.fingerprint is None:
        # The tag's own weights: from here on others are recognised as others.
        alignment = with_record(alignment, fingerprint=fingerprint_of(clip, tokenizer))
    model = LABCLIP(clip, alignment, preprocess=val, tokenizer=tokenizer)
    if not set(openclip) - {"force_quick_gelu", "output_dict", "aug_cfg", "weights_only", *_TRANSFORM_KEYS.values()}:
        model.openclip_config = {"model_cfg": model_cfg, "preprocess_cfg": dict(clip.visual.preprocess_cfg)}
    return model, train


def load_folder(
    folder: Path, alignment: Alignment, *, precision: str, device: Any, **openclip: Any
) -> tuple[LABCLIP, Any]:
    """Load the OpenCLIP model of a folder and wrap it; also preprocess_train."""
    if is_alignment_folder(folder) and (recorded := read_config(folder / CONFIG)["base"]) is not None:
        check_same_base(alignment, recorded)
        if alignment.base is not None and alignment.fingerprint is None:
            # What the folder's own matrix knows of the base.
            alignment = with_record(alignment, fingerprint=load(folder).fingerprint)
    config = read_openclip_config(folder)
    weights = weights_in(folder)
    assert weights is not None
    clip, train, val = build(f"local-dir:{folder}", weights, precision=precision, device=device, **openclip)
    try:
        tokenizer: Tokenizer | None = folder_tokenizer(folder)
    except MissingPackageError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: its tokenizer can't be made ({first_line(error)}).") from error
    vocabulary = getattr(text_tower(clip), "vocab_size", None)
    if isinstance(tokenizer, open_clip.SimpleTokenizer) and vocabulary not in (None, tokenizer.vocab_size):
        tokenizer = None  # the ordinary one would give wrong tokens to a model with another vocabulary
    if isinstance(mark := config.get(FOLDED), dict):
        setattr(clip, FOLDED, mark)
    model = LABCLIP(clip, alignment, preprocess=val, tokenizer=tokenizer)
    if isinstance(mark, dict):
        warnings.warn(
            f"{folder} holds a folded model ({described_mark(mark)}). It opens with the identity: its text features "
            f"are aligned already, aligned=False and strength change nothing. For the base, load "
            f"{mark.get('model') or 'the model that it was folded from'}.",
            stacklevel=5,
        )
    model.openclip_config = config
    return model, train


def wrap_loaded(clip: nn.Module, alignment: Alignment, device: str | torch.device | None) -> LABCLIP:
    """Wrap a base the user loaded, after checking what can be checked of it."""
    base = alignment.base
    if base is not None and base.model in open_clip.list_models() and config_of(clip, base.model) is None:
        raise ValueError(
            f"The alignment was fitted on {base}, but the weights of this {type(clip).__name__} are not those of a "
            f"{base.model}. Pass that base, or load the alignment that fits yours."
        )
    model = LABCLIP(clip, alignment)
    return model if device is None else model.to(device)


def check_same_base(alignment: Alignment, wanted: Base) -> None:
    """Refuse with ValueError an alignment recorded for another architecture, tag or activation."""
    base = alignment.base
    if base is None or base.matches(wanted):
        return
    # A weights file may hold those of any tag; the fingerprint decides.
    if Path(wanted.pretrained).is_file() and base.matches(replace(wanted, pretrained=base.pretrained)):
        return
    activation = {True: "QuickGELU", False: "GELU"}
    raise ValueError(
        f"The alignment was fitted on {base} with {activation[base.quick_gelu]}, but the base is {wanted} with "
        f"{activation[wanted.quick_gelu]}. Load the base it was fitted on, or fit a matrix for this one."
    )


def weights_of(base: Base, access: Access) -> Path:
    """The file with the weights of a tag, from the cache or fetched; of no tag, the file that is named."""
    config = open_clip.get_pretrained_cfg(base.model, base.pretrained)
    if not config:
        return Path(base.pretrained)
    repository, _, file = config["hf_hub"].rpartition("/")
    return base_weights(repository, [file] if file else WEIGHT_FILES, replace(access, revision=None))


def build(
    name: str, weights: Path, *, precision: str = "fp32", device: str | torch.device | None = None, **openclip: Any
) -> tuple[Any, Any, Any]:
    """Make an OpenCLIP model and load its weights, without initialising at random what is about to be overwritten.

    Args:
        name: What `open_clip.create_model_and_transforms` takes: an architecture, or "local-dir:PATH".
        weights: The file to load, strictly: every weight must be in it.
        precision: One of OpenCLIP's precisions.
        device: Where to put the model; None is the CPU.
        openclip: Further arguments of `open_clip.create_model_and_transforms`.

    Returns:
        The model, in evaluation mode and frozen (no parameter asks for gradients), preprocess_train, preprocess_val,
        which turns images by their EXIF.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}. Pass one of {', '.join(PRECISIONS)}.")
    openclip = {"pretrained_text": False, "load_weights": False} | openclip
    try:
        with _SkipInitialisation(), _without_random_weights_warning():
            clip, train, val = create_model_and_transforms(name, precision=precision, device="cpu", **openclip)
    except ImportError:
        raise
    except Exception as error:  # constructors raise a dozen types for a configuration that makes no sense
        raise ValueError(f"OpenCLIP can't build {name} ({type(error).__name__}: {first_line(error)}).") from error
    load_weights(clip, weights)
    return clip.to(device or "cpu").eval().requires_grad_(False), train, as_shown(val)


def load_weights(clip: nn.Module, path: Path) -> None:
    """Fill every weight of a model from a file, holding no second copy of them where the file allows it."""
    try:
        if path.suffix != ".safetensors" or not _fill_from_safetensors(clip, path):
            load_checkpoint(clip, str(path), weights_only=True)
    except pickle.UnpicklingError:
        # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
        raise _not_the_weights(path, "it is not a pickle of tensors only, and none of its code was run") from None
    except (AttributeError, IndexError, StopIteration, TypeError) as error:
        raise _not_the_weights(path, "it holds no tensors by name") from error
    except (SafetensorError, RuntimeError, KeyError, EOFError) as error:  # torch names keys and shapes on many lines
        raise _not_the_weights(path, textwrap.shorten(str(error), 300) or type(error).__name__) from error


def _fill_from_safetensors(clip: nn.Module, path: Path) -> bool:
    """Fill every weight of a model from a file whose tensors match it one to one; False, and nothing, from another."""
    state = clip.state_dict()
    with safe_open(path, framework="pt", device="cpu") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        for key in state.keys() & slices.keys():  # copying would cast whole numbers to fractions without an error
            dtype = slices[key].get_dtype()
            if state[key].is_floating_point() and not dtype.startswith(("F", "BF")):
                raise _not_the_weights(path, f"{key!r} is {dtype}, where the model has {state[key].dtype}")
        if {key: view.get_shape() for key, view in slices.items()} != {k: list(v.shape) for k, v in state.items()}:
            return False
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda key: state[key].copy_(file.get_tensor(key)), state))
    return True


def _not_the_weights(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} does not hold the weights of this model ({reason}). Fetch it again, or name the model it is for."
    )


class _SkipInitialisation(TorchFunctionMode):
    """Makes random initialisers do nothing in this thread; constants such as masks are still written."""

    _skipped = frozenset(
        {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_, nn.init.normal_, nn.init.uniform_}
        | {nn.init.trunc_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._skipped:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _without_random_weights_warning() -> Iterator[None]:
    """Keep OpenCLIP from logging that a model is random while its weights are about to be loaded."""

    def keep(record: logging.LogRecord) -> bool:
        return (record.module, record.funcName, record.levelname) != ("factory", "create_model", "WARNING")

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
