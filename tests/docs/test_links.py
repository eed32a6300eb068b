"""The links between the pages lead somewhere, and README.md leads to every page of docs/."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "egs2/*/*/README.md", "benchmarks/**/*.md", "espnet_rand/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def prose(page):
    """A page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def links(page):
    """The links within the repository: what they name, the file, the anchor in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield target, (page.parent / path).resolve() if path else page, anchor


def anchors(page):
    """Those that GitHub gives to the headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    dead = [t for t, path, anchor in links(page) if not path.exists() or (anchor and anchor not in anchors(path))]
    assert not dead


def test_readme_leads_to_every_page():
    assert {*(ROOT / "docs").glob("*.md")} <= {path for _, path, _ in links(ROOT / "README.md")}
