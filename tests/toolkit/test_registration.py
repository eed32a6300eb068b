"""Registration reaches every task, every kind of process, and the other ways to build a model."""

import argparse
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.layers import quantized_layers
from espnet_rand.presets import presets

espnet_rand.register()

from espnet2.tasks.abs_task import AbsTask  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402


def _task_modules():
    import espnet2.tasks

    return [m.name for m in pkgutil.iter_modules(espnet2.tasks.__path__) if m.name != "abs_task"]


@pytest.mark.parametrize("name", _task_modules())
def test_every_task_has_the_options(name):
    try:
        module = importlib.import_module(f"espnet2.tasks.{name}")
    except ImportError as e:
        pytest.skip(f"stock ESPnet cannot import it here: {e}")
    tasks = [t for t in vars(module).values() if isinstance(t, type) and issubclass(t, AbsTask) and t is not AbsTask]
    assert tasks
    for task in tasks:
        if not task.__abstractmethods__:
            names = {action.dest for action in task.get_parser()._actions}
            if any(choices.name == "quantizer" for choices in task.class_choices_list):
                assert "quantizer_config" not in names, "a codec keeps its own --quantizer"
                continue
            assert {"quantizer", "quantizer_conf", "quantizer_config"} <= names


@pytest.mark.parametrize("name", ["spk_embed_extract", "lid_inference"])
def test_a_program_that_gets_a_trainings_options_too(name, tmp_path, capsys):
    """spk.sh gives `--spk_args` to the training and to the extraction of embeddings."""
    program = importlib.import_module(f"espnet2.bin.{name}")
    preset = yaml.safe_load(presets()["rand_m3_ste_w4"].read_text())
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(espnet_rand.QuantizerConfig.from_dict(preset).to_dict()))

    def parse(*given):
        required = ["--output_dir", "exp", "--data_path_and_name_and_type", "a,b,sound"]
        options = [f"--{name.split('_')[0]}_train_config", str(config), *required, *given]
        return program.get_parser().parse_args(options)

    assert "quantizer" not in parse("--quantizer_config", "rand_m3_ste_w4", "--teacher", "model.pth")
    assert "quantizer" not in parse()
    for wrong in ("--quantizer_config=rand_w4", "--quantizer_conf=bits=3"):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert "error: quantizer" in capsys.readouterr().err.splitlines()[-1]
    config.write_text("quantizer: null\n")
    with pytest.raises(SystemExit):
        parse("--quantizer", "rand")
    assert f"the model of {config} was trained with none, and not with" in capsys.readouterr().err


def _arguments(corpus, *more):
    return ASRTask.get_parser().parse_args(["--config", str(corpus.config), *map(str, more)])


def test_registering_twice_changes_nothing(corpus):
    before = AbsTask.__dict__["get_parser"]
    espnet_rand.register()
    assert AbsTask.__dict__["get_parser"] is before
    model = ASRTask.build_model(_arguments(corpus, "--quantizer", "rand"))
    assert quantized_layers(model)


def test_a_task_defined_later_is_quantized(corpus):
    """As ESPnet-EZ does: a subclass of the task with a build_model of its own."""

    class Later(ASRTask):
        @classmethod
        def build_model(cls, args):
            return super().build_model(args)

    assert quantized_layers(Later.build_model(_arguments(corpus, "--quantizer", "absmax")))
    assert not quantized_layers(Later.build_model(_arguments(corpus)))


def test_espnet3_builds_quantized_models(corpus, tmp_path):
    task_utils = pytest.importorskip("espnet3.utils.task_utils")
    import yaml

    config = yaml.safe_load(corpus.config.read_text())
    config.update(quantizer="rand", quantizer_conf={"bits": 3}, token_list=["<blank>", "<unk>", "a", "<sos/eos>"])
    config.update(output_dir=str(tmp_path))
    model = task_utils.get_espnet_model("espnet2.tasks.asr.ASRTask", config)
    assert quantized_layers(model)
    assert yaml.safe_load((tmp_path / "quantization.yaml").read_text())["quantized"][0]["bits"] == 3


def _train_in_a_spawned_process(corpus, expdir, rank, world):
    args = _arguments(
        corpus, "--quantizer_config", "rand_w4", "--output_dir", expdir, "--dist_backend", "gloo",
        "--dist_init_method", f"file://{expdir}/rendezvous", "--dist_rank", rank, "--dist_world_size", world,
        "--batch_size", 4,
    )  # fmt: skip
    args.distributed = True
    context = torch.multiprocessing.get_context("spawn")
    # what AbsTask.main does for each GPU
    process = context.Process(target=ASRTask.main_worker, args=(argparse.Namespace(**vars(args)),))
    process.start()
    return process


def test_spawned_processes_train_quantized(corpus, tmp_path, monkeypatch):
    """Two real processes, gloo. Each leaves a note of what it built (tests/toolkit/spy.py)."""
    monkeypatch.setenv("ESPNET_RAND_IMPORT", "tests.toolkit.spy")
    monkeypatch.setenv("SPY_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    processes = [_train_in_a_spawned_process(corpus, tmp_path, rank, 2) for rank in (0, 1)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    notes = sorted(tmp_path.glob("spied.*"))
    assert len(notes) == 2
    counts = [note.read_text().split() for note in notes]
    assert all(int(layers) > 10 for layers, _ in counts)
    assert counts[0][1] != counts[1][1], "ranks must draw different noise"
    state = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    assert not any(key.startswith("module.") for key in state)
    assert (tmp_path / "quantization.yaml").exists()


def test_lightning_trains_quantized(corpus, run, tmp_path):
    """Two processes, then one goes on, in half precision and with accumulated gradients: the forwards count on."""
    pytest.importorskip("lightning")

    def lightning(conf):
        return run(
            "espnet-rand", "-m", "espnet2.bin.lightning_train", "--task", "asr", "--config", corpus.config,
            "--quantizer_config", "rand_w4", "--output_dir", tmp_path, "--batch_size", 2,
            "--scheduler", "warmuplr", "--use_tensorboard", "true",
            "--lightning_conf", f"{{accelerator: cpu, log_every_n_steps: 1, {conf}}}",
            ESPNET_RAND_IMPORT="tests.toolkit.spy", SPY_DIRECTORY=str(tmp_path),
            PYTHONPATH=str(Path(__file__).parents[2]), TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1",
        )  # fmt: skip

    def forwards():
        return torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]._metadata["model"]

    done = lightning("devices: 2, max_epochs: 1")
    assert len(list(tmp_path.glob("spied.*"))) == 2, done.stderr[-2000:]
    assert "quantizer: rand" in (tmp_path / "config.yaml").read_text()
    assert forwards()["quantizer_forwards"] == 3
    lightning("devices: 1, max_epochs: 2, precision: bf16-mixed, accumulate_grad_batches: 2")
    assert forwards()["quantizer_forwards"] == 6
