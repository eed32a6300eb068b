"""The blocks of code in a page, and what it says of those that are not run.

A fenced block in sh, python or yaml is run, but after `<!-- not run: REASON -->`, or in a page that has
`<!-- not run, this page: REASON -->`.
"""

import re
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("sh", "python", "yaml")

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4,}.*\n|\n(?= {4}))+")
_NOT_RUN = re.compile(r"<!-- not run: [^>]+-->\s*\Z")
_COMMAND = re.compile(r"^ *(\$ )?(\w+=\S* )*(espnet-rand|python|\./run\.sh|make|pip|git) ", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its language (of one that is indented: none), its text, and whether it is to be run."""

    language: str
    text: str
    is_run: bool


def blocks(page: Path) -> List[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    skipped = "<!-- not run, this page: " in text
    found = []
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        is_run = language in RUN and not skipped and not _NOT_RUN.search(text[: match.start()])
        found.append(Block(language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE), is_run))
    return found


def unfenced_commands(page: Path) -> List[str]:
    """Blocks of a page with commands that are neither fenced as sh nor said to be not run."""
    text = page.read_text(encoding="utf-8")
    if "<!-- not run, this page: " in text:
        return []
    others = [code for language, code, _ in blocks(page) if language not in RUN and _COMMAND.search(code)]
    prose = _FENCE.sub("", text)
    indented = (match for match in _INDENTED.finditer(prose) if not _NOT_RUN.search(prose[: match.start()]))
    return others + [match.group() for match in indented if _COMMAND.search(match.group())]
