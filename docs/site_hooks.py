"""Hooks of mkdocs: make a site of the repository's Markdown as it stands, without copies of it.

mkdocs takes its pages from one folder. Here they come from the whole repository, by their own paths, so that a
relative link means the same on the site as on a Git host.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "egs2/*/*/README.md", "benchmarks/**/*.md", "espnet_rand/**/*.md")
NOTEBOOKS = ("docs/*.ipynb",)
OTHERS = (
    "docs/site.css",
    "docs/drawings/*.svg",
    "docs/drawings/*.png",
    "egs2/*/*/images/*.png",
    "benchmarks/methods/results/*.png",
)

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_INDENTED_TAG = re.compile(r"^ +(?=</?(?:audio|source)\b)", re.MULTILINE)
_REFERENCE = re.compile(r"^<!-- (::: \S+) -->$", re.MULTILINE)


class Notebook(File):
    """An executed notebook as a page, with its outputs."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        from nbconvert import MarkdownExporter

        markdown, _ = MarkdownExporter().from_filename(self.abs_src_path)
        return _INDENTED_TAG.sub("", markdown)  # what is indented would be a block of code


def on_config(config: Any) -> Any:
    """Give headings the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Take the pages and images of the repository in place of what lies in docs/."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in sorted({path for pattern in (*PAGES, *NOTEBOOKS, *OTHERS) for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        file = (Notebook if path.suffix == ".ipynb" else File)(
            name, str(ROOT), config.site_dir, config.use_directory_urls
        )
        # docs/ is the top of the site
        file.dest_uri = "readme.html" if name == "README.md" else file.dest_uri.removeprefix("docs/")
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Write what mkdocs cannot show as what it can.

    - A link to a file that is no page leads to the repository, if `repo_url` is set. Otherwise its text stays.
    - A comment `<!-- ::: NAME -->` becomes the reference of NAME, which a Git host does not show.
    """
    folder = ROOT / PurePosixPath(page.file.src_uri).parent

    def link(match: "re.Match[str]") -> str:
        image, text, target, _ = match.groups()
        path = (folder / target).resolve()
        if image or not path.exists() or files.get_file_from_path(path.relative_to(ROOT).as_posix()):
            return match.group()
        return f"[{text}]({config.repo_url}/blob/HEAD/{path.relative_to(ROOT)})" if config.repo_url else text

    return _REFERENCE.sub(r"\1", _LINK.sub(link, markdown))
