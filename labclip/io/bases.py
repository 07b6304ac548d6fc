"""OpenCLIP models as bases: built without wasted work, read from and written to OpenCLIP folders, told apart."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from labclip.alignment import FINGERPRINT_CAPTION, Alignment, Base
from labclip.io.published import EMBEDDED, embedded_folder
from labclip.io.weights import fill_from_safetensors
from labclip.packages import MissingPackageError
from labclip.text import Tokenizer, encode_captions

OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_WEIGHTS = "open_clip_model.safetensors"
PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16")
FINGERPRINT_COSINE = 0.99
"""Below this the base is another one: half precision costs 1e-4, the wrong activation several percent."""

# What constructors raise for a configuration that makes no sense.
_BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Built(NamedTuple):
    """A loaded OpenCLIP model and its image transforms, as `open_clip.create_model_and_transforms` orders them."""

    clip: nn.Module
    preprocess_train: Any
    preprocess_val: Any


def build(
    name: str, weights: Path, *, precision: str = "fp32", device: str | torch.device | None = None, **openclip: Any
) -> Built:
    """Make an OpenCLIP model and load its weights, without initialising at random what is about to be overwritten.

    Args:
        name: What `open_clip.create_model_and_transforms` takes: an architecture, or "local-dir:PATH".
        weights: The file to load, strictly: every weight must be in it.
        precision: One of OpenCLIP's precisions.
        device: Where to put the model; None is the CPU.
        openclip: Further arguments of `open_clip.create_model_and_transforms`.

    Returns:
        The model, in evaluation mode, and its transforms.

    Raises:
        ValueError: If the file does not hold the weights of this architecture.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}. Pass one of {', '.join(PRECISIONS)}.")
    openclip = {"pretrained_text": False, "load_weights": False} | openclip
    try:
        with _SkipInitialisation(), _without_random_weights_warning():
            built = Built(*open_clip.create_model_and_transforms(name, precision=precision, device="cpu", **openclip))
    except _BUILD_ERRORS as error:
        raise ValueError(f"OpenCLIP can't build {name} ({type(error).__name__}: {first_line(error)}).") from error
    load_weights(built.clip, weights)
    built.clip.to(device or "cpu").eval()
    return built


def load_weights(clip: nn.Module, path: Path) -> None:
    """Fill every weight of a model from a file, holding no second copy of them where the file allows it.

    Raises:
        ValueError: If the file is damaged, or holds other things than the weights of this model.
    """
    try:
        if path.suffix == ".safetensors":
            _check_floating(clip, path)
            if fill_from_safetensors(clip, path):
                return
        elif path.suffix not in (".npz", ".npy"):
            # OpenCLIP reads again, without this care, what it can't read with it: before torch 2.6 that runs code.
            torch.load(path, map_location="cpu", weights_only=True)
        load_checkpoint(clip, str(path), strict=True, weights_only=True)
    except pickle.UnpicklingError:
        # The message of torch advises weights_only=False, which would run the file's code: it is not passed on.
        raise _not_the_weights(path, "it is no pickle of tensors alone, and none of its code was run") from None
    except (AttributeError, IndexError, StopIteration, TypeError) as error:
        raise _not_the_weights(path, "it holds no tensors by name") from error
    except (SafetensorError, RuntimeError, KeyError, EOFError) as error:
        raise _not_the_weights(path, _mismatch(str(error)) or first_line(error)) from error


def _not_the_weights(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} does not hold the weights of this model ({reason}). Fetch it again, or name the model it is for."
    )


def _check_floating(clip: nn.Module, path: Path) -> None:
    """Refuse whole numbers where the model has fractions: copying would cast them without a word."""
    state = clip.state_dict()
    with safe_open(path, framework="pt", device="cpu") as file:
        for key in state.keys() & set(file.keys()):
            dtype = file.get_slice(key).get_dtype()
            if state[key].is_floating_point() and not dtype.startswith(("F", "BF")):
                raise _not_the_weights(path, f"{key!r} is {dtype}, where the model has {state[key].dtype}")


def _mismatch(message: str) -> str:
    """What torch's long message about a state dict comes to: the first name or shape of each kind that differs."""
    parts = []
    for said, kind in (("lacks", "Missing"), ("has, and the model has not,", "Unexpected")):
        if found := re.search(rf"{kind} key\(s\) in state_dict: (.*)", message):
            first, *more = re.findall(r'"([^"]+)"', found[1])
            parts.append(f"it {said} {first!r}{f' and {len(more)} more' if more else ''}")
    shapes = r"size mismatch for (\S+): .*?Size\((.*?)\) from checkpoint, .*?Size\((.*?)\)"
    if found := re.search(shapes, message):
        parts.append(f"{found[1]!r} is {found[2]} in it, {found[3]} in the model")
    return "; ".join(parts)


def check_device(device: str | torch.device | None) -> None:
    """Refuse a device that this torch does not have, before anything is fetched for it.

    Raises:
        ValueError: If it can't be used.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"device {str(device)!r} can't be used ({first_line(error)}). "
            f"Pass 'cpu', or 'cuda' or 'mps' where this torch has it."
        ) from error


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
        return not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_openclip_folder(folder: Path) -> bool:
    """Whether a folder holds an OpenCLIP model: its config and some weights."""
    return (folder / OPENCLIP_CONFIG).is_file() and weights_in(folder) is not None


def weights_in(folder: Path) -> Path | None:
    """The weights file of an OpenCLIP folder. `model.safetensors` is not one here: it is the alignment's."""
    for name in (OPENCLIP_WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_openclip_config(folder: Path) -> dict[str, Any]:
    """The `open_clip_config.json` of a folder.

    Raises:
        ValueError: If it is not JSON or has no `model_cfg`.
    """
    path = folder / OPENCLIP_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}. Fetch or save the folder again.") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ValueError(f"{path} has no model_cfg, so it is not the config of an OpenCLIP model.")
    preprocess = config.get("preprocess_cfg", {})
    if not isinstance(preprocess, dict):
        raise ValueError(f"{path}: preprocess_cfg is {preprocess!r}, not an object.")
    for key, counts in (("size", (1, 2)), ("mean", (3,)), ("std", (3,))):
        values = preprocess.get(key, [1] * counts[-1])
        values = values if isinstance(values, list) else [values]
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        if not numbers or len(values) not in counts:
            raise ValueError(f"{path}: preprocess_cfg.{key} is {preprocess[key]!r}, not {counts[-1]} numbers.")
    return config


def text_tower(clip: nn.Module) -> nn.Module:
    """The module that holds the text side: `clip.text` where there is one, else the model itself."""
    tower = getattr(clip, "text", None)
    return tower if isinstance(tower, nn.Module) else clip


def embed_dim(clip: nn.Module) -> int:
    """Length of the embeddings of an OpenCLIP model.

    Raises:
        ValueError: If the model does not tell, that is, is not an OpenCLIP model.
    """
    tower: Any = text_tower(clip)
    projection = getattr(tower, "text_projection", None)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    if isinstance(projection, torch.Tensor):
        return int(projection.shape[1])
    for holder, name in ((tower, "output_dim"), (getattr(clip, "visual", None), "output_dim"), (clip, "embed_dim")):
        if isinstance(dim := getattr(holder, name, None), int):
            return dim
    if hasattr(tower, "ln_final"):
        return int(tower.ln_final.normalized_shape[0])
    raise ValueError(f"A {type(clip).__name__} does not tell its embedding's length. Pass an OpenCLIP model.")


def uses_quick_gelu(clip: nn.Module) -> bool | None:
    """Whether the text tower runs QuickGELU; None for towers that are not OpenCLIP's own."""
    tower: Any = text_tower(clip)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None:
        return None
    return any(type(module).__name__ == "QuickGELU" for module in blocks.modules())


@torch.no_grad()
def fingerprint_of(clip: nn.Module, tokenizer: Tokenizer) -> torch.Tensor:
    """The base's own unit-length text embedding of `FINGERPRINT_CAPTION`, float32 [dim], on the CPU."""
    device = next(clip.parameters()).device
    with torch.autocast(device.type, enabled=False):
        features = encode_captions(clip, tokenizer, [FINGERPRINT_CAPTION], device)
    return nn.functional.normalize(features[0].float(), dim=0).cpu()


def check_base(clip: nn.Module, alignment: Alignment, tokenizer: Tokenizer | None) -> None:
    """Refuse a model that an alignment was not fitted on, as far as the model can tell.

    Raises:
        ValueError: If dim, activation, or the fingerprint differ.
    """
    dim, base = embed_dim(clip), alignment.base
    if dim != alignment.dim:
        raise ValueError(
            f"Alignment has dim {alignment.dim}{f' ({base})' if base else ''} but this {type(clip).__name__} embeds in "
            f"{dim}. Load one fitted for it: labclip.list_pretrained() names the known ones."
        )
    quick_gelu = uses_quick_gelu(clip)
    if base is not None and quick_gelu is not None and quick_gelu != base.quick_gelu:
        names = {True: "QuickGELU", False: "GELU"}
        raise ValueError(
            f"The alignment was fitted on {base}, which runs {names[base.quick_gelu]}, but this model runs "
            f"{names[quick_gelu]}: its embeddings differ. Create it with force_quick_gelu={base.quick_gelu}."
        )
    if alignment.fingerprint is not None and tokenizer is not None:
        cosine = float(fingerprint_of(clip, tokenizer) @ alignment.fingerprint)
        if not cosine >= FINGERPRINT_COSINE:
            raise ValueError(
                f"This model is not the one the alignment was fitted on{f' ({base})' if base else ''}: its "
                f"embedding of {FINGERPRINT_CAPTION!r} has cosine {cosine:.3f} with the recorded one, below {FINGERPRINT_COSINE}. "
                f"Load the recorded base, or fit a matrix for this model."
            )


def tokenizer_of(name: str, config: dict[str, Any] | None = None, **kwargs: Any) -> Tokenizer:
    """The tokenizer of an OpenCLIP name or "local-dir:PATH"; the ordinary one shares OpenCLIP's own vocabulary.

    Args:
        name: As `open_clip.get_tokenizer` takes it.
        config: The `model_cfg`, where the caller has it already.
        kwargs: Further arguments of `open_clip.get_tokenizer`.

    Raises:
        MissingPackageError: If it is a tokenizer of `transformers`, which is not installed.
    """
    text_cfg = (config or open_clip.get_model_config(name) or {}).get("text_cfg", {})
    shared = getattr(open_clip.tokenizer, "_tokenizer", None)
    special = kwargs or "siglip" in name.lower() or {"hf_tokenizer_name", "tokenizer_kwargs"} & set(text_cfg)
    if special or not isinstance(shared, open_clip.SimpleTokenizer):
        try:
            return open_clip.get_tokenizer(name, **kwargs)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"The tokenizer of {name} needs {error.name}. Type: pip install {error.name}", name=error.name
            ) from error
    # Building the vocabulary again takes a fifth of a second, more than the weights of a small model.
    tokenizer = copy.copy(shared)
    tokenizer.context_length = text_cfg.get("context_length", shared.context_length)
    return tokenizer


def folder_tokenizer(folder: Path, **kwargs: Any) -> Tokenizer:
    """The tokenizer of an OpenCLIP folder."""
    return tokenizer_of(f"local-dir:{folder}", read_openclip_config(folder)["model_cfg"], **kwargs)


def default_tokenizer(base: Base | None) -> Tokenizer | None:
    """The tokenizer of a recorded base; None where there is no record, or making it would need a download."""
    if base is None:
        return None
    if base.model == EMBEDDED:
        return folder_tokenizer(embedded_folder())
    # Only names OpenCLIP has itself: a recorded "hf-hub:..." would be looked up on the network.
    config = open_clip.get_model_config(base.model) if base.model in open_clip.list_models() else None
    if config is None or "hf_tokenizer_name" in config["text_cfg"]:
        return None
    return tokenizer_of(base.model, config)


def default_preprocess(clip: Any) -> Callable[[Any], torch.Tensor] | None:
    """The image transform that a model's own configuration describes; None where it has none."""
    config = getattr(getattr(clip, "visual", None), "preprocess_cfg", None)
    if not config:
        return None
    transform: Callable[[Any], torch.Tensor] = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return transform
