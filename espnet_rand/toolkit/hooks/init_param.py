"""`--init_param` of ESPnet's training: takes any pretrained model, and checks that it fits."""

import argparse
import logging
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch

from espnet_rand.layers import Kinds, kinds_of, split_scales
from espnet_rand.toolkit import options
from espnet_rand.toolkit.eval_bits import LANGUAGE_MODELS
from espnet_rand.toolkit.pretrained.fitting import Fit, PretrainedError, fit
from espnet_rand.toolkit.pretrained.sources import is_checkpoint, open_pretrained, read_shapes, read_weights
from espnet_rand.toolkit.yaml_files import read_yaml

#: The options of the training that runs.
training: ContextVar[Optional[argparse.Namespace]] = ContextVar("training", default=None)


def load_pretrained_model(
    original: Callable,
    init_param: str,
    model: torch.nn.Module,
    ignore_init_mismatch: bool,
    map_location: Any = "cpu",
) -> None:
    """Load a pretrained model; ESPnet's function of this name, `original`, loads float ones into float trainings.

    Args:
        init_param: `model[:src_key[:dst_key[:exclude_keys]]]`; for the model see `open_pretrained` of sources.py
        ignore_init_mismatch: only warn where keys or shapes do not fit: those weights start anew

    Raises:
        PretrainedError: there is no such model, or it does not fit
    """
    given, *keys = init_param.split(":")
    if not hasattr(model, "_quantization") and is_checkpoint(given) and not split_scales(read_shapes(given)):
        return original(init_param, model, ignore_init_mismatch, map_location)
    if len(keys) > 3:
        raise PretrainedError(f"--init_param {init_param}: it must read model:src_key:dst_key:exclude_keys")
    source, target, excluded = (keys + [""] * 3)[:3]
    try:
        module = model.get_submodule(target)
    except AttributeError as e:
        raise PretrainedError(f"--init_param {init_param}: the model has no {target}: {e}") from None
    prefix, left_out = source and f"{source}.", tuple(filter(None, excluded.split(",")))
    adapter = {key.removeprefix(f"{target}.") for key in getattr(model, "_adapter_keys", ())}
    with open_pretrained(given, isinstance(model, LANGUAGE_MODELS)) as files:
        state = read_weights(files.model_file)
        wanted = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix) and not k.startswith(left_out)}
        fitted = fit(
            module,
            wanted,
            lambda key: (prefix + key).startswith(left_out) or key in adapter,
            scale_kinds(files.train_config, prefix),
        )
        logging.log(
            logging.WARNING if str(fitted.scales) else logging.INFO, f"espnet_rand: {init_param}: {fitted.reused}"
        )
        misfits = describe(fitted, None if keys else files.train_config)
    if misfits and not (ignore_init_mismatch and fitted.tensors[0]):
        raise PretrainedError(
            f"--init_param {init_param} does not fit the model: {misfits}. Fix: take the parts that fit "
            "(model:src_key:dst_key:exclude_keys), or start the others anew (--ignore_init_mismatch true)"
        )
    if misfits:
        logging.warning(f"espnet_rand: {init_param}: {misfits}. Tensors of the model that are not reused start anew")


def scale_kinds(
    train_config: Optional[Path], cut: str = "", model: Optional[torch.nn.Module] = None
) -> Optional[Kinds]:
    """Find what the learned scales of a pretrained model are, by its configuration; None: it does not say.

    Args:
        cut: the beginning of the model's names, if they are given without it
        model: one of the same layers, where it is known

    Raises:
        OptionError: see options.trained_with
    """
    config = options.trained_with(train_config)
    if config is None:
        return None
    kinds = kinds_of(config, model)
    return lambda weight: kinds(cut + weight)


def describe(fitted: Fit, train_config: Optional[Path]) -> str:
    """Say what of a pretrained model does not fit the one that is trained, tokens included; empty where all does.

    Args:
        train_config: its configuration; None: where its tokens are not to be compared

    Raises:
        OptionError: the configuration is not YAML
    """
    sizes = {*map(len, _token_lists().values())}
    return "; ".join(filter(None, (fitted.misfits(sizes), _other_tokens(train_config))))


def _token_lists() -> Dict[str, List[str]]:
    """The token lists of the training that runs, by the names of their options."""
    given = vars(training.get() or argparse.Namespace())
    return {k: [*v] for k, v in given.items() if k.endswith("token_list") and isinstance(v, (list, tuple))}


def _other_tokens(train_config: Optional[Path]) -> str:
    """Say which token lists have the size of the pretrained model's, but other tokens; empty where none is known.

    Their layers fit in shape alone: each output means another token.

    Raises:
        OptionError: the pretrained model's configuration is not YAML
    """
    if train_config is None or not train_config.is_file():
        return ""
    old = read_yaml(train_config)
    old = old if isinstance(old, dict) else {}
    same_size = {k: v for k, v in _token_lists().items() if isinstance(old.get(k), list) and len(old[k]) == len(v)}
    return "; ".join(
        f"{name} differs from that of {train_config} in {count} of {len(tokens)} tokens"
        for name, tokens in same_size.items()
        if (count := sum(a != b for a, b in zip(tokens, old[name])))
    )
