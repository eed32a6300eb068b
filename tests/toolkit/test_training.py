"""espnet2's own training and inference, with the plugin."""

import logging
import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_rand

espnet_rand.register()

from espnet2.bin.asr_inference import Speech2Text  # noqa: E402
from espnet2.tasks.asr import ASRTask  # noqa: E402

STOCK = ("-m", "espnet2.bin.asr_train")
LSC = ("--quantizer", "lsc", "--quantizer_conf", "bits=3", "--quantizer_conf", "estimator=ste")


def load(path):
    return torch.load(path, weights_only=True)


def options(expdir):
    config = yaml.safe_load((expdir / "config.yaml").read_text())
    return {key: config[key] for key in config if key.startswith("quantizer")}


def losses(expdir):
    """Of each epoch."""
    stats = load(expdir / "checkpoint.pth")["reporter"]["stats"]
    return {epoch: [stats[epoch][split]["loss"] for split in ("train", "valid")] for epoch in stats}


@pytest.fixture(scope="module")
def float_run(corpus, run, tmp_path_factory):
    """A run through the launcher, without quantization options."""
    expdir = tmp_path_factory.mktemp("float")
    run("espnet-rand", *STOCK, "--config", corpus.config, "--output_dir", expdir)
    return expdir


@pytest.fixture(scope="module")
def rand_run(corpus, train, tmp_path_factory, float_run):
    """Fine-tuned from the float run, two epochs, the options in YAML."""
    expdir = tmp_path_factory.mktemp("rand")
    config = corpus.write_config(
        {"quantizer": "rand", "quantizer_conf": {"bits": 4, "mode": 3, "start_step": 3}, "max_epoch": 2},
        "rand.yaml",
    )
    train("--config", config, "--output_dir", expdir, "--init_param", float_run / "valid.loss.ave.pth")
    return expdir


def test_without_options_it_is_stock(corpus, run, float_run, tmp_path):
    run("python", *STOCK, "--config", corpus.config, "--output_dir", tmp_path)
    ours, stock = load(float_run / "1epoch.pth"), load(tmp_path / "1epoch.pth")
    assert list(ours) == list(stock)
    assert all(torch.equal(ours[key], stock[key]) for key in stock)
    assert options(float_run) == {}
    assert not (float_run / "quantization.yaml").exists()


def test_config_report_and_checkpoint(rand_run, float_run):
    expdir = rand_run
    resolved = options(expdir)
    assert resolved["quantizer"] == "rand"
    assert resolved["quantizer_conf"]["mode"] == 3 and resolved["quantizer_conf"]["p"] == 8
    report = yaml.safe_load((expdir / "quantization.yaml").read_text())
    names = {entry["name"] for entry in report["quantized"]}
    assert {"ctc.ctc_lo.weight", "encoder.embed.conv.0.weight", "decoder.embed.0.weight"} <= names
    assert report["totals"]["bytes_after"] < report["totals"]["bytes_before"]
    assert "depthwise" in str(report["left_in_float"])
    float_keys = set(load(float_run / "valid.loss.ave.pth"))
    extra = set(load(expdir / "2epoch.pth")) - float_keys
    assert extra == {f"{name}__rand3p8_channel_w4_quantizer_scale" for name in names}


def test_stock_espnet_reads_the_checkpoint(rand_run, float_run, corpus, run, tmp_path):
    """Without the plugin the float weights fine-tune on (keys that stock lacks are filtered)."""
    expdir = rand_run
    run(
        "python", *STOCK, "--config", corpus.config, "--output_dir", tmp_path,
        "--init_param", expdir / "valid.loss.ave.pth", "--ignore_init_mismatch", "true",
    )  # fmt: skip


def test_stock_espnet_refuses_the_options(corpus, run, tmp_path):
    config = corpus.write_config({"quantizer": "rand"}, "unregistered.yaml")
    done = run("python", *STOCK, "--config", config, "--output_dir", tmp_path, check=False)
    assert done.returncode == 2 and "unrecognized arguments: quantizer" in done.stderr


def test_a_mistake_ends_it_with_one_line(corpus, run, train, tmp_path, monkeypatch):
    wrong = ("--config", corpus.config, "--output_dir", tmp_path, "--quantizer", "rand")
    wrong += ("--quantizer_conf", "exclude=[decodr]")
    done = run("espnet-rand", *STOCK, *wrong, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "espnet-rand: error: exclude: 'decodr' matches no layer" in done.stderr.splitlines()[-1]
    # a program gets the error, but for those that a training spawns
    with pytest.raises(espnet_rand.OptionError, match="decodr"):
        train(*wrong)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "the training")
    with pytest.raises(SystemExit, match="^espnet_rand: error: exclude: 'decodr'"):
        train(*wrong)


def test_resume_counts_on(corpus, train, tmp_path):
    """start_step and the noise go on where they were: 2 + 2 forwards, in one run or in two."""
    common = ("--config", corpus.config, "--quantizer", "rand", "--quantizer_conf", "start_step=3")
    train(*common, "--max_epoch", 2, "--output_dir", tmp_path / "whole")
    train(*common, "--max_epoch", 1, "--output_dir", tmp_path / "parts")
    train(*common, "--max_epoch", 2, "--output_dir", tmp_path / "parts", "--resume", "true")
    whole, parts = load(tmp_path / "whole/2epoch.pth"), load(tmp_path / "parts/2epoch.pth")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_killed_in_an_epoch_and_started_again(corpus, run, train, tmp_path):
    """The same command goes on: the options, the losses and the weights are those of a training that nobody killed."""
    (tmp_path / "preset.yaml").write_text("quantizer: rand\nquantizer_conf: {bits: 3, mode: 3, start_step: 3}\n")
    common = (
        "--config",
        corpus.config,
        "--quantizer_config",
        tmp_path / "preset.yaml",
        "--max_epoch",
        3,
        "--resume",
        "true",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(*common, "--output_dir", whole)
    died = run(
        "espnet-rand", *STOCK, *common, "--output_dir", killed, check=False,
        ESPNET_RAND_IMPORT="tests.toolkit.dies", DIE_IN_FORWARD="4", PYTHONPATH=str(Path(__file__).parents[2]),
        OMP_NUM_THREADS=str(torch.get_num_threads()),  # sums depend on it
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert (killed / "1epoch.pth").exists() and not (killed / "2epoch.pth").exists()
    train(*common, "--output_dir", killed)
    assert options(killed) == options(whole)
    assert losses(killed) == losses(whole)
    ours, theirs = load(killed / "3epoch.pth"), load(whole / "3epoch.pth")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def many_run(corpus, train, tmp_path_factory):
    """Trained at precisions that are drawn, and validated at several."""
    expdir = tmp_path_factory.mktemp("many")
    (expdir / "two.yaml").write_text("'*': 2\n")
    conf = {"bits": [2, 4], "per": "layer", "estimator": "ste", "eval_bits": [2, 4, str(expdir / "two.yaml")]}
    criteria = [["valid", "loss", "min"], ["valid", "loss_w2", "min"]]
    config = corpus.write_config(
        {"quantizer": "rand", "quantizer_conf": conf, "best_model_criterion": criteria, "max_epoch": 2}, "many.yaml"
    )
    train("--config", config, "--output_dir", expdir, "--max_epoch", 1)
    train("--config", config, "--output_dir", expdir, "--resume", "true")
    return expdir


def test_validation_at_several_precisions_gives_curves_and_criteria(many_run):
    epochs = torch.load(many_run / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    for stats in (epochs[1]["valid"], epochs[2]["valid"]):
        assert stats["loss_w4"] == stats["loss"], "the highest is the default"
        assert stats["acc_w4"] == stats["acc"]
        assert stats["loss_two"] == stats["loss_w2"] != stats["loss"]
        assert not any(key.endswith(("_w2", "_w4")) for key in epochs[1]["train"])
    best = min((1, 2), key=lambda n: epochs[n]["valid"]["loss_w2"])
    assert (many_run / "valid.loss_w2.best.pth").resolve().name == f"{best}epoch.pth"
    assert (many_run / "valid.loss_w2.ave.pth").exists()


def test_further_precisions_see_the_batch_as_it_was(corpus, tmp_path):
    """Global normalization writes into features that the data set holds."""
    np.savez(tmp_path / "stats.npz", count=10, sum=np.full(20, 50.0), sum_square=np.full(20, 400.0))
    options = ["--input_size", "20", "--normalize", "global_mvn"]
    options += ["--normalize_conf", f"stats_file={tmp_path / 'stats.npz'}"]
    options += ["--quantizer", "absmax", "--quantizer_conf", "bits=4", "--quantizer_conf", "eval_bits=[4,8]"]
    args = ASRTask.get_parser().parse_args(["--config", str(corpus.config), *options])
    model = ASRTask.build_model(args).eval()
    batch = {"speech": torch.randn(2, 60, 20), "text": torch.tensor([[2, 3]] * 2)}
    batch.update(speech_lengths=torch.tensor([60, 60]), text_lengths=torch.tensor([2, 2]))
    with torch.no_grad():
        statistics = model(**batch)[1]
    assert statistics["loss_w4"] == statistics["loss"] != statistics["loss_w8"]


def test_drawn_precisions_survive_a_resume(many_run, corpus, train, tmp_path):
    train("--config", corpus.root / "many.yaml", "--output_dir", tmp_path)
    whole, parts = load(tmp_path / "2epoch.pth"), load(many_run / "2epoch.pth")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_attention_plots_see_one_forward(many_run, corpus):
    """Of the default precision, not those of validation at others."""
    from espnet2.train import trainer

    args = ASRTask.get_parser().parse_args(["--config", str(corpus.root / "many.yaml")])
    model = ASRTask.build_model(args).eval()
    forwards = []
    model.encoder.register_forward_hook(lambda *_: forwards.append(1))
    speech = torch.randn(1, 8000)
    batch = {"speech": speech, "text": torch.tensor([[2, 3]])}
    batch.update(speech_lengths=torch.tensor([8000]), text_lengths=torch.tensor([2]))
    with torch.no_grad():
        model(**batch)
        assert len(forwards) == 4
        trainer.calculate_all_attentions(model, batch)
    assert len(forwards) == 5


@pytest.mark.parametrize(
    "conf, message",
    [
        ("eval_bits=[2,/no/such.yaml]", "no such file: /no/such.yaml"),
        ("eval_bits=[3,3]", "two of its curves would be called loss_w3"),
    ],
)
def test_wrong_precisions_of_validation_end_the_training_before_it_begins(corpus, train, tmp_path, conf, message):
    with pytest.raises(espnet_rand.OptionError, match=message):
        train(
            "--config", corpus.config, "--quantizer", "rand", "--quantizer_conf", conf, "--output_dir", tmp_path / "exp"
        )  # fmt: skip
    assert not (tmp_path / "exp/1epoch.pth").exists()


def test_eval_bits_of_the_launcher(many_run, corpus, train, monkeypatch, tmp_path):
    """Models from files evaluate at them; trainings and float models refuse them."""
    monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", "3")
    model = Speech2Text(many_run / "config.yaml", many_run / "2epoch.pth").asr_model
    layer = model.ctc.ctc_lo
    _, (scales, _) = layer._quantized["weight"].quantizer.encode(layer._parameters["weight"], bits=3)
    assert (layer.weight / scales.unsqueeze(1)).round().unique().numel() <= 8
    with pytest.raises(espnet_rand.OptionError, match="started with it for a training"):
        train("--config", corpus.config, "--output_dir", tmp_path)
    (many_run / "plan.yaml").write_text("'*': 2\nctc.ctc_lo: 8\nencodr: 4\n")
    monkeypatch.setenv("ESPNET_RAND_EVAL_BITS", str(many_run / "plan.yaml"))
    with pytest.raises(espnet_rand.OptionError, match="'encodr' names no quantized weight.*encoder"):
        Speech2Text(many_run / "config.yaml", many_run / "2epoch.pth")


def test_decoding_rounds(rand_run, corpus):
    """Speech2Text gives a model that computes with rounded weights, and leaves the training's files alone."""
    before = (rand_run / "quantization.yaml").stat().st_mtime_ns
    speech2text = Speech2Text(rand_run / "config.yaml", rand_run / "valid.loss.ave.pth", ctc_weight=1.0, beam_size=2)
    layer = speech2text.asr_model.ctc.ctc_lo
    codes, (scales, _) = layer._quantized["weight"].quantizer.encode(
        layer._parameters["weight"], layer.scale_parameter("weight")
    )
    assert torch.equal(layer.weight, codes * scales.unsqueeze(1))
    assert codes.abs().max() <= 8
    assert (rand_run / "quantization.yaml").stat().st_mtime_ns == before
    assert speech2text(soundfile.read(corpus.root / "u0.wav")[0])


def test_amp_weight_decay_groups_and_stats(corpus, train, tmp_path):
    common = ("--config", corpus.config, *LSC)
    amp = ("--use_amp", "true", "--exclude_weight_decay", "true", "--accum_grad", 2)
    train(*common, *amp, "--output_dir", tmp_path / "amp")
    assert all(v.isfinite().all() for v in load(tmp_path / "amp/1epoch.pth").values())
    train(*common, "--output_dir", tmp_path / "stats", "--collect_stats", "true")
    assert (tmp_path / "stats/train/feats_stats.npz").exists()


def test_preset_and_command_line(corpus, train, tmp_path, caplog, capsys):
    preset = tmp_path / "preset.yaml"
    preset.write_text("quantizer: rand\nquantizer_conf: {bits: 3, mode: 1}\n")
    common = ("--config", corpus.config, "--quantizer_config", preset, "--quantizer_conf", "bits=2")
    with caplog.at_level(logging.INFO):
        train(*common, "--dry_run", "true", "--output_dir", tmp_path / "exp")
    assert "encoder.encoders.0.self_attn.linear_q.weight" in caplog.text
    resolved = options(tmp_path / "exp")
    assert (resolved["quantizer_conf"]["bits"], resolved["quantizer_conf"]["mode"]) == (2, 1)
    assert resolved["quantizer_config"] is None


def test_print_config_shows_the_resolved_options(run, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("quantizer: rand\nquantizer_conf: {bits: 3}\n")
    shown = yaml.safe_load(run("espnet-rand", *STOCK, "--quantizer_config", preset, "--print_config").stdout)
    assert shown["quantizer_conf"]["bits"] == 3 and shown["quantizer_conf"]["p"] == 8


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--quantizer", "rand", "--quantizer_conf", "bits=9"], "bits: 9 is not allowed"),
        (["--quantizer", "rand", "--quantizer_conf", "bit=4"], "bit: 4 is given, but"),
        (["--quantizer", "rand", "--quantizer_conf", "p=0.5"], "p: 0.5 is not allowed"),
        (["--quantizer_conf", "bits=4"], "without quantizer"),
        (["--quantizer_config", "/no/such.yaml"], "no such file: /no/such.yaml"),
    ],
)
def test_wrong_options_end_the_program_with_one_line(wrong, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        ASRTask.get_parser().parse_args(wrong)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_a_pattern_without_a_layer_is_an_error(corpus, train, tmp_path):
    common = ("--config", corpus.config, "--quantizer", "rand", "--output_dir", tmp_path)
    with pytest.raises(espnet_rand.OptionError, match="'decoder.embedd' matches no layer .*decoder.embed"):
        train(*common, "--quantizer_conf", "exclude=[decoder.embedd]")


def test_lora_adapters_stay_quantized(corpus, train, tmp_path):
    """The layers that the adapter put in place of quantized ones are quantized, in training and decoding."""
    pytest.importorskip("loralib")
    train(
        "--config", corpus.config, "--quantizer_config", "rand_w4", "--output_dir", tmp_path,
        "--use_adapter", "true", "--adapter_conf", "target_modules=[linear_q]",
        "--freeze_param", "encoder", "decoder",
    )  # fmt: skip
    model, _ = ASRTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "valid.loss.ave.pth")
    model.eval()
    layer = model.encoder.encoders[0].self_attn.linear_q
    assert "lora_A" in layer._parameters
    codes, (scales, _) = layer._quantized["weight"].quantizer.encode(layer._parameters["weight"])
    assert torch.equal(layer.weight, codes * scales.unsqueeze(1))
    assert not torch.equal(layer.weight, layer._parameters["weight"])
