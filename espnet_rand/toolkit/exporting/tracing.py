"""torch.onnx.export, quiet."""

import logging
import warnings
from typing import Any, Dict, List, Mapping

import torch
from torch import Tensor, nn

from espnet_rand.errors import NotInstalledError, one_line
from espnet_rand.export.codes import ExportError
from espnet_rand.export.onnx import OPSET


def trace(
    module: nn.Module, example: Mapping[str, Tensor], dynamic: Mapping[str, Dict[int, str]], outputs: List[str]
) -> Any:
    """The graph of a module, as onnx.ModelProto.

    Args:
        example: inputs by the names that they get, in the order of `forward`
        dynamic: of inputs the axes that have any length, with their names
        outputs: the names that they get

    Raises:
        ExportError: it does not trace
        NotInstalledError: a package is missing: onnxscript
    """
    axes = [{axis: torch.export.Dim(name) for axis, name in dynamic.get(key, {}).items()} for key in example]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # of torchvision, which nobody needs
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                input_names=[*example],
                output_names=outputs,
                dynamic_shapes=tuple(axes) if dynamic else None,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as e:  # of all that torch.export may meet
        cause: BaseException = e
        while cause.__cause__ is not None:  # the last says what is the matter
            cause = cause.__cause__
        if isinstance(cause, ImportError):
            raise NotInstalledError(f"{cause}. Fix: pip install 'espnet_rand[export]'") from e
        raise ExportError(f"the model's {type(module).__name__} does not trace: {one_line(cause)}") from e
    finally:
        logger.setLevel(level)
    return program.model_proto
