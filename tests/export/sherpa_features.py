"""What features sherpa-onnx gives to a model: a CTC model of its own kind that spells them as tokens."""

import numpy as np
import onnx
import sherpa_onnx
from onnx import TensorProto, helper, numpy_helper

DIGITS, BASE, LOW, STEP = 4, 200, -40.0, 1e-5  # a feature is LOW + STEP * a number of 4 digits to the base of 200


def heard(folder, samples, rate=16000, dims=80):
    """The features that sherpa-onnx computes of samples in [-1, 1], (frames, dims), to STEP."""
    model, tokens = folder / "spells.onnx", folder / "spells.txt"
    onnx.save(_model(dims), model)
    tokens.write_text("<blk> 0\n" + "".join(f"t{n} {n}\n" for n in range(1, DIGITS * BASE + 1)))
    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        str(model), str(tokens), sample_rate=rate, feature_dim=dims
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, samples)
    recognizer.decode_stream(stream)
    # each place has tokens of its own, such that the search takes none for a repetition
    digits = np.array([int(token[1:]) for token in stream.result.tokens]).reshape(-1, DIGITS) - 1 - BASE * np.arange(4)
    return (LOW + STEP * (digits @ BASE ** np.arange(DIGITS - 1, -1, -1))).reshape(-1, dims)


def _model(dims):
    places = BASE ** np.arange(DIGITS - 1, -1, -1)
    constants = {
        "low": np.float64(LOW),
        "per_step": np.float64(1 / STEP),
        "places": places.astype(np.int64),
        "base": np.int64(BASE),
        "first": (1 + BASE * np.arange(DIGITS)).astype(np.int64),
        "column": np.array([1, -1, 1], np.int64),
        "row": np.array([1, -1], np.int64),
        "classes": np.int64(DIGITS * BASE + 1),
        "log_probs": np.array([-1, 0], np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["wide", "low"], ["above"]),
        helper.make_node("Mul", ["above", "per_step"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["number"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["number", "column"], ["numbers"]),
        helper.make_node("Div", ["numbers", "places"], ["shifted"]),
        helper.make_node("Mod", ["shifted", "base"], ["digits"]),
        helper.make_node("Add", ["digits", "first"], ["tokens"]),
        helper.make_node("Reshape", ["tokens", "row"], ["ids"]),
        helper.make_node("OneHot", ["ids", "classes", "log_probs"], ["y"]),
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["y_lens"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spells",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", dims]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "L", DIGITS * BASE + 1]),
            helper.make_tensor_value_info("y_lens", TensorProto.INT64, ["N"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
