"""Reads LibreOffice's help: HTML pages whose paragraphs have ids that all languages share."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from pairs import Pair

from espnet_rand.kaldi import DataError
from espnet_rand.reporting import following

SOURCE = "en-US"
PARAGRAPHS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")


class Page(HTMLParser):
    """Collects the paragraphs that have an id.

    A paragraph may hold variants of a word for systems or programs, which the browser hides but for one: hidden spans,
    of which the default is read, and no other.

    Attributes:
        paragraphs: texts by ids; of those with one id, the first
    """

    def __init__(self):
        super().__init__()
        self.paragraphs: Dict[str, str] = {}
        self._key: Optional[str] = None
        self._text: List[str] = []
        self._hidden: List[bool] = []  # for each open span of this paragraph

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        if tag in PARAGRAPHS:
            self._end()
            self._key = about.get("id")
        elif tag == "span":
            self._hidden.append("hidden" in about and not (about.get("id") or "").startswith("default"))
        elif tag == "br":
            self._text.append(" ")

    def handle_endtag(self, tag):
        if tag in PARAGRAPHS:
            self._end()
        elif tag == "span" and self._hidden:
            self._hidden.pop()

    def handle_data(self, data):
        if not any(self._hidden):
            self._text.append(data)

    def close(self):
        super().close()
        self._end()

    def _end(self):
        if self._key:
            self.paragraphs.setdefault(self._key, "".join(self._text))
        self._key, self._text, self._hidden = None, [], []


def paragraphs(path: Path) -> Dict[str, str]:
    """Read the paragraphs of a page, by their ids.

    Raises:
        DataError: it is not there, not UTF-8, or no HTML
    """
    page = Page()
    try:
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
    except (OSError, UnicodeError, AssertionError) as e:  # the last by html.parser, of markup that it does not know
        raise DataError(f"{path}: not to be read: {e}. Fix: unpack Debian's packages again") from None
    return page.paragraphs


def read_help(folder: Path, target: str) -> Iterator[Tuple[str, List[Pair]]]:
    """Yield each page that both languages have: its name, and the pairs of its paragraphs.

    Args:
        folder: has the pages of both languages at any depth, as help/LANGUAGE/text
        target: the other language, such as de

    Raises:
        DataError: there are none
    """
    roots = [next(iter(sorted(folder.rglob(f"help/{language}/text"))), None) for language in (SOURCE, target)]
    for language, root in zip((SOURCE, target), roots):
        if root is None:
            package = f"libreoffice-help-{language.lower()}"
            raise DataError(f"{folder}: no help/{language}/text is below it. Fix: unpack Debian's {package} there")
    source_root, target_root = roots
    for path in following(sorted(source_root.rglob("*.html")), "pages of help"):
        page = path.relative_to(source_root).with_suffix("").as_posix()
        if (other := target_root / path.relative_to(source_root)).is_file():
            texts, translations = paragraphs(path), paragraphs(other)
            name = page.replace("/", "-")
            yield page, [Pair(f"{name}-{key}", texts[key], translations[key]) for key in texts if key in translations]
