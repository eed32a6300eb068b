"""A corpus laid out like LibriSpeech, of short noises, and a server that has its archives."""

import gzip
import hashlib
import http.server
import random
import re
import tarfile
import threading
from pathlib import Path

import numpy as np
import soundfile

WORDS = ["THE", "QUICK", "BROWN", "FOX", "JUMPS", "OVER", "A", "LAZY", "DOG", "AND", "WAS", "NOT", "GLAD", "OF", "IT"]
PARTS = {
    "train-clean-100": [(103, 1240), (103, 1241), (1034, 121119)],
    "train-clean-360": [(100, 121669)],
    "train-other-500": [(20, 205)],
    "dev-clean": [(84, 121123)],
    "dev-other": [(116, 288045)],
    "test-clean": [(61, 70968)],
    "test-other": [(367, 130732)],
}
UTTERANCES = 4  # of a chapter


def make_corpus(root: Path) -> Path:
    """Make <root>/LibriSpeech with all parts; returns that folder."""
    corpus = root / "LibriSpeech"
    words, noise = random.Random(0), np.random.default_rng(0)
    for part, chapters in PARTS.items():
        for speaker, chapter in chapters:
            folder = corpus / part / str(speaker) / str(chapter)
            folder.mkdir(parents=True)
            lines = []
            for number in range(UTTERANCES):
                name = f"{speaker}-{chapter}-{number:04d}"
                length = 19200 + 640 * number + 7 * (number % 2)
                soundfile.write(folder / f"{name}.flac", 0.1 * noise.standard_normal(length), 16000)
                lines.append(f"{name} {' '.join(words.choices(WORDS, k=3))}")
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    rows = [(speaker, chapter, part) for part, chapters in PARTS.items() for speaker, chapter in chapters]
    speakers = {f"{speaker:<5}| F | {part} | 1.00 | Somebody" for speaker, _, part in rows}
    chapters = [
        f"{chapter} | {speaker} | 1.00 | {part} | 1 | 1 | A chapter | A book" for speaker, chapter, part in rows
    ]
    (corpus / "SPEAKERS.TXT").write_text("\n".join(sorted(speakers)) + "\n")
    (corpus / "CHAPTERS.TXT").write_text("\n".join(chapters) + "\n")
    return corpus


def make_archives(corpus: Path, root: Path) -> None:
    """Make what openslr.org/resources has of it, below `root`: 12/<part>.tar.gz, 12/md5sum.txt, 11/..."""
    for number in ("11", "12"):
        (root / number).mkdir(parents=True)
    sums = []
    for part in PARTS:
        path = root / f"12/{part}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for text in ("SPEAKERS.TXT", "CHAPTERS.TXT", part):
                tar.add(corpus / text, f"LibriSpeech/{text}")
        sums.append(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n")
    (root / "12/md5sum.txt").write_text("".join(sums))
    text = "\n".join(" ".join(random.Random(n).choices(WORDS, k=5)) for n in range(20))
    (root / "11/librispeech-lm-norm.txt.gz").write_bytes(gzip.compress(text.encode()))


class Server(http.server.ThreadingHTTPServer):
    """Serves the files below `root` at .url, ranges of them too.

    Attributes:
        break_off: {path: how many answers for it to break off halfway}
        damage: {path: how many answers for it to damage}
        ranges: whether to understand ranges
        requests: what was asked for: (path, first byte)
    """

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.break_off, self.damage, self.ranges, self.requests = {}, {}, True, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        if not (server.root / path).is_file():
            return self.send_error(404)
        data = (server.root / path).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.ranges else 0
        server.requests.append((path, start))
        if start and start >= len(data):
            return self.send_error(416)
        if server.damage.get(path):
            server.damage[path] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        part = data[start:]
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if server.break_off.get(path):
            server.break_off[path] -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass
