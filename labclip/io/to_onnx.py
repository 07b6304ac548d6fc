"""Text towers in ONNX: export a folded OpenCLIP model, or append the matrix to an existing ONNX file."""

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
    """Load the model of an ONNX file; ValueError if it is not one."""
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    try:
        return onnx.load(str(Path(path).expanduser()))
    except Exception as error:  # protobuf has its own error classes, which are not imported here
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
    """Export the text tower of an OpenCLIP model in float32; ValueError if onnxruntime gives other features for it.

    Its input is `input_ids`, int64 [batch, context_length]; its output `text_features`, [batch, dim], unnormalised.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, f"An export to ONNX needs {module}", _INSTALL)
    tower = _TextTower(clip.cpu().float().eval().requires_grad_(False))
    context: int = getattr(clip, "context_length", None) or clip.text.context_length
    tokens = torch.ones(2, context, dtype=torch.int64)
    tokens[:, 1] = 2  # the highest id, which OpenAI's pooling takes for the end of the text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own code
        program: Any = torch.onnx.export(
            tower, (tokens,), dynamo=True, verbose=False, input_names=["input_ids"], output_names=["text_features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    model = program.model_proto
    check_form(clip, "onnxruntime", lambda tokens: _run(model, tokens.numpy()))
    return model


def caption_features(model: Any, alignment: Alignment) -> torch.Tensor | None:
    """The embedding of the fingerprint's caption, [1, dim]; None if the tokenizer of the base is not known."""
    tokens = _caption_tokens(alignment)
    return None if tokens is None else _run(model, tokens, find_embedding(model, alignment.dim))


def quick_gelu_of(model: Any) -> bool | None:
    """Whether the tower uses QuickGELU, by the operators that exporters and onnxruntime write; None if unclear."""
    operators = {node.op_type for graph in (model.graph, *model.functions) for node in graph.node}
    has_quick_gelu = bool(operators & {"Sigmoid", "QuickGelu"})
    has_gelu = bool(operators & {"Erf", "Gelu", "BiasGelu", "FastGelu", "Tanh"})
    return has_quick_gelu if has_quick_gelu != has_gelu else None


def append(model: Any, alignment: Alignment) -> None:
    """Append the matrix product to the text embedding of an ONNX tower; if that has unit length, the result has too.

    Raises:
        ValueError: If no output is the text embedding, or onnxruntime gives other features than the aligned ones.
    """
    onnx = require("onnx", "An ONNX file needs onnx", _INSTALL)
    output = find_embedding(model, alignment.dim)
    tokens = _caption_tokens(alignment)
    tokens = np.array([[3, 5, 2, 4]]) if tokens is None else tokens
    before = _run(model, tokens, output)
    normalizes = bool(abs(before.norm() - 1.0) < 1e-3)
    graph, matrix = model.graph, alignment.matrix.detach().cpu()
    base_output, product = f"{output}.base", f"{output}.aligned"
    for node in graph.node:
        node.output[:] = [base_output if name == output else name for name in node.output]
    graph.initializer.append(onnx.numpy_helper.from_array(matrix.T.contiguous().numpy(), f"{output}.matrix"))
    target = product if normalizes else output
    graph.node.append(onnx.helper.make_node("MatMul", [base_output, f"{output}.matrix"], [target], name=product))
    if normalizes:
        graph.node.append(onnx.helper.make_node("LpNormalization", [product], [output], axis=-1, p=2))
    exact = before @ matrix.T
    exact = nn.functional.normalize(exact, dim=-1) if normalizes else exact
    after = _run(model, tokens, output)
    check_features(after, exact, "onnxruntime gives other text features", "Fold into another form.")


def find_embedding(model: Any, dim: int) -> str:
    """The name of the output that is the text embedding: float32 [batch, dim], not used by other nodes of the graph."""
    types = {output.name: output.type.tensor_type for output in model.graph.output}
    shapes = {name: [axis.dim_value or None for axis in kind.shape.dim] for name, kind in types.items()}
    names = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] in (dim, None)]
    if len(names) > 1:
        names = [name for name in names if "embed" in name or "feature" in name] or names
    if len(names) != 1:
        outputs = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{len(names) or 'None'} of the outputs ({outputs}) can be the text embedding, [batch, {dim}]. Pass a text "
            f"tower that has one."
        )
    (name,) = names
    if any(name in node.input for node in model.graph.node):
        raise ValueError(f"The graph continues after {name}, so it is more than a text tower. Pass the tower alone.")
    if types[name].elem_type != 1:
        raise ValueError(f"The output {name} is not float32. Fold before you convert to another precision.")
    return str(name)


def _caption_tokens(alignment: Alignment) -> Any | None:
    """The token ids of the fingerprint's caption, [1, context_length]; None if the base's tokenizer is not known."""
    tokenizer = default_tokenizer(alignment.base) if alignment.base else SimpleTokenizer()
    return None if tokenizer is None else tokenizer([FINGERPRINT_CAPTION]).numpy()


def _run(model: Any, tokens: Any, output: str | None = None) -> torch.Tensor:
    """Run a text tower on token ids [n, length]; returns an output, by default the first."""
    onnxruntime = require("onnxruntime", "A fold into ONNX is checked with onnxruntime", _INSTALL)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {entry.name: entry for entry in session.get_inputs()}
    (ids, *other_inputs) = [name for name in inputs if "mask" not in name] or [""]
    if other_inputs or not inputs or not inputs[ids].type.startswith("tensor(int"):
        raise ValueError(f"It takes {', '.join(inputs)}, not only token ids, so it is not a text tower.")
    length = inputs[ids].shape[-1]
    if isinstance(length, int) and length != tokens.shape[1]:
        tokens = tokens[:, :length]
        tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
    dtypes = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feed = {name: np.ones_like(tokens) if "mask" in name else tokens for name in inputs}
    feed = {name: value.astype(dtypes[inputs[name].type]) for name, value in feed.items()}
    (features,) = session.run([output or session.get_outputs()[0].name], feed)
    return torch.from_numpy(np.asarray(features))
