"""A tiny ESPnet corpus and configuration, and a way to run the commands of the README."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.devices import DEVICES, computing_on

PYTHONPATH = os.environ.get("PYTHONPATH", "")  # as it was before a test registers, which adds to it
TEXTS = ["ab", "ba", "aab", "bba", "abab", "baba"]
MODEL = {
    "token_type": "char",
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "cnn_module_kernel": 3,
        "macaron_style": True,
        "use_cnn_module": True,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.5},
    "frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": 16},
    "normalize": None,
    "optim": "adam",
    "optim_conf": {"lr": 0.001},
}


class Corpus:
    """Kaldi-style data of a few noises, tokens, shapes and a configuration, in one directory."""

    def __init__(self, root: Path):
        import soundfile

        self.root = root
        self.tokens = root / "tokens.txt"
        self.tokens.write_text("\n".join(["<blank>", "<unk>", "a", "b", "<sos/eos>"]) + "\n")
        rng = np.random.default_rng(0)
        scp, text, speech, length = [], [], [], []
        for n, words in enumerate(TEXTS):
            wav = root / f"u{n}.wav"
            soundfile.write(wav, 0.1 * rng.standard_normal(8000 + 800 * n), 16000)
            scp.append(f"u{n} {wav}")
            text.append(f"u{n} {words}")
            speech.append(f"u{n} {8000 + 800 * n}")
            length.append(f"u{n} {len(words)}")
        for name, lines in (("wav.scp", scp), ("text", text), ("speech_shape", speech), ("text_shape", length)):
            (root / name).write_text("\n".join(lines) + "\n")
        self.config = root / "train.yaml"
        self.write_config({})

    def write_config(self, more: dict, name: str = "train.yaml") -> Path:
        """A configuration file: the model's, the data's, and `more`."""
        data = {
            **MODEL,
            "token_list": str(self.tokens),
            "batch_type": "sorted",
            "batch_size": 3,
            "num_workers": 0,
            "num_att_plot": 0,
            "use_tensorboard": False,
            "use_matplotlib": False,
            "max_epoch": 1,
            "best_model_criterion": [["valid", "loss", "min"]],
            "keep_nbest_models": 2,
        }
        for split in ("train", "valid"):
            data[f"{split}_data_path_and_name_and_type"] = [
                [str(self.root / "wav.scp"), "speech", "sound"],
                [str(self.root / "text"), "text", "text"],
            ]
            data[f"{split}_shape_file"] = [str(self.root / "speech_shape"), str(self.root / "text_shape")]
        path = self.root / name
        path.write_text(yaml.safe_dump({**data, **more}))
        return path


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    """The device that a test computes on; see tests/devices.py."""
    with computing_on(request.param, request.module):
        yield request.param


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    """See Corpus."""
    return Corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def run():
    """Run a command line whose first word may be `espnet-rand` or `python`; returns the finished process."""

    def run(*command, check=True, **environment):
        program, *arguments = map(str, command)
        launch = {"python": [sys.executable], "espnet-rand": [sys.executable, "-m", "espnet_rand"]}
        if program == "python":  # stock
            environment = {"PYTHONPATH": PYTHONPATH, **environment}
        done = subprocess.run(
            launch.get(program, [program]) + arguments,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def train():
    """`espnet2.bin.asr_train` in this process (importing ESPnet anew costs more than the training)."""
    import espnet_rand

    espnet_rand.register()
    from espnet2.tasks.asr import ASRTask

    def train(*arguments):
        ASRTask.main(cmd=[str(argument) for argument in arguments])

    return train


@pytest.fixture(scope="session")
def experiments(corpus, train, tmp_path_factory):
    """A float experiment, `float`, and one trained with RAND at 3 bits from it, `rand`, in one directory."""
    root = tmp_path_factory.mktemp("experiments")
    train("--config", corpus.config, "--output_dir", root / "float")
    train(
        "--config", corpus.config, "--output_dir", root / "rand", "--quantizer", "rand", "--quantizer_conf", "bits=3",
        "--init_param", root / "float/valid.loss.best.pth",
    )  # fmt: skip
    return root
