"""The tasks of the comparison by their names."""

from typing import Dict, Type

from speech import Mini, Prompts, PromptsHalf, Queen, QueenHalf
from task import Task
from translation import Help

TASKS: Dict[str, Type[Task]] = {
    "mini": Mini,
    "prompts": Prompts,
    "prompts_bf16": PromptsHalf,
    "queen": Queen,
    "queen_bf16": QueenHalf,
    "help": Help,
}
