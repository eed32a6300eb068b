"""Make the folder, check it, and upload it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import yaml

from espnet_rand.atomic import replacing_directory, write_tensors
from espnet_rand.errors import MissingFileError, UserError, few
from espnet_rand.packing import PackedModel, report, write_packed
from espnet_rand.publishing import checking, exported, private
from espnet_rand.publishing.account import Account
from espnet_rand.publishing.card import Card
from espnet_rand.publishing.hub import Hub, get_token
from espnet_rand.shipping.espnet_folder import write_config
from espnet_rand.shipping.output import check_output, files_of
from espnet_rand.toolkit.zoo import Loader, decoding_options, find_loader, meta

_MODEL, _FLOAT = "model.safetensors", "float.pth"
#: stands for the name of a folder that is not uploaded
_NO_TAG = "USER/NAME"
#: options with the kind of a part, and the kinds that need openai-whisper beside ESPnet
_PARTS = ("frontend", "encoder", "decoder", "token_type")
_OF_WHISPER = ("whisper", "whisper_en", "whisper_multilingual")
#: ends of options whose value is a file, or a list of tokens; the end of one that is a file for some types of tokens
_FILES, _BPE = ("token_list", "stats_file"), "bpemodel"


class PublishingError(UserError):
    """The model cannot be published as asked."""


@dataclass(frozen=True)
class Publication:
    """What is to be published.

    Attributes:
        model_file: the packed file
        packed: what it holds
        config: config.yaml of its training
        task: ESPnet's
        account: what the author says
        output: the folder; it must not be there, or be that of an earlier run
        exported: folders and files for other runtimes
        with_float: add a checkpoint with decoded weights
        repo: user/name on the hub; None: the folder is not uploaded
        search: options of the class that loads it, for the model card's programs
    """

    model_file: Path
    packed: PackedModel
    config: Path
    task: str
    account: Account
    output: Path
    exported: Sequence[Path] = ()
    with_float: bool = False
    repo: Optional[str] = None
    search: Mapping[str, Any] = field(default_factory=dict)


def publish(what: Publication) -> List[str]:
    """Make the folder, load it as a user would, and upload it.

    Returns:
        the names of its files; then the address, if it was uploaded

    Raises:
        UserError: one of its many kinds; before any work where that is known. Without a folder, unless the upload fails
    """
    check_output(what.output, (what.model_file, what.config, *what.exported))
    exported.check(what.exported)
    loader = find_loader(what.task)
    if unknown := sorted({*what.search}.difference(loader.options)):
        raise PublishingError(
            f"--search_conf: {loader.name} has no {few(unknown, 3)}. Fix: one of {', '.join(loader.options)}"
        )
    options = _options(what)
    hub = None if what.repo is None else Hub(what.repo)
    with replacing_directory(what.output) as folder:
        card = _write(what, loader, options, folder)
        private.check(folder, [what.config, what.model_file, *what.exported], get_token())
        checking.check(folder, card.tag, card.programs())
    address = [] if hub is None else [hub.upload(what.output)]
    return [*files_of(what.output), *address]


def _options(what: Publication) -> Dict[str, Any]:
    """The options of the published config.yaml. Raises MissingFileError, PublishingError: files that it names."""
    options = decoding_options(what.task, what.config)
    for name, value in _named(options):
        # Whisper's tokens, and those of others, have a name in place of a file
        of_file = name.endswith(_FILES) or options.get(name.removesuffix(_BPE) + "token_type") == "bpe"
        if of_file and name.endswith((*_FILES, _BPE)) and not isinstance(value, list) and not _is_file(value):
            raise MissingFileError(
                f"{what.config}: {name}: no such file: {value} (from {Path.cwd()}). Fix: start this where the training "
                "was started, or correct the path"
            )
    for name, value in private.absolute_paths(options):
        if not _is_file(value):
            raise PublishingError(
                f"{what.config}: {name}: {value} is no file of this machine. Fix: correct the path, or take it out"
            )
    return options


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_file()


def _named(options: Any) -> List[Any]:
    """The options, and those of mappings in them, with their names."""
    found = []
    for name, value in options.items():
        found += _named(value) if isinstance(value, dict) else [(str(name), value)]
    return found


def _write(what: Publication, loader: Loader, options: Dict[str, Any], folder: Path) -> Card:
    """Write all files into an empty folder; return its card."""
    for path, name in write_config(options, folder).items():
        if any(part.startswith(".") for part in Path(path).parts if part != ".."):
            raise PublishingError(f"{what.config}: {path} is hidden, and not published. Fix: if it is needed, move it")
        private.without_origin(folder / name)
    write_packed(folder / _MODEL, what.packed)
    if what.with_float:
        write_tensors(folder / _FLOAT, what.packed.state_dict())
    about = meta(loader, "config.yaml", _MODEL)
    (folder / "meta.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    card = Card(
        tag=what.repo or _NO_TAG,
        task=what.task,
        loader=loader,
        packed=what.packed,
        model_file=_MODEL,
        account=what.account,
        exported=exported.copy(what.exported, folder),
        float_file=_FLOAT if what.with_float else None,
        search=what.search,
        packages=["openai-whisper"] if any(options.get(part) in _OF_WHISPER for part in _PARTS) else [],
    )
    (folder / "README.md").write_text(card.text(), encoding="utf-8")
    held = {
        "quantizer": {name: what.packed.info.get(name) for name in ("quantizer", "quantizer_conf")},
        "totals": report(what.packed).totals,
        "versions": {name: about[name] for name in ("espnet", "espnet_rand", "torch")},
        "files": sorted({*files_of(folder), "report.json"}),
    }
    (folder / "report.json").write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return card
