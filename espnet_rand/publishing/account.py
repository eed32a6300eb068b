"""What the author of a published model says of it, and no file does. Nothing of it is guessed."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from espnet_rand.errors import UserError

#: options that must be given, and what they say
_ASKED = {
    "license": "of the weights, as the hub spells it: cc-by-4.0, apache-2.0, mit, other",
    "origin": "where the weights come from, in a sentence: trained from random weights, or fine-tuned from which model",
    "dataset": "names of the data that it was trained on, of the hub if they are there",
    "data_license": "licence of these data",
    "plugin": "what pip installs espnet_rand from: git+https://..., the address of a wheel, or a version of an index",
}


class AccountError(UserError):
    """Something is not said, or not spelt as the hub wants it."""


@dataclass(frozen=True)
class Account:
    """What the author says of a model.

    Attributes:
        license: of the weights, as the hub spells it
        origin: where the weights come from
        datasets: that it was trained on
        data_license: their licence
        plugin: what pip installs this package from
        languages: that it is for, as the hub spells them
        results: Markdown: error rates, and what they were measured on
    """

    license: str
    origin: str
    datasets: Sequence[str]
    data_license: str
    plugin: str
    languages: Sequence[str] = ()
    results: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read` reads to a command's parser."""
    group = parser.add_argument_group("What the model card says (all but the last two must be given)")
    for name, about in _ASKED.items():
        group.add_argument(f"--{name}", nargs="+" if name == "dataset" else None, help=about)
    group.add_argument("--language", nargs="+", default=[], help="codes of languages: en, de")
    group.add_argument("--results", type=Path, help="Markdown with error rates, as RESULTS.md of a recipe")


def read(args: argparse.Namespace) -> Account:
    """Read the options of `add_arguments`.

    Raises:
        AccountError: one is missing, or not allowed
        OSError: the file of results cannot be read
    """
    if missing := [name for name in _ASKED if not getattr(args, name)]:
        told = "; ".join(f"--{name} ({_ASKED[name]})" for name in missing)
        raise AccountError(f"the model card lacks what only you know. Fix: give {told}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", args.license):
        raise AccountError(f"--license: {args.license!r} is not allowed. Fix: {_ASKED['license']}")
    for language in args.language:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual", language):
            raise AccountError(f"--language: {language!r} is not allowed. Fix: codes of ISO 639: en, de")
    for name in args.dataset:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise AccountError(f"--dataset: {name!r} is not allowed. Fix: a name as on the hub, NAME or USER/NAME")
    if "espnet_rand" not in args.plugin.replace("-", "_") or not re.fullmatch(r"[\w.+:/@=<>~!,#&\[\]-]+", args.plugin):
        raise AccountError(f"--plugin: {args.plugin!r} is not allowed. Fix: {_ASKED['plugin']}")
    if re.match(r"[./~]|file:", args.plugin):
        raise AccountError(f"--plugin: {args.plugin} is on this machine alone. Fix: {_ASKED['plugin']}")
    try:
        results = "" if args.results is None else args.results.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise AccountError(f"--results: {args.results} is no text in UTF-8: {e.reason}. Fix: give Markdown") from None
    return Account(args.license, args.origin, args.dataset, args.data_license, args.plugin, args.language, results)
