"""The messages that docs/troubleshooting.md explains are those of the source."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("espnet_rand", "egs2") for path in (ROOT / folder).rglob("*")]


def python_texts(path):
    """The string literals of a module, what is put into them as …"""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if all(isinstance(part, (ast.Constant, ast.FormattedValue)) for part in parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def test_messages_are_in_the_source():
    texts = [text for path in SOURCES if path.suffix == ".py" for text in python_texts(path)]
    for path in SOURCES:
        if path.suffix == ".sh":
            texts += re.sub(r"\$\{[^}]*\}|\$\d", "…", path.read_text(encoding="utf-8")).splitlines()
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 40
    patterns = [re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL) for message in messages]
    stale = [message for message, pattern in zip(messages, patterns) if not any(map(pattern.search, texts))]
    assert not stale, "\n".join(stale)
