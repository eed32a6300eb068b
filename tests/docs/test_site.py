"""The docs site: every page is in its navigation, every drawing on a page, and it is made without a dead link."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from .test_links import PAGES, ROOT

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav):
    """The files that a navigation names."""
    for entry in nav:
        for _, value in entry.items():
            if isinstance(value, str):
                yield value
            else:
                yield from pages(value)


def test_the_navigation_has_every_page_once():
    found = [*PAGES, *ROOT.glob("docs/*.ipynb")]
    assert sorted(pages(CONFIG["nav"])) == sorted(page.relative_to(ROOT).as_posix() for page in found)


def test_every_drawing_is_on_a_page_and_can_be_drawn():
    drawn = {path.stem for path in (ROOT / "docs/drawings").glob("*.svg")}
    used = {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"!\[[^\]]+\]\(drawings/(\w+)\.svg\)", page.read_text(encoding="utf-8"))
    }
    script = (ROOT / "docs/drawings.py").read_text(encoding="utf-8")
    assert drawn == used == set(re.findall(r"^def ([a-z]\w*)\(\) -> None:\n", script, re.MULTILINE)) - {"main"}


def test_the_site_is_made_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (the extra docs)")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings is not installed (the extra docs)")
    pytest.importorskip("nbconvert", reason="nbconvert is not installed (the extra docs)")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr  # the configuration is strict: warnings are errors
    home, api = ((tmp_path / name).read_text(encoding="utf-8") for name in ("index.html", "api.html"))
    assert "Nearly all tasks of ESPnet" in home and 'href="python.html"' in home
    assert "what was quantized and what was left in float" in api  # of a docstring
    notebook = (tmp_path / "notebook.html").read_text(encoding="utf-8")
    assert notebook.count("<audio") == 2 and "8 of 8 recordings are right" in notebook
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//", text), page
