"""Graphs for one recording, in a loop over the recordings of a batch: what is beside a recording changes nothing."""

from typing import Any, List

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

_PREFIX = "espnet_rand.loop."


def loop(model: ModelProto, subsampling: int) -> None:
    """Let a graph take batches, in place.

    Before, it takes (1, frames, bands) and gives (1, fewer frames, numbers). Then it takes `x`, (batch, frames, bands),
    and the lengths `x_lens`, (batch,). It gives the numbers, zero behind a recording's end, and their lengths `y_lens`.

    Args:
        subsampling: how many frames are one of the output, at least
    """
    graph = model.graph
    bands = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    numbers = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    body = _body(graph)
    name = graph.output[0].name
    constants = {"zero": np.int64(0), "one": np.int64(1), "subsampling": np.int64(subsampling)}
    nodes = [
        _node("Shape", ["x"], "shape"),
        _node("Gather", [_PREFIX + "shape", _PREFIX + "zero"], "count"),
        _node("Gather", [_PREFIX + "shape", _PREFIX + "one"], "frames"),
        _node("Div", [_PREFIX + "frames", _PREFIX + "subsampling"], "most"),
        helper.make_node("Loop", [_PREFIX + "count", ""], [name + "s", "y_lens"], body=body),
    ]
    made = helper.make_graph(
        nodes,
        graph.name,
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "frames", bands]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info(name + "s", TensorProto.FLOAT, ["batch", "fewer_frames", numbers]),
            helper.make_tensor_value_info("y_lens", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), _PREFIX + key) for key, value in constants.items()],
    )
    graph.CopyFrom(made)


def _body(graph: GraphProto) -> GraphProto:
    """The loop's body, for recording `i`, which has the graph's nodes and constants."""
    constants = {"axis": [0], "first": [0], "none": [0, 0], "shape_end": [0]}
    before = [
        _node("Gather", ["x_lens", _PREFIX + "i"], "length"),
        _node("Unsqueeze", [_PREFIX + "length", _PREFIX + "axis"], "end"),
        _node("Gather", ["x", _PREFIX + "i"], "row"),
        _node("Slice", [_PREFIX + "row", _PREFIX + "first", _PREFIX + "end", _PREFIX + "axis"], "recording"),
        helper.make_node("Unsqueeze", [_PREFIX + "recording", _PREFIX + "axis"], [graph.input[0].name]),
    ]
    after = [
        _node("Squeeze", [graph.output[0].name, _PREFIX + "axis"], "found"),
        _node("Shape", [_PREFIX + "found"], "found_frames", end=1),
        _node("Sub", [_PREFIX + "most", _PREFIX + "found_frames"], "missing"),
        _node("Concat", [_PREFIX + "none", _PREFIX + "missing", _PREFIX + "shape_end"], "pads", axis=0),
        _node("Pad", [_PREFIX + "found", _PREFIX + "pads"], "padded"),
        _node("Squeeze", [_PREFIX + "found_frames", _PREFIX + "axis"], "y_len"),
        _node("Identity", [_PREFIX + "go"], "on"),
    ]
    return helper.make_graph(
        [*before, *graph.node, *after],
        "recording",
        [
            helper.make_tensor_value_info(_PREFIX + "i", TensorProto.INT64, []),
            helper.make_tensor_value_info(_PREFIX + "go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(_PREFIX + "on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(_PREFIX + "padded", TensorProto.FLOAT, None),
            helper.make_tensor_value_info(_PREFIX + "y_len", TensorProto.INT64, []),
        ],
        [
            *graph.initializer,
            *(numpy_helper.from_array(np.array(v, np.int64), _PREFIX + k) for k, v in constants.items()),
        ],
    )


def _node(operator: str, inputs: List[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [_PREFIX + output], **attributes)
