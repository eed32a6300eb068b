"""The commands of README.md and docs/ work as they stand: typed one after another, on tiny models and data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from tests.conftest import Corpus
from tests.longform import tones

from .commands import Runner, runner
from .pages import PAGES, blocks, unfenced_commands

# what the pages call a directory of data, and that of the float training
VARIABLES = {"train": "data/train", "test": "data/test", "float": "exp/float"}


def decoded(path: Path):
    """Texts by their keys."""
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def run_script():
    """See runner."""
    with runner() as run:
        yield run


@pytest.fixture(scope="module")
def home(tmp_path_factory, run_script: Runner):
    """Where a user is who has trained by conf/train_asr.yaml, in float and with RAND, and who has run the demo."""
    home = tmp_path_factory.mktemp("home")
    for name in ("conf", "data/train", "exp"):
        (home / name).mkdir(parents=True)
    corpus = Corpus(home / "data/train")
    more = {"best_model_criterion": [["valid", "acc", "max"]]}
    (home / "conf/train_asr.yaml").write_text(corpus.write_config(more).read_text())
    (home / "data/test").symlink_to("train")
    train = "espnet-rand -m espnet2.bin.asr_train --config conf/train_asr.yaml"
    trainings = f"""
        {train} --output_dir exp/float
        {train} --output_dir exp/asr --quantizer_config rand_m3_ste_w4 --init_param exp/float/valid.acc.ave.pth"""
    log = tmp_path_factory.mktemp("log") / "log"
    assert run_script(trainings, home, log, {}) == 0, log.read_text()
    demo(home / "egs2/mini/asr1")
    return home


def demo(recipe: Path):
    """What the README names of what `make demo` makes: a model without an attention decoder, and recordings."""
    exp, test, wavs = recipe / "exp/full/rand_w4_channel", recipe / "data/full/test", recipe / "data/full/wav/test"
    for folder in (exp.parent, test, wavs):
        folder.mkdir(parents=True)
    quantizer = {"quantizer": "rand", "quantizer_conf": {"bits": 4, "estimator": "ste"}}
    _, model = tones.train(exp, **quantizer)
    model.rename(exp / "valid.loss.ave.pth")
    rng = np.random.default_rng(1)
    scp, text = "", ""
    for number in range(2):
        names = tones.names(6, rng)
        wav = wavs / f"us-m1-{number:04d}.wav"
        soundfile.write(wav, tones.melody(names, rng)[0], tones.RATE)
        scp += f"{wav.stem} {wav.relative_to(recipe)}\n"
        text += f"{wav.stem} {' '.join(names)}\n"
    (test / "wav.scp").write_text(scp)
    (test / "text").write_text(text)


def script(page: Path, home: Path) -> str:
    """A page as a script of bash. Its YAML goes over conf/train_asr.yaml, and is trained with if it has no name."""
    lines = []
    for number, (language, text, is_run) in enumerate(blocks(page)):
        if not is_run:
            continue
        if language == "sh":
            lines.append(text)
        elif language == "python":
            (home / f"block{number}.py").write_text(text)
            lines.append(f"python {home}/block{number}.py\n")
        else:
            named = text.startswith("# conf/")
            config = home / (text.split(":")[0][2:] if named else f"block{number}.yaml")
            options = {"quantizer": "rand", **yaml.safe_load(text)}
            config.write_text(yaml.safe_dump({**yaml.safe_load((home / "conf/train_asr.yaml").read_text()), **options}))
            if not named:
                lines.append(
                    f"espnet-rand -m espnet2.bin.asr_train --config {config} --output_dir {home}/exp/block{number}\n"
                )
    return "".join(lines)


RUN = [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=[page.stem for page in RUN])
def test_commands_of_a_page_run_as_they_stand(page, home, run_script: Runner, tmp_path):
    mine = tmp_path / "home"
    shutil.copytree(home, mine, symlinks=True)
    status = run_script(script(page, mine), mine, tmp_path / "log", VARIABLES)
    assert status == 0, (tmp_path / "log").read_text()[-5000:]
    recipe = mine / "egs2/mini/asr1"
    said = decoded(recipe / "data/full/test/text")
    if page.stem == "README":
        for name in ("decoded", "decoded_w3", "decoded_long"):
            assert decoded(recipe / f"exp/full/rand_w4_channel/{name}/1best_recog/text") == said, name
    if page.stem == "python":
        assert said["us-m1-0000"] in (tmp_path / "log").read_text().splitlines()  # by LongForm


def test_what_is_not_run_says_so():
    assert {"README", "tutorial", "precisions", "calibration", "teacher"} <= {page.stem for page in RUN}
    assert not [found for page in PAGES for found in unfenced_commands(page)]
