"""What the reports of the benchmarks share."""

import platform
from datetime import date

import torch


def circumstances(command: str) -> str:
    """The command, the date, torch's version and the machine."""
    machine = platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"`{command}`, {date.today()}, torch {torch.__version__}, {machine} ({capability})"
