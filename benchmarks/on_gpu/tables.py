"""The tables of a visit's results."""

from typing import Any, Dict, List, Sequence

from results import Line, Results

from espnet_rand.atomic import write_text
from espnet_rand.reporting import markdown


def write_tables(results: Results) -> None:
    """Write README.md beside the results."""
    machine = results.of("machine").get("machine", {}).get("text") or "No step has begun."
    tables = [make(results) for make in (_steps, _tests, _training, _decoding, _failures)]
    write_text(results.folder / "README.md", "\n".join([f"# On a GPU\n\n{machine}\n", *tables]))


def _table(title: str, about: str, header: Sequence[str], rows: List[Sequence[str]]) -> str:
    return f"## {title}\n\n{about}\n\n{markdown(header, rows)}" if rows else f"## {title}\n\nNothing yet.\n"


def _steps(results: Results) -> str:
    rows = [
        [name, f"{line['seconds']:.0f}", f"{line['limit']:.0f}", _last(line["error"]) or "done"]
        for name, line in results.of("visit").items()
    ]
    return _table("Steps", "Each has a limit.", ["step", "s", "limit, s", "state"], rows)


def _tests(results: Results) -> str:
    rooms: Dict[str, List[Line]] = {}
    for name, line in results.of("tests").items():
        rooms.setdefault(name.split("/")[1], []).append(line)
    rows = []
    for room, lines in rooms.items():
        outcomes = [line["outcome"] for line in lines]
        counts = [str(outcomes.count(outcome)) for outcome in ("passed", "failed", "skipped")]
        rows.append([room, *counts, f"{sum(line['seconds'] for line in lines):.1f}"])
    return _table("Tests", "Those of this device.", ["room", "passed", "failed", "skipped", "s"], rows)


def _training(results: Results) -> str:
    rows = [
        [*line["case"], f"{line['ms']:.2f}", f"{line['ratio']:.3f}"]
        + [f"{line['least']:.2f}..{line['most']:.2f}", _mebibytes(line["peak"])]
        for line in results.of("training").values()
        if not line["error"]
    ]
    about = "A step: forward, backward, Adam. Medians; ratios are to float in the same round."
    header = ["size", "dtype", "method", "ms", "ratio", "rounds' ratios", "peak, MiB"]
    return _table("Training steps", about, header, rows)


def _decoding(results: Results) -> str:
    rows = [
        [*line["case"], f"{line['frames']:.0f}", f"{line['whole']:.0f}"]
        + [_mebibytes(line["weights"]), _mebibytes(line["peak"]), f"{line['distance']:.1e}"]
        for line in results.of("decoding").values()
        if not line["error"]
    ]
    about = (
        "Frames a second, one after another and as a whole. The distance is that of the outputs to float32, in "
        "parts of the norm: with the same decoded weights where codes are packed, else with the float weights."
    )
    header = ["size", "weights", "one by one", "whole", "weights, MiB", "peak, MiB", "distance"]
    return _table("Decoding", about, header, rows)


def _failures(results: Results) -> str:
    rows = [
        [step, name, _last(line["error"])]
        for step in ("machine", "rooms", "tests", "training", "decoding")
        for name, line in results.of(step).items()
        if line["error"]
    ]
    about = "What has no result, and the last line of its traceback, which results.jsonl has. Output is in log.txt."
    return _table("Failures", about, ["step", "what", "error"], rows)


def _mebibytes(count: Any) -> str:
    return "" if count is None else f"{count / 2**20:.1f}"


def _last(error: str) -> str:
    """The last line of an error, short, and without what would end a cell of a table."""
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip().replace("|", "/")[:200] if lines else ""
