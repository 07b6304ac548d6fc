"""How a name becomes a base and an alignment: embedded, published, in a folder, or on the Hub."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labclip.io.published import EMBEDDED, PUBLISHED, Published, embedded_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from labclip.alignment import Alignment, Base
    from labclip.model import LABCLIP

_FIT_ONE = "Pass alignment= (a folder, a repository 'org/name', or an Alignment), or fit one on your own captions"


def list_pretrained() -> list[str]:
    """Names that `LABCLIP.from_pretrained` and `Alignment.from_pretrained` know; folders and repositories work too.

    Example:
        >>> list_pretrained()
        ['scenes', 'ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-B-32-cc3m']
    """
    return [EMBEDDED, *(_name_of(entry) for entry in PUBLISHED)]


def _name_of(entry: Published) -> str:
    first = next(other for other in PUBLISHED if other.name == entry.name)
    return entry.name if entry is first else f"{entry.name}-{entry.alignment}"


def find_entry(name: str) -> Published | None:
    """The published matrix of a name: "ViT-B-32", "ViT-B-32-quickgelu" (its base's own name), "ViT-B-32-cc3m"."""
    for entry in PUBLISHED:
        if name in (_name_of(entry), entry.model, f"{entry.name}-{entry.alignment}"):
            return entry
    return None


@dataclass(frozen=True)
class Source:
    """Where a name leads: a published matrix, or a local folder (embedded, the user's, or fetched from the Hub)."""

    name: str
    entry: Published | None
    folder: Path | None


def resolve(name_or_path: str | Path, **hub: Any) -> Source:
    """Resolve a name once: a known name, then an existing path, then a Hub repository.

    Args:
        name_or_path: What the user typed; "./name" and `Path` objects are always paths.
        hub: `revision, token, cache_dir, force_download, local_files_only`.

    Raises:
        FileNotFoundError: If a path does not exist, or the repository does not.
        ValueError: If it is none of the three; the message has the nearest known name.
        OSError: If the Hub can't be reached.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(
            f"The name is a {type(name_or_path).__name__}. Pass a str or Path: a known name ({_known()}), a folder, or "
            f"a Hub repository 'org/name'."
        )
    name = str(name_or_path)
    if isinstance(name_or_path, str):
        if name == EMBEDDED:
            return Source(name, None, embedded_folder())
        if entry := find_entry(name):
            return Source(name, entry, None)
    if not name.strip():
        raise ValueError(f"The name is empty. Known names: {_known()}.")
    path = Path(name).expanduser()
    if os.path.isdir(path):  # pathlib's raises for a name that is too long
        return Source(name, None, path)
    if os.path.isfile(path):
        raise ValueError(f"{name} is a file, not an alignment folder. {_instead_of(path)}")
    if isinstance(name_or_path, Path) or name.startswith((".", "~", "/")) or path.is_absolute():
        raise FileNotFoundError(
            f"There is no folder {name}. Pass a folder that save_pretrained made, or a known name: {_known()}."
        )
    if "/" in name:
        from labclip.io import hub as hub_module
        from labclip.io.folder import load

        def verify(folder: Path) -> None:
            from labclip.io.bases import is_openclip_folder
            from labclip.io.folder import is_alignment_folder

            if is_alignment_folder(folder) or not is_openclip_folder(folder):
                load(folder)

        return Source(name, None, hub_module.snapshot(name, verify=verify, **hub))
    near = difflib.get_close_matches(name, list_pretrained(), n=1, cutoff=0.4)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{name!r:.120} is not a known name, a folder or a Hub repository 'org/name'.{nearest} Known names: {_known()}."
    )


def _instead_of(file: Path) -> str:
    """What to type where a file was passed for a folder."""
    from labclip.io.folder import is_alignment_folder

    if file.suffix in (".pt", ".pth", ".bin"):
        return f"Type: labclip convert {file} FOLDER"
    if is_alignment_folder(file.parent):
        return f"Pass the folder it lies in: {'./' if file.parent == Path() else ''}{file.parent}"
    return "Pass a folder that save_pretrained made."


def _known() -> str:
    return ", ".join(list_pretrained())


def load_alignment(name_or_path: str | Path, **hub: Any) -> Alignment:
    """`Alignment.from_pretrained`."""
    return _alignment_of(resolve(name_or_path, **hub), hub)


def _alignment_of(source: Source, hub: dict[str, Any]) -> Alignment:
    from labclip.io.folder import load

    if source.entry is not None:
        from labclip.io.hub import published_folder

        options = {key: value for key, value in hub.items() if key != "revision"}
        return load(published_folder(source.entry, **options))
    assert source.folder is not None
    return load(source.folder)


def _chosen_alignment(source: Source, alignment: Alignment | str | Path | None, hub: dict[str, Any]) -> Alignment:
    """The alignment a user asked for, which is by default the source's own."""
    from labclip.alignment import Alignment

    if alignment is None:
        from labclip.io.bases import is_openclip_folder
        from labclip.io.folder import is_alignment_folder

        if source.folder is not None and is_openclip_folder(source.folder) and not is_alignment_folder(source.folder):
            raise ValueError(f"{source.name} holds a base but no alignment. {_FIT_ONE}.")
        return _alignment_of(source, hub)
    if isinstance(alignment, Alignment):
        return alignment
    if not isinstance(alignment, str | Path):
        raise ValueError(
            f"alignment is a {type(alignment).__name__}. Pass a name, a folder, a repository, or a matrix as "
            f"labclip.Alignment(matrix)."
        )
    shorthands = {entry.alignment for entry in PUBLISHED}
    if alignment in shorthands:
        if source.entry is not None:
            for entry in PUBLISHED:
                if (entry.name, entry.alignment) == (source.entry.name, alignment):
                    return _alignment_of(Source(source.name, entry, None), hub)
        raise ValueError(f"No matrix {alignment!r} is published for {source.name}. Known names: {_known()}.")
    # The revision belongs to the model's repository, not to the alignment's.
    return load_alignment(alignment, **{**hub, "revision": None})


def load_model(
    name_or_path: str | Path,
    *,
    alignment: Alignment | str | Path | None = None,
    base: nn.Module | None = None,
    strength: float | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    **hub: Any,
) -> LABCLIP:
    """`LABCLIP.from_pretrained`."""
    from labclip.io.bases import check_device, is_openclip_folder
    from labclip.io.loading import load_folder, load_named, wrap_loaded

    check_device(device)
    source = resolve(name_or_path, **hub)
    try:
        chosen = _chosen_alignment(source, alignment, hub)
    except FileNotFoundError as error:
        if source.entry is not None and base is None:
            _tell_weights_too(error, source.entry.base, hub)
        raise
    if strength is not None:
        chosen = chosen.at(strength)
    if base is not None:
        return wrap_loaded(base, chosen, device)
    if source.folder is not None and is_openclip_folder(source.folder):
        return load_folder(source.folder, chosen, precision=precision, device=device)[0]
    wanted = source.entry.base if source.entry is not None else _alignment_of(source, hub).base
    if wanted is None:
        raise ValueError(
            f"{source.name} holds an alignment that does not say what base it was fitted on. "
            f"Pass base=, an OpenCLIP model already loaded."
        )
    if wanted.model != EMBEDDED and not _is_tag(wanted):
        raise ValueError(
            f"{source.name} was fitted on {wanted}, whose weights OpenCLIP does not know by name. "
            f"Load that model yourself and pass base=."
        )
    if wanted.model == EMBEDDED:
        return load_folder(embedded_folder(), chosen, precision=precision, device=device)[0]
    return load_named(wanted, chosen, precision=precision, device=device, hub=hub)[0]


def _tell_weights_too(missing: FileNotFoundError, base: Base, hub: dict[str, Any]) -> None:
    """Where the network is off and the cache has neither matrix nor base, say both at once.

    Raises:
        FileNotFoundError: If the base's weights are missing too.
    """
    from labclip.io.hub._errors import is_off
    from labclip.io.loading import weights_of

    if is_off(hub["force_download"], hub["local_files_only"]):
        try:
            weights_of(base, hub)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{missing} Its base is missing as well: {error}") from error


def _is_tag(base: Base) -> bool:
    """Whether OpenCLIP has the weights: a record read from a file must not make it open paths or repositories."""
    import open_clip

    return base.model in open_clip.list_models() and bool(open_clip.get_pretrained_cfg(base.model, base.pretrained))


def create_model_and_transforms(
    model_name: str,
    pretrained: str | None = None,
    *,
    alignment: Alignment | str | Path | None = None,
    strength: float | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    cache_dir: str | None = None,
    **openclip: Any,
) -> tuple[LABCLIP, Any, Any]:
    """OpenCLIP's function of this name, with the model aligned.

    Args:
        model_name: OpenCLIP architecture, "local-dir:PATH", "hf-hub:org/name", or "scenes", the embedded model.
        pretrained: OpenCLIP tag or a weights file of that architecture.
        alignment: By default the known matrix of this base; else a name, a folder, a repository, or an `Alignment`.
        strength: 0 is the base model exactly, 1 the matrix as fitted; None is what the alignment was saved with.
        precision: As OpenCLIP's.
        device: As OpenCLIP's.
        jit: Must be False: TorchScript is not supported.
        cache_dir: Where downloads are kept.
        openclip: Further arguments of `open_clip.create_model_and_transforms`.

    Returns:
        (model, preprocess_train, preprocess_val). The model is in evaluation mode, since callers written for inference
        often forget to put it there; to train, call `model.train()`.

    Raises:
        ValueError: If no known matrix fits the base; the message lists those that do.

    Example:
        >>> model, _, preprocess = create_model_and_transforms("scenes")
    """
    if not openclip.pop("load_weights", True):
        raise ValueError("load_weights=False gives random weights, which no matrix fits. Leave it out.")
    if jit:
        raise ValueError("jit=True is not supported: pass jit=False and use torch.compile(model), or model.fold().")
    from labclip.io.bases import check_device, is_openclip_folder
    from labclip.io.loading import load_folder, load_named, named_base

    check_device(device)
    hub: dict[str, Any] = {"cache_dir": cache_dir}
    schema, _, where = model_name.rpartition(":")
    if schema in ("local-dir", "hf-hub") or model_name == EMBEDDED:
        if pretrained:
            raise ValueError(
                f"{model_name} has weights of its own, so pretrained={pretrained!r} would be ignored. Leave it out, or "
                f'pass an architecture, for example "ViT-B-32".'
            )
        source = resolve(Path(where) if schema == "local-dir" else where, **hub)
        chosen = _chosen_alignment(source, alignment, hub)
        if source.folder is None or not is_openclip_folder(source.folder):
            raise ValueError(f"{model_name} holds no OpenCLIP model. Pass an architecture and a tag instead.")
        load = partial(load_folder, source.folder)
    elif not pretrained:
        raise ValueError(
            f"pretrained is {pretrained!r}, so {model_name} would have random weights, which no matrix fits. "
            f'Pass a tag, for example pretrained="openai".'
        )
    else:
        wanted = named_base(model_name, pretrained, force_quick_gelu=openclip.get("force_quick_gelu", False))
        chosen = alignment_for(wanted, alignment, hub)
        load = partial(load_named, wanted, hub=hub)
    if strength is not None:
        chosen = chosen.at(strength)
    model, built = load(chosen, precision=precision, device=device, **openclip)
    return model, built.preprocess_train, built.preprocess_val


def alignment_for(wanted: Base, alignment: Alignment | str | Path | None, hub: dict[str, Any]) -> Alignment:
    """The alignment for a base given by OpenCLIP's name and tag."""
    from labclip.io.loading import check_same_base

    for entry in PUBLISHED:
        known = entry.base
        same = known.model.removesuffix("-quickgelu") == wanted.model.removesuffix("-quickgelu")
        if same and known.pretrained == wanted.pretrained:
            return _chosen_alignment(Source(entry.name, entry, None), alignment, hub)
    if alignment is None:
        fitting = "; ".join(
            f'"{entry.model}", pretrained="{entry.pretrained}" ({entry.alignment})' for entry in PUBLISHED
        )
        raise ValueError(f"No known matrix fits {wanted}. Those that are known fit {fitting}. {_FIT_ONE}.")
    chosen = _chosen_alignment(Source(str(wanted), None, None), alignment, hub)
    check_same_base(chosen, wanted)
    return chosen


def get_tokenizer(model_name: str, **kwargs: Any) -> Any:
    """OpenCLIP's function of this name, which also knows "scenes".

    Args:
        model_name: As `create_model_and_transforms` takes it.
        kwargs: Further arguments of `open_clip.get_tokenizer`.

    Returns:
        Captions -> token ids, int64 [n, context_length].

    Raises:
        ValueError: If OpenCLIP has no model of that name, where `open_clip.get_tokenizer` gives the ordinary tokenizer;
            if the tokenizer is one of `transformers`, which is not installed.

    Example:
        >>> get_tokenizer("scenes")(["a red cube"]).shape
        torch.Size([1, 16])
    """
    import open_clip

    from labclip.io.bases import folder_tokenizer, tokenizer_of
    from labclip.io.loading import unknown_model

    if model_name == EMBEDDED:
        return folder_tokenizer(embedded_folder(), **kwargs)
    name = model_name.replace("/", "-")
    if ":" in model_name:
        return tokenizer_of(model_name, **kwargs)
    if name not in open_clip.list_models():
        raise unknown_model(model_name)
    return tokenizer_of(name, **kwargs)
