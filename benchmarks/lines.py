"""Files of results: JSON, a line for each."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List


def finished(path: Path) -> List[Dict[str, Any]]:
    """The lines of results, from the oldest. A line that was cut off by a kill is dropped."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found


def append(path: Path, line: Dict[str, Any]) -> None:
    """Add a line, also behind one that was cut off."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read() == b"\n" else b"\n")
        file.write(json.dumps(line).encode() + b"\n")
