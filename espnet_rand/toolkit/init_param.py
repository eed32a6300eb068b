"""`--init_param` of ESPnet's training: takes any pretrained model, and checks that it fits."""

import argparse
import logging
from contextvars import ContextVar
from typing import Any, Callable, Optional, Set

import torch
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.lm.espnet_model_multitask import ESPnetMultitaskLanguageModel

from espnet_rand.toolkit.fitting import PretrainedError, fit
from espnet_rand.toolkit.pretrained import is_checkpoint, opened, read

#: The options of the training that runs.
training: ContextVar[Optional[argparse.Namespace]] = ContextVar("training", default=None)


def load_pretrained_model(
    original: Callable,
    init_param: str,
    model: torch.nn.Module,
    ignore_init_mismatch: bool,
    map_location: Any = "cpu",
) -> None:
    """ESPnet's function of this name, which is `original`: checkpoints in a training without quantizer are left to it.

    Args:
        init_param: `model[:src_key[:dst_key[:exclude_keys]]]`; for the model see espnet_rand.toolkit.pretrained.opened
        ignore_init_mismatch: only warn where keys or shapes do not fit: those weights start anew

    Raises:
        PretrainedError: there is no such model, or it does not fit
    """
    given, *keys = init_param.split(":")
    if not hasattr(model, "_quantization") and is_checkpoint(given):
        return original(init_param, model, ignore_init_mismatch, map_location)
    if len(keys) > 3:
        raise PretrainedError(f"--init_param {init_param}: it must read model:src_key:dst_key:exclude_keys")
    source, target, excluded = (keys + [""] * 3)[:3]
    try:
        module = model.get_submodule(target)
    except AttributeError as e:
        raise PretrainedError(f"--init_param {init_param}: the model has no {target}: {e}") from None
    with opened(given, isinstance(model, (ESPnetLanguageModel, ESPnetMultitaskLanguageModel))) as files:
        state = read(files.model_file)
    prefix, left_out = source and f"{source}.", tuple(filter(None, excluded.split(",")))
    wanted = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and not k.startswith(left_out)}
    adapter = {key.removeprefix(f"{target}.") for key in getattr(model, "_adapter_keys", ())}
    fitted = fit(module, wanted, lambda key: (prefix + key).startswith(left_out) or key in adapter)
    logging.info(f"espnet_rand: {init_param}: {fitted.reused}")
    misfits = fitted.misfits(_vocabularies())
    if misfits and not ignore_init_mismatch:
        raise PretrainedError(
            f"--init_param {init_param} does not fit the model: {misfits}. Mend: take the parts that fit "
            "(model:src_key:dst_key:exclude_keys), or start the others anew (--ignore_init_mismatch true)"
        )
    if misfits:
        logging.warning(f"espnet_rand: {init_param}: not reused: {misfits}. What the model has of these starts anew")


def _vocabularies() -> Set[int]:
    """Sizes of the token lists of the training that runs."""
    options = vars(training.get() or argparse.Namespace())
    return {len(v) for k, v in options.items() if k.endswith("token_list") and isinstance(v, (list, tuple))}
