"""Link the presets of espnet_rand into conf/ of a recipe of ESPnet, and say how to run it with one of them."""

import argparse
import os
import re
from pathlib import Path
from typing import Dict, Optional

from espnet_rand.bin.command import run
from espnet_rand.errors import QuantizationError
from espnet_rand.presets import presets

_EXAMPLE = "rand_m3_ste_w4"
_ESPNET2 = './run.sh --python espnet-rand {option} "--quantizer_config conf/{preset}.yaml"'
_ESPNET3 = """espnet-rand run.py --training_config conf/MY.yaml ...
where conf/MY.yaml reads
  defaults: [NAME OF A TRAINING CONFIGURATION IN conf/]
  model: {{quantizer_config: conf/{preset}.yaml}}"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espnet-rand link", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe's directory: egs2/librispeech/asr1, egs3/mini_an4/esp2_asr")
    return parser


def link(recipe: Path) -> Dict[Path, Path]:
    """Link the presets into <recipe>/conf, where links of an earlier call stay.

    Returns:
        the links, with the presets that they lead to

    Raises:
        FileNotFoundError: it is no recipe
        FileExistsError: conf/ has another file of a preset's name; nothing is linked then
    """
    conf = recipe / "conf"
    if not conf.is_dir() or not any((recipe / name).is_file() for name in ("run.sh", "run.py")):
        raise FileNotFoundError(f"{recipe} is no recipe of ESPnet: it must have conf/, and run.sh or run.py")
    links = {conf / preset.name: preset for preset in presets().values()}
    new = {path: preset for path, preset in links.items() if not path.exists() or not path.samefile(preset)}
    if taken := [str(path) for path in new if os.path.lexists(path)]:
        raise FileExistsError(f"{', '.join(taken)}: there already, and no preset of this espnet_rand: move it away")
    for path, preset in new.items():
        path.symlink_to(preset)
    return links


def training_option(recipe: Path) -> Optional[str]:
    """Find the option of a recipe's run.sh that takes arguments of the training: --asr_args, --train_args ..."""
    for script in filter(Path.is_file, sorted(recipe.glob("*.sh"))):
        text = script.read_text(encoding="utf-8", errors="replace")
        task = script.stem.rstrip("0123456789")
        for name in (f"{task}_args", "train_args", f"{task.rpartition('_')[2]}_args"):  # the last: enh_diar's
            if re.search(rf"^{name}=", text, re.MULTILINE):
                return f"--{name}"
    return None


def link_presets(args: argparse.Namespace) -> None:
    """Link the presets, and say how to run the recipe."""
    if (args.recipe / "codec.sh").is_file():
        raise QuantizationError(
            f"{args.recipe}: ESPnet's codecs have a --quantizer of their own, of activations, and keep it. "
            "Fix: quantize the model from Python, by espnet_rand.quantize"
        )
    recipe, links = args.recipe, link(args.recipe)
    print(f"{len(links)} presets in {recipe / 'conf'}: {', '.join(path.stem for path in links)}\nRun, in {recipe}:\n")
    command = _ESPNET2 if (recipe / "run.sh").is_file() else _ESPNET3
    print(command.format(option=training_option(recipe) or "--<arguments of the training>", preset=_EXAMPLE))


def main(cmd=None) -> None:
    run(link_presets, get_parser(), cmd)
