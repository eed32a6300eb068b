"""Programs that decode with one runtime each. They are copied beside an exported model, as decode.py."""

import re
from pathlib import Path
from typing import Any


def write_example(runtime: str, folder: Path, **constants: Any) -> None:
    """Write decode.py of a runtime into a folder; `constants` are set in it: NAME = VALUE."""
    text = (Path(__file__).parent / f"decode_{runtime}.py").read_text(encoding="utf-8")
    for name, value in constants.items():
        text, number = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert number == 1, name
    (folder / "decode.py").write_text(text, encoding="utf-8")
