"""A page's commands, run by bash; each Python that they start is a fork of one process that has ESPnet loaded.

That process is a new one: a fork of one that other tests have computed in may not be able to train.
"""

import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import torch

import espnet_rand
from espnet_rand.bin import launch

espnet_rand.register()
from espnet2.bin import asr_inference, asr_train  # noqa: E402, F401

# how many words, the directory, and the words of a command go to this process; its exit status comes back
_FUNCTIONS = r"""
_ask() {
    local status
    printf '%%s\0' "$#" "$PWD" "$@" >&%d
    read -r status <&%d
    return "$status"
}
espnet-rand() { _ask espnet-rand "$@"; }
python() { _ask python "$@"; }
"""


Runner = Callable[[str, Path, Path, Dict[str, str]], int]


@contextmanager
def runner() -> Iterator[Runner]:
    """A function that runs a script of bash: (script, folder, log, variables) -> its exit status.

    The script ends at the first command that fails.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield lambda *arguments: process.submit(_run, *arguments).result()


def _run(script: str, folder: Path, log: Path, variables: Dict[str, str]) -> int:
    (asks, ask), (answer, answers) = os.pipe(), os.pipe()
    with log.open("wb") as out, open(asks, "rb") as requests, open(answers, "wb", buffering=0) as replies:
        bash = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", _FUNCTIONS % (ask, answer) + script],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            pass_fds=(ask, answer),
        )
        os.close(ask)
        os.close(answer)
        while count := _word(requests):  # nothing where bash has ended
            where, *words = [_word(requests) for _ in range(int(count) + 1)]
            replies.write(f"{_fork(words, where, out.fileno())}\n".encode())
    return bash.wait()


def _word(requests: Any) -> str:
    return b"".join(iter(lambda: requests.read(1).rstrip(b"\0"), b"")).decode()


def _fork(words: List[str], folder: str, out: int) -> int:
    """Run `espnet-rand` or `python` in a child of this process. Returns the exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        logging.root.handlers.clear()
        torch.set_num_threads(1)  # more would wait for threads that a fork has not
        status = _status(*words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _status(program: str, *words: str) -> int:
    try:
        if program == "espnet-rand":
            os.execve = _instead_of_execve
            launch.main(list(words))
        if any(word.startswith("espnet2.") for word in words):
            sys.exit("plain python computes with the float weights: take espnet-rand")
        _interpret(words)
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _instead_of_execve(_: str, words: List[str], environment: Dict[str, str]) -> None:
    os.environ.update(environment)
    _interpret(words[1:])
    sys.exit()


def _interpret(words: List[str]) -> None:
    """What `python WORDS` does."""
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")
