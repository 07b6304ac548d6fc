"""A folded text tower in ONNX: exported from an OpenCLIP model, or one that exists with the matrix put behind it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import SimpleTokenizer
from torch import nn

from labclip.alignment import Alignment
from labclip.base import FINGERPRINT_CAPTION
from labclip.io.text_sides import check_features, check_form
from labclip.packages import require
from labclip.towers.openclip import default_tokenizer

FILE = "text.onnx"
_INSTALL = 'pip install "labclip[onnx]"'


def load(path: str | Path) -> Any:
    """The model in an ONNX file; ValueError if it is none."""
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    try:
        return onnx.load(str(Path(path).expanduser()))
    except Exception as error:  # protocol buffers raise errors of their own, which are not imported here
        raise ValueError(f"{path} is not an ONNX file ({error}).") from error


def write(model: Any, folder: Path) -> None:
    """Write `text.onnx`."""
    require("onnx", "An ONNX file needs onnx", _INSTALL).save(model, str(folder / FILE))


class _TextTower(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.clip.encode_text(input_ids, normalize=False)
        return features


def convert(clip: Any) -> Any:
    """The text tower of an OpenCLIP model, float32; ValueError if onnxruntime gives other features of some tokens.

    Takes `input_ids`, int64 [batch, context_length], and gives `text_features`, [batch, dim], unnormalised.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, f"An export to ONNX needs {module}", _INSTALL)
    tower = _TextTower(clip.cpu().float().eval().requires_grad_(False))
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
    check_form(clip, "onnxruntime", lambda tokens: _run(model, tokens.numpy()))
    return model


def caption_features(model: Any, alignment: Alignment) -> torch.Tensor | None:
    """The embedding of the fingerprint's caption, [1, dim]; None where the tokenizer of the base is not known."""
    tokens = _caption(alignment)
    return None if tokens is None else _run(model, tokens, embedding_of(model, alignment.dim))


def quick_gelu_of(model: Any) -> bool | None:
    """Whether the tower runs QuickGELU, by its operators as exporters and onnxruntime's optimiser write them."""
    kinds = {node.op_type for holder in (model.graph, *model.functions) for node in holder.node}
    quick, plain = kinds & {"Sigmoid", "QuickGelu"}, kinds & {"Erf", "Gelu", "BiasGelu", "FastGelu", "Tanh"}
    return bool(quick) if bool(quick) != bool(plain) else None


def append(model: Any, alignment: Alignment) -> None:
    """Put the matrix behind the text embedding of an ONNX tower, one product; unit length stays that.

    Raises:
        ValueError: If no output is the text embedding, or onnxruntime gives other features than the aligned ones.
    """
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    output = embedding_of(model, alignment.dim)
    tokens = _caption(alignment)
    tokens = np.array([[3, 5, 2, 4]]) if tokens is None else tokens
    before = _run(model, tokens, output)
    unit = bool(abs(before.norm() - 1.0) < 1e-3)
    graph, matrix = model.graph, alignment.matrix.detach().cpu()
    inner, product = f"{output}.base", f"{output}.aligned"
    for node in graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(matrix.T.contiguous().numpy(), f"{output}.matrix"))
    graph.node.append(
        onnx.helper.make_node("MatMul", [inner, f"{output}.matrix"], [product if unit else output], name=product)
    )
    if unit:
        graph.node.append(onnx.helper.make_node("LpNormalization", [product], [output], axis=-1, p=2))
    exact = before @ matrix.T
    exact = nn.functional.normalize(exact, dim=-1) if unit else exact
    after = _run(model, tokens, output)
    check_features(after, exact, "onnxruntime gives other text features", "Fold into another form.")


def embedding_of(model: Any, dim: int) -> str:
    """The output that is the text embedding: float32 [batch, dim], which nothing else in the graph uses."""
    shapes = {output.name: output.type.tensor_type for output in model.graph.output}
    sizes = {name: [part.dim_value or None for part in kind.shape.dim] for name, kind in shapes.items()}
    outputs = [name for name, size in sizes.items() if len(size) == 2 and size[1] in (dim, None)]
    if len(outputs) > 1:
        outputs = [name for name in outputs if "embed" in name or "feature" in name] or outputs
    if len(outputs) != 1:
        raise ValueError(
            f"{len(outputs) or 'None'} of the outputs ({', '.join(f'{name} {size}' for name, size in sizes.items())}) "
            f"can be the text embedding, [batch, {dim}]. Pass a text tower that has one."
        )
    (name,) = outputs
    if any(name in node.input for node in model.graph.node):
        raise ValueError(f"The graph goes on after {name}, so it is more than a text tower. Pass the text tower alone.")
    if shapes[name].elem_type != 1:
        raise ValueError(f"The output {name} is not float32. Fold before you convert to another precision.")
    return str(name)


def _caption(alignment: Alignment) -> Any | None:
    """The tokens of the fingerprint's caption, [1, context_length]: by CLIP's tokenizer where no base is recorded."""
    tokenizer = default_tokenizer(alignment.base) if alignment.base else SimpleTokenizer()
    return None if tokenizer is None else tokenizer([FINGERPRINT_CAPTION]).numpy()


def _run(model: Any, tokens: Any, output: str | None = None) -> torch.Tensor:
    """An output of a text tower, the first by default: it takes token ids and at most a mask of them."""
    onnxruntime = require("onnxruntime", "A fold into ONNX is checked with onnxruntime", _INSTALL)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    takes = {entry.name: entry for entry in session.get_inputs()}
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
    (features,) = session.run([output or session.get_outputs()[0].name], feed)
    return torch.from_numpy(np.asarray(features))
