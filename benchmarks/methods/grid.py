"""Run the comparison: every method at every precision; what is in the results file is not run again.

    python benchmarks/methods/grid.py --task mini --cells w2.channel w2.tensor --seeds 1 2 3 --jobs 2

A cell is wBITS.GRANULARITY (methods.py), with `.scratch` for training from new weights. A method that draws its bits
trains once, in the cell of the most, and has a line for each of them. For each method the
learning rates are tried with the first seed, the best on the development set is used for the others.
Safe to kill: a run is one line of results/TASK.jsonl, and only finished runs are written. A run that fails is
named, and tried again when grid.py is started again. Lines that began elsewhere (other float weights or steps)
do not count.
"""

import argparse
import fcntl
import logging
import multiprocessing
import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lines import append, finished  # noqa: E402
from measures import badness, measure_of  # noqa: E402
from methods import GRANULARITIES, MAIN, METHODS  # noqa: E402
from task import TaskError  # noqa: E402
from tasks import TASKS  # noqa: E402
from training import Run, run  # noqa: E402

Lines = Dict[Run, Dict[str, Any]]
FIELDS = tuple(Run.__dataclass_fields__)


def begun_at(start: str, found: List[Dict[str, Any]]) -> Lines:
    """Select the runs from a start among the lines."""
    return {Run(**{field: line[field] for field in FIELDS}): line for line in found if line["start"] == start}


def lock(path: Path):
    """Lock the results against other grids, until the file that this returns is closed."""
    file = path.with_suffix(".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"grid.py: another grid is at work on {path}. Fix: wait for it, or stop it") from None
    return file


def best_rate(
    lines: Lines, cell: Tuple, method: str, rates: Tuple[float, ...], seeds: Sequence[int]
) -> Optional[float]:
    """The rate that is best on the development set (of two as good, in the loss); None: not all are run."""
    scores = {}
    for rate in rates:
        tried = [lines.get(Run(cell[0], method, *cell[1:], rate, seed)) for seed in seeds]
        if None in tried:
            return None
        devs = [line["dev"] for line in tried]
        scores[rate] = sum(map(badness, devs)), sum(dev["loss"] for dev in devs)
    return min(scores, key=scores.get)


def float_cell(cell: Tuple) -> Tuple:
    """The cell of the float model, which belongs to all precisions of a task."""
    return (cell[0], 0, "-", cell[3])


def plan(lines: Lines, cells: List[Tuple], methods: List[str], rates: Tuple[float, ...], seeds: List[int]):
    """The runs that can begin, the first cell's first; how many are done; and how many there are in all."""
    begun: List[Tuple[int, int, Run]] = []
    total = 0
    floats = {float_cell(cell): None for cell in cells}
    pairs = [(0, cell, "float") for cell in floats if "float" in methods]
    pairs += [(i, cell, name) for i, cell in enumerate(cells) for name in methods if name != "float"]
    order = sorted(rates, key=lambda rate: abs(rates.index(rate) - len(rates) // 2))
    for place, cell, name in pairs:
        method = METHODS[name]
        if name != "float" and cell[2] not in method.granularities:
            continue
        if method.drawn and cell[1] != method.drawn[0]:
            continue  # the lines of all its bits come with that of the most
        total += len(seeds) - 1 + (len(rates) if method.trains else 1)
        chosen = best_rate(lines, *((cell, name) if method.trains else (float_cell(cell), "float")), rates, seeds[:1])
        if method.trains:
            begun += [(place, i, Run(cell[0], name, *cell[1:], rate, seeds[0])) for i, rate in enumerate(order)]
        if chosen is not None:
            late = seeds[1:] if method.trains else seeds
            begun += [(place, len(rates) + i, Run(cell[0], name, *cell[1:], chosen, s)) for i, s in enumerate(late)]
    begun.sort(key=lambda item: item[:2])
    todo = [spec for *_, spec in begun if spec not in lines]
    return todo, len(begun) - len(todo), total


def summary(line: Dict[str, Any]) -> str:
    """A run in one line."""
    measure = measure_of(line["test"])
    dev, test = (measure.value(line[part]) for part in ("dev", "test"))
    what = f"{line['task']} w{line['bits']}.{line['granularity']}{'.scratch' * line['scratch']} {line['method']}"
    found = f"{measure.name} dev {dev:.2f}, test {test:.2f}"
    return f"{what}, {line['rate']}, seed {line['seed']}: {found} ({line['seconds']:.0f} s)"


def parse_cell(task: str, text: str) -> Tuple:
    """Read a cell, w4.channel, w2.tensor.scratch ..., as (task, bits, granularity, from scratch)."""
    bits, granularity, *rest = text.split(".")
    if not (bits[:1] == "w" and bits[1:].isdigit() and granularity in GRANULARITIES):
        raise SystemExit(f"grid.py: --cells: {text} is not of the form w4.channel, w2.tensor.scratch, w4.group")
    if rest not in ([], ["scratch"]) or (rest and TASKS[task].scratch_steps is None):
        raise SystemExit(f"grid.py: --cells: {text}: {task} has no such cell")
    return task, int(bits[1:]), granularity, bool(rest)


_task: Any = None


def _begin(name: str, threads: int) -> None:
    """Prepare a process, once."""
    import torch

    global _task
    threading.Thread(target=_end_with_the_grid, daemon=True).start()
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        _task = TASKS[name]()
    except TaskError as e:
        _task = e


def _end_with_the_grid() -> None:
    """End with the grid: a killed grid's runs would go on, on cores that the next grid counts on, and for nothing."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _start() -> str:
    if isinstance(_task, TaskError):
        raise _task
    return _task.start


def _work(spec: Run, device: str) -> List[Dict[str, Any]]:
    import torch

    return run(_task, spec, torch.device(device), HERE / "exp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--cells", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(MAIN), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates, in place of the task's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    cells = [parse_cell(args.task, text) for text in args.cells]
    rates = tuple(args.rates or TASKS[args.task].rates)
    results = HERE / "results" / f"{args.task}.jsonl"
    results.parent.mkdir(exist_ok=True)
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // args.jobs, 1))))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    columns += TextColumn("left"), TimeRemainingColumn()
    pool = ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), _begin, (args.task, threads))
    failed: Dict[Run, BaseException] = {}
    with lock(results), pool, Progress(*columns, speed_estimate_period=24 * 3600) as progress:
        try:
            start = pool.submit(_start).result()
        except TaskError as e:
            raise SystemExit(f"grid.py: {e}") from None
        bar = progress.add_task(args.task)
        running: Dict[Any, Run] = {}
        while True:
            lines = begun_at(start, finished(results))
            todo, done, total = plan(lines, cells, args.methods, rates, args.seeds)
            progress.update(bar, total=total, completed=done)
            todo = [spec for spec in todo if spec not in running.values() and spec not in failed]
            for spec in todo[: args.jobs - len(running)]:
                running[pool.submit(_work, spec, args.device)] = spec
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                spec = running.pop(future)
                if error := future.exception():
                    failed[spec] = error
                    progress.print(f"{spec} failed: {type(error).__name__}: {error}")
                    continue
                for line in future.result():
                    append(results, line)
                    progress.print(summary(line))
    if failed:
        raise SystemExit(f"grid.py: {len(failed)} runs failed: see above")
    if done < total:
        raise SystemExit(f"grid.py: {total - done} runs wait for the float models. Fix: add float to --methods")


if __name__ == "__main__":
    main()
