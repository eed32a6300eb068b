"""Computes a model's loss on data, outside of a training."""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Iterable, List, Tuple, Type

import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.device_funcs import to_device
from espnet2.utils.types import str2triple_str

from espnet_rand.batches import copied
from espnet_rand.errors import one_line
from espnet_rand.kaldi import read_lines, spread
from espnet_rand.toolkit.context import missing_file
from espnet_rand.toolkit.pretrained.fitting import PretrainedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which data: `--data_path_and_name_and_type`, `--num_utterances` and others."""
    parser.add_argument(
        "--data_path_and_name_and_type",
        type=str2triple_str,
        action="append",
        help="default: the data that the training was validated on",
    )
    parser.add_argument(
        "--num_utterances", type=positive, default=96, help="so many of them, spread evenly over the data"
    )
    parser.add_argument("--batch_size", type=positive, default=8, help="utterances at a time")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="0: the CPU, 1: a GPU")


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed, it must be an integer of at least 1")
    return int(text)


class Validation:
    """The loss of a model on the data that `args` ask for: the mean over batches, weighted as ESPnet weights them.

    Args:
        args: the options of `add_arguments`
        task: the task of the model
        model: in evaluation mode, on the device
        trained: the options that it was trained with

    Attributes:
        first_loss: the loss of the model as it is now

    Raises:
        PretrainedError: a file is not there, or no utterance in it; ESPnet can't read the data, or the model use it
        MissingFileError: a file is not there that the training's configuration names, such as a BPE model
    """

    def __init__(self, args: argparse.Namespace, task: Type[AbsTask], model: torch.nn.Module, trained: Any):
        self.model = model
        data = args.data_path_and_name_and_type or getattr(trained, "valid_data_path_and_name_and_type", None)
        if not data:
            raise PretrainedError("--data_path_and_name_and_type: the configuration names no validation data: give it")
        for path, *_ in data:
            if not Path(path).exists():
                raise PretrainedError(
                    f"no such file: {path} (paths in a configuration are relative to the directory of its training)"
                )
        keys = [*read_lines(Path(data[0][0]))]
        if not keys:
            raise PretrainedError(f"{data[0][0]}: there is no utterance in it")
        device = next(model.parameters()).device.type
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as key_file:
            key_file.writelines(f"{key}\n" for key in spread(keys, args.num_utterances))
            key_file.flush()
            try:
                loader = task.build_streaming_iterator(
                    [tuple(one) for one in data],
                    preprocess_fn=task.build_preprocess_fn(trained, False),
                    collate_fn=task.build_collate_fn(trained, False),
                    key_file=key_file.name,
                    batch_size=args.batch_size,
                    dtype=getattr(trained, "train_dtype", "float32"),
                    num_workers=0,
                    allow_variable_data_keys=True,
                )
                batches = [{**batch, "utt_id": names} for names, batch in loader]
            except OSError as e:  # a BPE model is not opened before there is a text
                raise missing_file(e, args.train_config or "config.yaml", str(vars(trained))) or e from None
            except (RuntimeError, ValueError, LookupError) as e:
                given = " ".join(",".join(one) for one in data)
                raise PretrainedError(f"--data_path_and_name_and_type: {given} can't be read: {one_line(e)}") from e
        self.batches = to_device(batches, device)
        losses: List[Tuple[torch.Tensor, torch.Tensor]] = []
        for batch in self.batches:
            try:
                with torch.no_grad():
                    losses.append(self._forward(batch))
            except Exception as e:  # e.g. a recording is too short
                names = ", ".join(batch["utt_id"])
                raise PretrainedError(
                    f"the model has no loss of the utterances {names}: {one_line(e)}. Fix: leave them out"
                ) from e
        self._weight: Any = sum(weight for _, weight in losses)
        self.first_loss = self._mean(losses)

    @torch.no_grad()
    def loss(self) -> float:
        """The loss of the model as it stands."""
        return self._mean(map(self._forward, self.batches))

    def _mean(self, losses: Iterable[Tuple[torch.Tensor, torch.Tensor]]) -> float:
        return float(sum(loss * weight for loss, weight in losses) / self._weight)

    def add_gradients(self) -> None:
        """Add the gradients of `loss` to the parameters' `grad`."""
        for batch in self.batches:
            loss, weight = self._forward(batch)
            (loss * weight / self._weight).backward()

    def _forward(self, batch: Any) -> Tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch, and its weight."""
        output = self.model(**copied(batch))
        loss, weight = (output["loss"], output["weight"]) if isinstance(output, dict) else output[::2]
        return loss.mean(), weight.double().sum()
