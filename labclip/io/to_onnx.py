"""A folded text tower in ONNX: exported from an OpenCLIP model, or one that exists with the matrix put behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import SimpleTokenizer
from torch import nn

from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION
from labclip.io.folder import replacing
from labclip.io.text_sides import check_features, mark_of, new_mark, set_mark
from labclip.packages import require
from labclip.towers.openclip import check_fits, default_tokenizer

FILE = "text.onnx"
_INSTALL = 'pip install "labclip[onnx]"'
_OTHER = "onnxruntime gives other text features", "Fold into another form."
_MAX_BYTES = 2**31 - 2**20  # of one file of protocol buffers


def load(path: str | Path) -> Any:
    """The model in an ONNX file; ValueError if it is none."""
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    try:
        return onnx.load(str(Path(path).expanduser()))
    except Exception as error:  # protocol buffers raise errors of their own, which are not imported here
        raise ValueError(f"{path} is not an ONNX file ({error}).") from error


def write(model: Any, folder: str | Path) -> None:
    """Write `text.onnx`."""
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    with replacing(folder) as scratch:
        onnx.save(model, str(scratch / FILE))


class _TextTower(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.clip.encode_text(input_ids, normalize=False)
        return found


def export(clip: Any) -> Any:
    """The text tower of an OpenCLIP model, float32, with the mark of a fold.

    Takes `input_ids`, int64 [batch, context_length], and gives `text_features`, [batch, dim], unnormalised. Run once by
    onnxruntime: ValueError if its features differ.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, f"An export to ONNX needs {module}", _INSTALL)
    tower = _TextTower(clip.cpu().float().eval().requires_grad_(False))
    if sum(value.numel() * 4 for name, value in clip.named_parameters() if not name.startswith("visual.")) > _MAX_BYTES:
        raise ValueError("The text tower has more than 2 GB, which one ONNX file can't hold. Fold into another form.")
    context: int = getattr(clip, "context_length", None) or clip.text.context_length
    tokens = torch.ones(2, context, dtype=torch.int64)
    tokens[:, 1] = 2  # the highest id, where OpenAI's pooling looks for the end
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own parts
        program: Any = torch.onnx.export(
            tower, (tokens,), dynamo=True, verbose=False, input_names=["input_ids"], output_names=["text_features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    model = program.model_proto
    set_mark(model, mark_of(clip))
    check_features(torch.from_numpy(_run(model, tokens[:1].numpy())), tower(tokens[:1]), *_OTHER)
    return model


def append(model: Any, alignment: Alignment, source: Mapping[str, Any], *, guard: Any) -> Any:
    """A copy of an ONNX text tower with the matrix behind its text embedding, one product; unit length stays that.

    Its activation is compared, with a warning where the graph does not show it; and the fingerprint, where the
    alignment has one and its base's tokenizer is known. `guard` calls a check, and refuses or warns.

    Raises:
        ValueError: If no output is the text embedding, or it is more than a text tower; what `guard` refuses.
    """
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    if alignment.is_identity:
        return folded
    require("onnxruntime", "Folding into an ONNX file is checked with onnxruntime", _INSTALL)
    output = _embedding_of(model, alignment.dim)
    tokenizer = default_tokenizer(alignment.base) or (None if alignment.base else SimpleTokenizer())
    tokens = np.array([[3, 5, 2, 4]]) if tokenizer is None else tokenizer([FINGERPRINT_CAPTION]).numpy()
    before = _run(model, tokens, output)

    quick_gelu = _quick_gelu(model)
    if quick_gelu is None and alignment.base is not None:
        warnings.warn(
            f"The ONNX file does not show whether it runs QuickGELU or GELU. The alignment was fitted on "
            f"{alignment.base}, which runs {'QuickGELU' if alignment.base.quick_gelu else 'GELU'}: make sure of it.",
            stacklevel=4,
        )

    def check() -> None:
        fingerprint = nn.functional.normalize(torch.from_numpy(before[0]).float(), dim=0)
        check_fits(alignment, mark_of(model), quick_gelu, None if tokenizer is None else fingerprint)

    guard(check)
    graph, matrix = folded.graph, alignment.matrix.detach().cpu()
    inner, product = f"{output}.base", f"{output}.aligned"
    for node in graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(matrix.T.contiguous().numpy(), f"{output}.matrix"))
    unit = bool(np.allclose(np.linalg.norm(before, axis=-1), 1.0, atol=1e-3))
    graph.node.append(
        onnx.helper.make_node("MatMul", [inner, f"{output}.matrix"], [product if unit else output], name=product)
    )
    if unit:
        graph.node.append(onnx.helper.make_node("LpNormalization", [product], [output], axis=-1, p=2))
    set_mark(folded, new_mark(alignment, source, mark_of(model)))
    exact = torch.from_numpy(before) @ matrix.T
    exact = nn.functional.normalize(exact, dim=-1) if unit else exact
    check_features(torch.from_numpy(_run(folded, tokens, output)), exact, *_OTHER)
    return folded


def _embedding_of(model: Any, dim: int) -> str:
    """The output that is the text embedding: float32 [batch, dim], which nothing else in the graph uses."""
    shapes = {one.name: one.type.tensor_type for one in model.graph.output}
    sizes = {name: [part.dim_value or None for part in kind.shape.dim] for name, kind in shapes.items()}
    found = [name for name, size in sizes.items() if len(size) == 2 and size[1] in (dim, None)]
    if len(found) > 1:
        found = [name for name in found if "embed" in name or "feature" in name] or found
    if len(found) != 1:
        raise ValueError(
            f"{len(found) or 'None'} of the outputs ({', '.join(f'{name} {size}' for name, size in sizes.items())}) "
            f"can be the text embedding, [batch, {dim}]. Pass a text tower that has one."
        )
    (name,) = found
    if any(name in node.input for node in model.graph.node):
        raise ValueError(f"The graph goes on after {name}, so it is more than a text tower. Pass the text tower alone.")
    if shapes[name].elem_type != 1:
        raise ValueError(f"The output {name} is not float32. Fold before you convert to another precision.")
    return str(name)


def _quick_gelu(model: Any) -> bool | None:
    """Whether an ONNX model runs QuickGELU, by its operators as exporters and onnxruntime's optimiser write them."""
    kinds = {node.op_type for node in _nodes([*model.graph.node, *(node for f in model.functions for node in f.node)])}
    quick, plain = kinds & {"Sigmoid", "QuickGelu"}, kinds & {"Erf", "Gelu", "BiasGelu", "FastGelu", "Tanh"}
    return bool(quick) if bool(quick) != bool(plain) else None


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)


def _run(model: Any, tokens: np.ndarray[Any, Any], output: str | None = None) -> np.ndarray[Any, Any]:
    """Text embeddings by onnxruntime, [batch, dim], of a model that takes token ids and at most a mask of them."""
    session = require("onnxruntime", "", _INSTALL).InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    takes = {one.name: one for one in session.get_inputs()}
    (ids, *others) = [name for name in takes if "mask" not in name] or [""]
    if others or not takes or not takes[ids].type.startswith("tensor(int"):
        raise ValueError(f"It takes {', '.join(takes)}, not token ids alone, so it is no text tower.")
    length = takes[ids].shape[-1]
    if isinstance(length, int) and length != tokens.shape[1]:
        kept = tokens[:, :length]
        tokens = np.pad(kept, ((0, 0), (0, length - kept.shape[1])))
    dtypes = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feed = {name: np.ones_like(tokens) if "mask" in name else tokens for name in takes}
    feed = {name: value.astype(dtypes[takes[name].type]) for name, value in feed.items()}
    (found,) = session.run([output or session.get_outputs()[0].name], feed)
    return np.asarray(found)
