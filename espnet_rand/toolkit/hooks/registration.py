"""Registers quantization with ESPnet: every task's options, models and worker processes."""

import argparse
import copy
import functools
import importlib
import importlib.util
import inspect
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, List, Type

import torch
import yaml
from espnet2.tasks import abs_task
from espnet2.tasks.abs_task import AbsTask
from espnet2.train import trainer
from espnet2.utils import config_argparse

from espnet_rand import processes
from espnet_rand.atomic import write_text
from espnet_rand.context import patching, setting
from espnet_rand.environment import IMPORT
from espnet_rand.errors import UserError, refuse_options
from espnet_rand.layers import SCALE_SUFFIX, Report, believe, quantize, quantize_new_layers, quantized_weights
from espnet_rand.options import OptionError
from espnet_rand.toolkit import (
    context,
    eval_bits,
    kaldi_fbank,
    launcher,
    loading,
    options,
    search,
    trailing_silence,
    yaml_files,
)
from espnet_rand.toolkit.hooks import (
    curves,
    espnet3,
    files,
    init_param,
    openai_whisper,
    packed,
    partial,
    precisions,
    resuming,
    second_programs,
    teacher,
    transducer_loss,
    whisper_search,
)
from espnet_rand.toolkit.pretrained.sources import read_weights

_registered = False


def register() -> None:
    """Give every ESPnet task in this process, and in each Python that it starts from now on, the plugin's options.

    They are those of espnet_rand.toolkit.options; for the processes see espnet_rand.processes. Idempotent.

    Afterwards a task's parser has them, the model it builds (to train, to decode, in worker
    processes that it spawns) is quantized as they say, and config.yaml holds them resolved.
    Without them everything is as without espnet_rand.

    Raises:
        OptionError: `--import`, `--eval_bits`, `--packed_backend` or `--trailing_silence` of espnet-rand is off
    """
    global _registered
    espnet3.register()  # may have been loaded since the last call
    processes.register_children()
    if _registered:
        return
    launcher.packed_backend()
    eval_bits.launcher_precision()
    trailing_silence.launcher_seconds()
    imports = _imports()
    _registered = True
    transducer_loss.stand_in()
    whisper_search.register()
    openai_whisper.register()
    curves.register()
    search.register()
    files.register()
    second_programs.register()
    _wrap_classmethod(AbsTask, "get_parser", _get_parser)
    _wrap_classmethod(AbsTask, "check_required_command_args", _check_arguments)
    _wrap_classmethod(AbsTask, "build_model_from_file", _build_model_from_file)
    config_argparse.ArgumentParser.error = refuse_options
    _wrap_parsing(config_argparse.ArgumentParser)
    AbsTask.main_worker = _MainWorker(AbsTask.__dict__["main_worker"])
    AbsTask.__init_subclass__ = classmethod(_init_subclass)
    for task in _subclasses(AbsTask):
        _extend(task)
    abs_task.create_adapter = functools.partial(_create_adapter, abs_task.create_adapter)
    abs_task.load_pretrained_model = functools.partial(init_param.load_pretrained_model, abs_task.load_pretrained_model)
    trainer.calculate_all_attentions = functools.partial(precisions.plotting, trainer.calculate_all_attentions)
    if importlib.util.find_spec("loralib"):
        importlib.import_module("espnet_rand.toolkit.hooks.lora")
    for module in imports:
        importlib.import_module(module)


def _imports() -> List[str]:
    """The names of the modules of `espnet-rand --import`.

    Raises:
        OptionError: one is not there
    """
    names = [name for name in os.environ.get(IMPORT, "").split(",") if name]
    for name in names:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise OptionError(f"--import: {name!r} is no module's name. Fix: give x, not x.py or ./x")
        try:
            found = name in sys.modules or importlib.util.find_spec(name)
        except ModuleNotFoundError as e:
            if not f"{name}.".startswith(f"{e.name}."):  # an import of the module's own is missing
                raise
            found = None
        if not found:
            raise OptionError(f"--import: there is no module {name}. Fix: put the folder that it is in on PYTHONPATH")
    return names


def _subclasses(task: Type[AbsTask]):
    """Yield all classes below a task."""
    for subclass in task.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _init_subclass(cls, **kwargs: Any) -> None:
    """Wrap `build_model` of a task that is defined from now on."""
    super(AbsTask, cls).__init_subclass__(**kwargs)
    _extend(cls)


def _extend(task: Type[AbsTask]) -> None:
    kaldi_fbank.offer(task)
    if "build_model" in vars(task):
        _wrap_classmethod(task, "build_model", _build_model)


def _wrap_classmethod(owner: type, name: str, wrapper: Any) -> None:
    """Replace `owner.name` by `wrapper(original, cls, ...)`."""
    method = vars(owner)[name]

    @functools.wraps(method.__func__)
    def call(cls, *args, **kwargs):
        return wrapper(method.__get__(None, cls), *args, **kwargs)

    setattr(owner, name, classmethod(call))


def _get_parser(original):
    """Make a task's parser with the plugin's options."""
    parser = original()
    if not options.has_its_own(original.__self__):
        options.add_training_arguments(parser)
    return parser


def _wrap_parsing(parser: Type[argparse.ArgumentParser]) -> None:
    """Let a configuration file that is not YAML be an error of the command line."""
    original = parser.parse_known_args

    @functools.wraps(original)
    def parse_known_args(self, args=None, namespace=None):
        try:
            return original(self, args, namespace)
        except yaml_files.ERRORS as e:
            self.error(f"--config, or an option's value, is not YAML: {yaml_files.reason(e)}")

    parser.parse_known_args = parse_known_args


def _check_arguments(original, args):
    """Check the arguments of a training, before it spawns processes."""
    # 130 lines before the one that says what is missing
    with patching((argparse.ArgumentParser, "print_help", lambda *_, **__: None)):
        original(args)
    context.device(args.ngpu)


def _build_model(original, args):
    """Build a task's model as `args` and `loading.current` say."""
    task, original = original.__self__, functools.partial(trailing_silence.build, original)
    build = loading.current()
    if build.packed is not None:
        return packed.build(original, args)
    if options.has_its_own(task):
        return original(args)
    config = options.write_resolved(args, trained=build.to_load)
    if config is None:
        options.remove(args)
    elif not build.to_load:
        options.check_task(task)
    if build.part:
        return original(args)
    return (_build_to_load if build.to_load else _build_to_train)(original, config, args)


def _build_to_load(original, config, args):
    """Build the model of a configuration file, which gets the weights of a checkpoint."""
    model, _ = _build_quantized(original, config, args)
    if config is None:
        model.register_load_state_dict_pre_hook(_warn_of_scales)
    else:
        file = loading.current().model_file
        beside = None if file is None else file.parent / "config.yaml"
        believe(model, options.trained_with(beside) or config, alone=file is not None)
    return model


def _build_to_train(original, config, args):
    """Build the model of a training, whose options are checked before anything is written."""
    first = getattr(args, "dist_rank", None) in (None, 0)
    options.warn_of_defaults(args, quiet=not first or getattr(args, "collect_stats", False))
    again = functools.partial(original, copy.deepcopy(args))  # builders may change what they are given
    model, report = _build_quantized(original, config, args)
    resuming.check(model, config, args)
    if config is None:
        return model
    partial.check_training(model, args)
    if getattr(args, "use_deepspeed", False):
        _check_deepspeed(model)
    precisions.validate_at(model, config.validation_bits)
    with loading.building(part=True):
        teacher.distill(model, again, args)
    if first:
        _write(report, args)
    return model


def _build_quantized(original, config, args):
    """Build a model; return it, and the report of its quantization, None where there is no `config`."""
    with loading.building(part=config is not None):  # files of their own may quantize parts of a float model
        model = original(args)
    if config is None:
        return model, None
    report = quantize(model, config)
    logging.info(f"espnet_rand: {config}\n{report}")
    return model, report


def _check_deepspeed(model: torch.nn.Module) -> None:
    """Refuse scales that are set from the weights later: DeepSpeed trains copies, which they would not reach."""
    for name, weight in quantized_weights(model).items():
        if weight.learned and weight.quantizer.start_step > 0:
            raise OptionError(
                f"start_step: {weight.quantizer.start_step} is not allowed for {name}: with DeepSpeed, "
                "a learned scale (lsc, rand mode 3) must start with the training: set start_step to 0"
            )


def _warn_of_scales(model, state_dict, *_):
    """Log that a float model gets the checkpoint of a quantized training."""
    if any(key.endswith(SCALE_SUFFIX) for key in state_dict):
        logging.warning(
            "espnet_rand: the checkpoint has learned scales, and the configuration no quantizer: the model computes in "
            "float. Fix: give the config.yaml of the quantized training, or a packed file"
        )


def _build_model_from_file(original, *args, **kwargs):
    """Build the model of files, and set the precision and the silence that it is decoded with."""
    files_given = inspect.signature(original).bind(*args, **kwargs).arguments
    with files.explaining(files_given):
        model, trained = _build_with_weights(original, files_given.get("model_file"), *args, **kwargs)
    eval_bits.apply(model)
    search.without_ctc(model)
    if not isinstance(model, eval_bits.LANGUAGE_MODELS):
        trailing_silence.apply(model, trained)
    return model, trained


def _build_with_weights(original, model_file, *args, **kwargs):
    """Build the model of files; return it with the weights of its file, and the options of its training."""
    others_load = loading.current().others_load
    own_file = Path(model_file) if model_file and not others_load else None

    def build():
        with loading.building(to_load=True, model_file=own_file):
            model, trained = packed.build_model_from_file(original, *args, **kwargs)
        if hasattr(model, "_quantization"):
            believe(model, model._quantization.believed)  # weights that are loaded from now on may be others'
        if own_file is not None and hasattr(model, "_quantization") and partial.is_partial(trained):
            state = read_weights(own_file)
            with partial.completing(model, trained, state):
                model.load_state_dict(state, strict=False)
            return model, trained, True
        return model, trained, False

    model, trained, partly = build()
    if partly:
        partial.check_base(model, lambda: build()[0], trained)
    return model, trained


def _write(report: Report, args: Any) -> None:
    """Write <expdir>/quantization.yaml, if the training that builds the model has its directory."""
    directory = getattr(args, "output_dir", None)
    if directory is None or not Path(directory).is_dir():
        return
    write_text(Path(directory) / "quantization.yaml", yaml.safe_dump(report.to_dict(), sort_keys=False))


def _create_adapter(original, model, adapter, *args, **kwargs):
    """Put an adapter's layers in the place of quantized ones, and quantize them as well."""
    if loading.current().packed is not None:
        return packed.check_adapter(adapter)  # a packed model has it in its weights
    before = model.state_dict().keys()
    original(model, adapter, *args, **kwargs)
    model._adapter, model._adapter_keys = adapter, model.state_dict().keys() - before  # which no pretrained model has
    if hasattr(model, "_quantization"):
        logging.info(f"espnet_rand: layers of the adapter\n{quantize_new_layers(model)}")
        partial.warn_of_unsaved(model, init_param.training.get())


class _MainWorker:
    """Stands in for `AbsTask.main_worker`: a spawned process that unpickles it registers first."""

    def __init__(self, original: Any):
        self.original = original

    def __get__(self, instance: Any, task: Type[AbsTask]):
        return functools.partial(_main_worker, task)


def _main_worker(task: Type[AbsTask], args: Any) -> None:
    """Run a training, or one process of it."""
    try:
        register()
        launcher.refuse_in_training()
        if getattr(args, "quantizer", None) is not None and args.output_dir is not None:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with setting(init_param.training, args), setting(resuming.before, resuming.read_before(args)):
            vars(AbsTask)["main_worker"].original.__get__(None, task)(args)
    except UserError as e:
        if multiprocessing.parent_process() is None:  # a program's own; below espnet-rand, startup says it in one line
            raise
        sys.exit(f"espnet_rand: error: {e}")
