"""One run: a method trains a task's model at one precision, and is evaluated."""

import copy
import functools
import math
import platform
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import torch
from cotraining import CoTraining
from estimators import set_estimator
from methods import METHODS, latent, quantizable
from task import Batch, Sentence, Task
from torch import Tensor, nn

from espnet_rand.atomic import replacing
from espnet_rand.distillation import distill
from espnet_rand.layers import SCALE_SUFFIX, evaluating_at


@dataclass(frozen=True)
class Run:
    """The run that a line of results is about. `bits` and `granularity` of a float run are 0 and "-"."""

    task: str
    method: str
    bits: int
    granularity: str
    scratch: bool
    rate: float
    seed: int


def float_weights(work: Path, name: str, task: Task, scratch: bool, rate: float, seed: int) -> Path:
    """The file of the float model that the method `float` trained."""
    return work / f"{name}.{task.start}.{'scratch' if scratch else 'tuned'}.{rate}.{seed}.pth"


def run(task: Task, spec: Run, device: torch.device, work: Path) -> List[Dict[str, Any]]:
    """Train and evaluate; return the line of results, or one for each number of bits, where they are drawn.

    The data, their order, the steps and the schedule depend on the task and the seed alone.

    Args:
        work: a folder for the float models, for the methods that begin with them
    """
    start = time.time()
    method = METHODS[spec.method]
    rate = task.float_rate if method.tuned else spec.rate
    weights = float_weights(work, spec.task, task, spec.scratch, rate, spec.seed)
    if spec.scratch and method.distillation:
        raise ValueError(f"{spec.method}: from scratch there is no teacher")
    from_float = method.tuned or not method.trains
    if from_float and not weights.exists():
        run(task, Run(spec.task, "float", 0, "-", spec.scratch, rate, spec.seed), device, work)
    torch.manual_seed(spec.seed)
    model = task.build(spec.scratch).to(device)
    names = quantizable(model)
    if from_float:
        model.load_state_dict(torch.load(weights, weights_only=True))
    sample = task.train[:: max(len(task.train) // task.calibration, 1)]
    calibration = functools.partial(task.loss, sentences=sample)
    if method.trains:
        drawn = torch.get_rng_state()  # the code below may draw, and dropout is to be the same for all
        teacher = copy.deepcopy(model) if method.distillation else None
        finish = method.apply(model, spec.bits, spec.granularity, calibration)
        torch.set_rng_state(drawn)
        if teacher is not None:
            distill(model, teacher, method.distillation, {task.logits: 1.0}, task.states)
        sentences = task.train
        if method.unlabelled:
            sentences = [*sentences, *task.heard_by(teacher)]
        loss = train(task, model, spec, sentences)
        if spec.method == "float":
            work.mkdir(parents=True, exist_ok=True)
            with replacing(weights) as temporary:
                torch.save(model.state_dict(), temporary)
    else:
        finish = method.apply(model, spec.bits, spec.granularity, calibration)
        loss = None
    line = {**asdict(spec), "start": task.start, "train_loss": loss, "weights": statistics(model, names)}
    finish()
    model.eval()
    line.update(torch=torch.__version__, machine=f"{platform.processor() or platform.machine()}, {device.type}")
    lines = []
    for bits in method.drawn or (None,):
        with evaluating_at(model, bits) if bits else nullcontext():
            own = {**line, "bits": bits or spec.bits}
            own["dev"] = {"loss": task.loss(model, task.dev), **task.score(model, task.dev)}
            own["test"] = task.score(model, task.test)
        lines.append({**own, "seconds": round(time.time() - start, 1)})
    return lines


def train(task: Task, model: nn.Module, spec: Run, sentences: List[Sentence]) -> float:
    """Train by AdamW, with linear warm-up and decay to zero; return the mean loss of the last tenth of the steps."""
    method = METHODS[spec.method]
    steps = round(method.length * (task.scratch_steps if spec.scratch else task.steps))
    warmup = max(round(task.warmup * steps), 1)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    scales = [p for name, p in named if name.endswith(SCALE_SUFFIX)]
    others = [p for name, p in named if not name.endswith(SCALE_SUFFIX)]
    groups = [{"params": others}, {"params": scales, "lr": method.scale_rate * spec.rate}]
    optimizer = torch.optim.AdamW(groups, spec.rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))
    )
    device = parameters[0].device
    losses = []
    model.train()
    loss_of = CoTraining(model, method.cotrained, task.logits, task.states) if method.cotrained else _own_loss(model)
    estimators = {round(part * steps): estimator for part, estimator in method.estimators.items()}
    for step, batch in zip(range(steps), shuffled(task.batches(sentences), spec.seed)):
        if step in estimators:
            set_estimator(model, estimators[step])
        data = task.batch(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=task.half):
            loss = loss_of(data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, task.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break  # it will not recover, and is evaluated as it is
    last = losses[-max(len(losses) // 10, 1) :]
    return sum(last) / len(last)


def _own_loss(model: nn.Module) -> Callable[[Batch], Tensor]:
    return lambda batch: model(**batch)[0]


def shuffled(batches: List[List[Sentence]], seed: int) -> Iterator[List[Sentence]]:
    """The batches, over and over, in an order that the seed alone decides."""
    generator = np.random.default_rng(seed)
    while True:
        for i in generator.permutation(len(batches)):
            yield batches[i]


EDGES = np.linspace(-8, 8, 65)  # edges of the histograms, in standard deviations of a row


@torch.no_grad()
def statistics(model: nn.Module, names: List[str]) -> Dict[str, Any]:
    """The kurtosis and the largest-to-standard-deviation ratio of each layer's float weights (means of rows)."""
    layers, counts = {}, np.zeros(len(EDGES) - 1, dtype=np.int64)
    for name in names:
        rows = latent(model, name).float().cpu()
        rows = rows - rows.mean(1, keepdim=True)
        rows = rows / rows.std(1, keepdim=True).clamp(min=1e-12)
        layers[name] = [
            round(rows.pow(4).mean().item(), 3),
            round(rows.abs().amax(1).mean().item(), 3),
        ]
        counts += np.histogram(rows.clamp(-7.99, 7.99).numpy(), EDGES)[0]
    return {"layers": layers, "histogram": counts.tolist()}
