"""Serves ESPnet3's training: the options stand below `model:` of its configuration, `init_param` too."""

import functools
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Mapping

from espnet2.tasks import abs_task

from espnet_rand.context import setting
from espnet_rand.options import OptionError
from espnet_rand.toolkit import launcher, options
from espnet_rand.toolkit.hooks import init_param, resuming


def register() -> None:
    """Wrap what ESPnet3's training calls, if it is loaded. Idempotent."""
    training: Any = sys.modules.get("espnet3.systems.base.training")
    if training is not None and not isinstance(training.get_espnet_model, functools.partial):
        training.save_espnet_config = functools.partial(_save_config, training.save_espnet_config)
        training.get_espnet_model = functools.partial(_build_model, training.get_espnet_model)
        collect_stats = functools.partial(_collect_stats, training.collect_stats)
        system: Any = sys.modules.get("espnet3.systems.base.system")
        for module in (training, system):  # the latter may have it by name
            if hasattr(module, "collect_stats"):
                module.collect_stats = collect_stats


def _save_config(original: Callable, task: str, config: Any, output_dir: str) -> None:
    """Run ESPnet3's `save_espnet_config`, which is `original` and begins its training, with the options resolved.

    Writes every option into `config.model` (of OmegaConf), of which config.yaml and the model are made: decoding needs
    no preset. The report goes to `output_dir`, unless `config.model` has one.

    Raises:
        OptionError: see options.resolve, resuming.check_options and launcher.refuse_in_training; an option stands
            beside `model:`, where the model does not get it
    """
    launcher.refuse_in_training()
    from espnet3.utils.task_utils import get_task_class
    from omegaconf import OmegaConf, open_dict

    if not options.has_its_own(get_task_class(task)):
        for name in (*options.NAMES, "trailing_silence"):
            if config.get(name) not in (None, {}, ""):
                raise OptionError(f"{name}: {config[name]!r} stands beside `model:` in the configuration: put it below")
        given: Any = OmegaConf.to_container(config.model, resolve=True)
        args = Namespace(**given)
        quantizer = options.write_resolved(args)
        options.warn_of_defaults(args)
        checkpoint = (config.get("fit") or {}).get("ckpt_path")
        if checkpoint:
            for folder in {Path(output_dir), Path(str(checkpoint)).parent}:
                then = resuming.read_before(Namespace(output_dir=folder))
                if then.known:
                    resuming.check_options(folder, then.config, quantizer)
        if quantizer is not None:
            with open_dict(config.model):
                for name in options.NAMES:
                    config.model[name] = getattr(args, name)
                config.model.setdefault("output_dir", str(output_dir))
    original(task, config, output_dir)


def _collect_stats(original: Callable, config: Any) -> None:
    """Run ESPnet3's `collect_stats`, which is `original`, with a new model without a teacher.

    It takes `normalize` from the model, whose statistics are not there yet; a pretrained model has them.
    """
    pretrained = ("init_param", "teacher", "teacher_conf")
    kept = {name: config.model.pop(name) for name in pretrained if name in config.model}
    try:
        original(config)
    finally:
        config.model.update(kept)


def _build_model(original: Callable, task: str, config: Mapping[str, Any]) -> Any:
    """Run ESPnet3's `get_espnet_model`, which is `original`, and load `init_param`, which ESPnet3 leaves unread.

    Raises:
        PretrainedError: see init_param.load_pretrained_model
    """
    model = original(task, config)
    files = config.get("init_param") or ()
    with setting(init_param.training, Namespace(**config)):
        for given in [files] if isinstance(files, str) else files:
            abs_task.load_pretrained_model(given, model, config.get("ignore_init_mismatch", False), "cpu")
    return model
