#!/usr/bin/env python3
"""Download LibriSpeech from openslr.org, check it, unpack it.

What is unpacked is skipped, and a download that was interrupted goes on where it was. The archives stay
where they are (60 GB for train_960); once unpacked, they may be removed.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tarfile
import time
import zlib
from pathlib import Path

import requests
import urllib3
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import open as open_with_progress
from sets import TRAIN_SETS, parts_of

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
TRIES = 5  # in a row that bring nothing
LM_TEXT = "librispeech-lm-norm.txt.gz"


class DownloadError(Exception):
    """What went wrong and how to fix it, in one line."""


def receive(url: str, path: Path, progress: Progress, task) -> None:
    """Append to `path` what it lacks of `url`.

    Raises:
        requests.RequestException, urllib3.exceptions.HTTPError: the connection failed or broke off
    """
    start = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # there is no more: the checksum says whether it is right
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # the server sends all of it
        length = int(response.headers.get("Content-Length", 0))
        progress.update(task, completed=start, total=start + length or None)
        with path.open("ab" if start else "wb") as file:
            # not iter_content, which would uncompress what a server calls gzip-encoded
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                progress.advance(task, len(chunk))
        if path.stat().st_size < start + length:  # older urllib3 ends in silence
            raise requests.ConnectionError("the connection broke off")


def fetch(url: str, path: Path) -> None:
    """Download `url` to `path`; what is there already of it is kept.

    Raises:
        DownloadError: it cannot be downloaded
    """
    failures = 0
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(path.name, total=None)
        while True:
            before = path.stat().st_size if path.exists() else 0
            try:
                return receive(url, path, progress, task)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as e:
                answer = getattr(e, "response", None)
                refused = answer is not None and answer.status_code < 500
                more = path.exists() and path.stat().st_size > before
                failures = 0 if more else failures + 1
                if refused or failures == TRIES:
                    raise DownloadError(
                        f"{url}: {e}. Fix: see that this address is reached (--base_url names another server) and run "
                        "again, which goes on from here; or get it by other means, and give --librispeech DIR"
                    ) from None
                print(f"{url}: {e}; trying again", flush=True)
                time.sleep(0 if more else 2**failures)
            except OSError as e:
                raise DownloadError(f"{path}: {e.strerror}. Fix that and run again, which goes on from here") from None


def fetch_whole(url: str, path: Path, check) -> None:
    """Download `url` to `path`, which has that name only when `check(temporary name)` raises nothing.

    Raises:
        DownloadError: it cannot be downloaded, or the check failed; then what was downloaded is removed
    """
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.part")
    fetch(url, temporary)
    print(f"checking {path.name}", flush=True)
    try:
        check(temporary)
    except DownloadError:
        temporary.unlink()
        raise
    temporary.rename(path)


def check_md5(wanted: str):
    """A check that compares with an MD5 sum, in hexadecimal."""

    def check(path: Path):
        md5 = hashlib.md5()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                md5.update(chunk)
        if md5.hexdigest() != wanted:
            raise DownloadError(
                f"{path} came damaged (MD5 {md5.hexdigest()}, not {wanted}) and is removed. Fix: run again, which "
                "downloads it anew"
            )

    return check


def check_gzip(path: Path):
    """Check the sums that a gzip file has in itself."""
    try:
        unpacker = zlib.decompressobj(wbits=31)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                unpacker.decompress(chunk)
        if not unpacker.eof:
            raise zlib.error("it breaks off")
    except zlib.error as e:
        raise DownloadError(
            f"{path} came damaged ({e}) and is removed. Fix: run again, which downloads it anew"
        ) from None


def read_md5sums(base_url: str, downloads: Path) -> dict:
    """The published sums: archive -> MD5 in hexadecimal."""
    path = downloads / "md5sum.txt"

    def check(temporary: Path):
        if not parse_md5sums(temporary):
            raise DownloadError(f"{base_url}/12/md5sum.txt has no MD5 sums. Fix: is --base_url right?")

    fetch_whole(f"{base_url}/12/md5sum.txt", path, check)
    return parse_md5sums(path)


def parse_md5sums(path: Path) -> dict:
    """Read the output of md5sum: archive -> MD5 in hexadecimal."""
    lines = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {fields[1].lstrip("*"): fields[0] for fields in lines if len(fields) == 2 and len(fields[0]) == 32}


def unpack(archive: Path, corpus: Path, part: str) -> None:
    """Unpack a part's archive to <corpus>/<part>, which is there only when all of it is.

    Raises:
        DownloadError: it is no such archive
    """
    temporary = corpus / f".{part}.unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with (
            open_with_progress(archive, "rb", description=archive.name, disable=not sys.stdout.isatty()) as file,
            tarfile.open(fileobj=file, mode="r|gz") as tar,
        ):
            tar.extractall(temporary, filter="data")
        for text in (temporary / corpus.name).glob("*.TXT"):  # SPEAKERS.TXT ...: the same in every archive
            os.replace(text, corpus / text.name)
        os.replace(temporary / corpus.name / part, corpus / part)
    except (tarfile.TarError, EOFError, zlib.error, FileNotFoundError) as e:
        raise DownloadError(f"{archive} cannot be unpacked: {e}. Fix: remove it and run again") from None
    except OSError as e:
        raise DownloadError(f"{corpus}: {e.strerror}. Fix that and run again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def get_parts(parts: list, base_url: str, downloads: Path) -> None:
    """Have <downloads>/LibriSpeech/<part> of all parts."""
    corpus = downloads / "LibriSpeech"
    missing = [part for part in parts if not (corpus / part).exists()]
    if not missing:
        return
    corpus.mkdir(parents=True, exist_ok=True)
    md5sums = read_md5sums(base_url, downloads)
    for part in missing:
        archive = downloads / f"{part}.tar.gz"
        if archive.name not in md5sums:
            raise DownloadError(f"{downloads / 'md5sum.txt'} does not name {archive.name}. Fix: remove it, run again")
        print(f"{part}: {base_url}/12/{archive.name}", flush=True)
        fetch_whole(f"{base_url}/12/{archive.name}", archive, check_md5(md5sums[archive.name]))
        unpack(archive, corpus, part)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=Path, required=True, help="the folder for archives and LibriSpeech/")
    parser.add_argument("--base_url", required=True, help="below it are 12/<part>.tar.gz and 12/md5sum.txt")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--train_set", choices=TRAIN_SETS, help="get the recordings of this training set, and the others")
    what.add_argument("--lm_text", action="store_true", help=f"get 11/{LM_TEXT}")
    args = parser.parse_args()
    if not hasattr(tarfile, "data_filter"):
        sys.exit("download.py: this Python cannot unpack archives safely. Fix: use 3.10.12, 3.11.4, 3.12 or later")
    try:
        args.downloads.mkdir(parents=True, exist_ok=True)
        if args.lm_text:
            fetch_whole(f"{args.base_url}/11/{LM_TEXT}", args.downloads / LM_TEXT, check_gzip)
        else:
            get_parts(parts_of(args.train_set), args.base_url, args.downloads)
    except DownloadError as e:
        sys.exit(f"download.py: {e}")
    except KeyboardInterrupt:
        sys.exit("download.py: interrupted; the same command goes on from here")


if __name__ == "__main__":
    main()
