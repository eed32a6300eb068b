"""`espnet-rand`: Python, with espnet_rand registered in it and in every Python that it starts."""

import ast
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import List, NoReturn, Optional

from espnet_rand import environment as names
from espnet_rand.errors import UserError, no_espnet
from espnet_rand.processes import with_startup

USAGE = f"""\
usage: espnet-rand [--import MODULE]... [--eval_bits BITS|PLAN] [--packed_backend NAME]
                   [--trailing_silence SECONDS|full] (-m MODULE | -c COMMAND | SCRIPT) [ARGUMENT]...
       espnet-rand link RECIPE
       espnet-rand ship MODEL --target RUNTIME --data wav.scp[,text] --output DIR

Runs Python as `python` does, with quantization registered in every ESPnet task, here and in all
Python processes started below. For example

  espnet-rand -m espnet2.bin.asr_train --quantizer rand --quantizer_conf bits=4 ...
  ./run.sh --python espnet-rand --asr_args "--quantizer_config rand_m3_ste_w4"

--import MODULE  import this module in every process, when ESPnet's tasks are: quantizers and layers of your own
--eval_bits BITS|PLAN  evaluate models at this number of bits, or as a plan file says (docs/precisions.md)
--packed_backend {"|".join(names.BACKENDS)}  how packed models compute (docs/packed_files.md)
--trailing_silence SECONDS|full  what Whisper hears behind each recording (docs/whisper.md)
link RECIPE      links the presets into conf/ of a recipe's directory, and says how to run it
ship MODEL       calibrates a model, writes it for a runtime, and checks there that it says the same (docs/export.md)

Commands of this package: python -m espnet_rand.bin.NAME --help
"""

# options of the launcher, with functions that raise where a value is not allowed
_CHECKS = {
    "--import": lambda name, given: None,
    "--eval_bits": names.bits_or_plan,
    "--packed_backend": names.backend,
    "--trailing_silence": names.seconds,
}
# the options that `python --help` lists
_SWITCHES = "bBdEhiIOPqRsSuvVx?"
_LONG = ("--check-hash-based-pycs", "--help", "--help-all", "--help-env", "--help-xoptions", "--version")


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Replace this process by Python, or link presets; exit with status 2 where the command line is off."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = {flag: [] for flag in _CHECKS}
    while arguments and arguments[0].partition("=")[0] in given:
        flag, equals, value = arguments.pop(0).partition("=")
        if not value and (equals or not arguments):
            _fail(f"{flag} needs a value")
        given[flag].append(value or arguments.pop(0))
        try:
            _CHECKS[flag](flag, given[flag][-1])
        except UserError as e:
            _fail(str(e))
    if not arguments or arguments[0] in ("-h", "--help"):
        _exit(USAGE + _commands(), 0 if arguments else 2)
    if arguments[0] == "link":
        from espnet_rand.bin import link

        link.main(arguments[1:])
        sys.exit()
    if arguments[0] == "ship":
        arguments = ["-m", "espnet_rand.bin.ship", *arguments[1:]]
    _check_flags(arguments)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = with_startup(environment.get("PYTHONPATH", ""))
    if given["--import"]:
        from_outside = environment.get(names.IMPORT, "")
        environment[names.IMPORT] = _joined(from_outside, *given["--import"])
    if given["--eval_bits"]:
        bits = given["--eval_bits"][-1]
        environment[names.EVAL_BITS] = bits if bits.isdecimal() else os.path.abspath(bits)
    if given["--packed_backend"]:
        environment[names.PACKED_BACKEND] = given["--packed_backend"][-1]
    if given["--trailing_silence"]:
        environment[names.TRAILING_SILENCE] = given["--trailing_silence"][-1]
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def _commands() -> str:
    """Write a line for each command of espnet_rand.bin, read from its docstring: an import would import torch."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))}
    commands = {name: ast.parse(text) for name, text in texts.items() if "\nif __name__ ==" in text}
    return "\n".join(f"  {name:<20}{ast.get_docstring(tree).splitlines()[0]}" for name, tree in commands.items())


def _check_flags(arguments: List[str]) -> None:
    """Fail where Python has no such option, or ESPnet's module is not installed.

    Fail, too, where Python's options (E, I, S, alone or among others as in -uE) would hide the folder startup/.
    """
    rest = iter(arguments)
    for flag in rest:
        if not flag.startswith("-") or flag in ("-", "--"):
            return
        if flag.startswith("--"):
            if flag.partition("=")[0] not in _LONG:
                _unknown(flag)
            continue
        switches, last, value = re.fullmatch("-([^cmWX]*)(.?)(.*)", flag, re.DOTALL).groups()
        if set(switches) & set("EIS"):
            _fail(f"Python's {flag} would keep espnet_rand from being registered: leave it out")
        if unknown := set(switches) - set(_SWITCHES):
            _unknown(f"-{min(unknown)}")
        if last == "m" and (value or next(rest, "")).startswith(("espnet2.", "espnet3.")) and not _has_espnet():
            _exit(f"espnet-rand: error: {no_espnet()}", 1)
        if last in ("c", "m"):
            return
        if last and not value:
            next(rest, None)  # the value of -W or -X


def _unknown(flag: str) -> NoReturn:
    """Fail because of an option that nobody knows."""
    _fail(f"{flag} is not known here. Known are {', '.join(_CHECKS)}, which come first, and then Python's own")


def _has_espnet() -> bool:
    """Whether Python would find ESPnet, perhaps in the folder where this was started."""
    there = PathFinder.find_spec("espnet2", [os.getcwd()])
    return there is not None or importlib.util.find_spec("espnet2") is not None


def _joined(*modules: str) -> str:
    """Join lists of modules, each module once, in order."""
    names = [name for part in modules for name in part.split(",") if name]
    return ",".join(dict.fromkeys(names))


def _fail(message: str) -> NoReturn:
    """Exit because of the command line."""
    _exit(f"espnet-rand: error: {message} (--help lists the options)", 2)


def _exit(message: str, status: int) -> NoReturn:
    """Print a message and exit."""
    print(message, file=sys.stderr if status else sys.stdout)
    sys.exit(status)
