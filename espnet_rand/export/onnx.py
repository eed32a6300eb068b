"""ONNX files with the codes of a packed model, for ONNX Runtime."""

from pathlib import Path
from typing import Any, Dict, Mapping, Union

import onnxruntime
from onnx import ModelProto, helper

from espnet_rand.atomic import replacing
from espnet_rand.errors import one_line
from espnet_rand.export.codes import ExportError
from espnet_rand.export.operators import Writer, write
from espnet_rand.export.symbols import DOMAIN
from espnet_rand.packing import PackedWeight

#: Of the standard operators: the first with 4-bit integers.
OPSET = 21
_LARGEST = 2**31 - 1  # bytes of a file


def fill(model: ModelProto, weights: Mapping[str, PackedWeight], exact: bool = False) -> Dict[str, str]:
    """Put operators on codes in the place of a graph's symbols (see `espnet_rand.export.symbols`), in place.

    Args:
        weights: those that the symbols of this graph name, which `operators.check` has seen
        exact: decode the weights when the file is loaded, and compute in float: to compare with

    Returns:
        how each weight is computed with, by its name

    Raises:
        ExportError: a weight is not in the graph
    """
    writer, graph = Writer(exact), model.graph
    for node in graph.node:
        node.ClearField("metadata_props")  # paths of the machine that traced it
        node.ClearField("doc_string")
        if node.domain == DOMAIN:
            name = next(a.s.decode() for a in node.attribute if a.name == "weight")
            write(writer, node, name, weights[name])
        else:
            writer.nodes.append(node)
    if lost := sorted(weights.keys() - writer.ways.keys()):
        raise ExportError(f"the traced graph has no {lost[0]} ({len(lost)} weights), which its layers have")
    nodes = [*writer.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.constants.values())
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    imports = {entry.domain: entry.version for entry in model.opset_import if entry.domain != DOMAIN}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in {**imports, "com.microsoft": 1}.items())
    return writer.ways


def open_session(content: bytes, name: Union[str, Path]) -> onnxruntime.InferenceSession:
    """Open a file's content in ONNX Runtime, on the CPU. Raises ExportError, which has `name`: it does not open."""
    try:
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as e:  # its own have no common class
        raise ExportError(f"{name}: ONNX Runtime does not open it: {one_line(e)}") from e


def save(model: ModelProto, path: Union[str, Path], about: Mapping[str, Any]) -> None:
    """Write an ONNX file: to a temporary name, then renamed.

    Args:
        about: for the file's metadata, which are texts

    Raises:
        ExportError: it is larger than an ONNX file may be, or ONNX Runtime does not open it
    """
    helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    if (size := model.ByteSize()) > _LARGEST:
        raise ExportError(f"{path}: {size:,} bytes, of {_LARGEST:,} at most. Fix: fewer bits")
    content = model.SerializeToString()
    open_session(content, path)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
