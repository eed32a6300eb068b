"""From a checkpoint to a packed file to a transcript, by the commands."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from matplotlib import image
from matplotlib.figure import Figure

from espnet_rand.bin import (
    allocate_bits,
    calibrate_weights,
    inspect_weights,
    pack_weights,
    quantize_weights,
    unpack_weights,
)
from espnet_rand.layers import SCALE_SUFFIX
from espnet_rand.packing import read_packed
from espnet_rand.toolkit.commands import checkpoints, validation

savefig = Figure.savefig


@pytest.fixture(scope="module")
def experiments(experiments):
    """The same, with the packed file of the model trained with RAND."""
    pack_weights.main(_arguments(experiments / "rand", experiments / "rand.safetensors"))
    return experiments


def _arguments(exp, output, *more):
    model = exp / "valid.loss.best.pth"
    options = ["--train_config", exp / "config.yaml", "--model_file", model, "--output", output, *more]
    return [str(option) for option in options]


def _decode(run, program, corpus, config, model, output):
    run(
        *program.split(), "-m", "espnet2.bin.asr_inference", "--ngpu", "0", "--beam_size", "2", "--maxlenratio", "-6",
        "--asr_train_config", config, "--asr_model_file", model, "--output_dir", output,
        "--data_path_and_name_and_type", f"{corpus.root}/wav.scp,speech,sound",
        ESPNET_RAND_PACKED_BACKEND="dequantize",
    )  # fmt: skip
    return {name: (output / "1best_recog" / name).read_text() for name in ("text", "score")}


def test_packed_checkpoint_and_unpacked_without_the_plugin_decode_alike(experiments, corpus, run, tmp_path):
    exp, packed = experiments / "rand", experiments / "rand.safetensors"
    unpack_weights.main(["--packed_file", str(packed), "--output", str(tmp_path / "unpacked.pth")])
    trained = _decode(run, "espnet-rand", corpus, exp / "config.yaml", exp / "valid.loss.best.pth", tmp_path / "a")
    from_packed = _decode(run, "espnet-rand", corpus, exp / "config.yaml", packed, tmp_path / "b")
    stock = _decode(run, "python", corpus, exp / "config.yaml", tmp_path / "unpacked.pth", tmp_path / "c")
    assert from_packed == trained
    assert stock["text"] == trained["text"]


def test_an_unpacked_file_is_trained_from(experiments, corpus, train, tmp_path):
    unpack_weights.main(
        ["--packed_file", str(experiments / "rand.safetensors"), "--output", str(tmp_path / "unpacked.pth")]
    )
    state = torch.load(tmp_path / "unpacked.pth", weights_only=True)
    trained = torch.load(experiments / "rand/valid.loss.best.pth", weights_only=True)
    reference = {name: tensor for name, tensor in trained.items() if not name.endswith(SCALE_SUFFIX)}
    assert state.keys() == reference.keys()
    assert all(state[k].shape == v.shape and state[k].dtype == v.dtype for k, v in reference.items())
    train(
        "--config", corpus.config, "--output_dir", tmp_path / "tuned", "--quantizer", "rand",
        "--init_param", tmp_path / "unpacked.pth",
    )  # fmt: skip
    assert (tmp_path / "tuned/valid.loss.best.pth").exists()


def test_inspection_names_layers_and_sizes(experiments, capsys):
    inspect_weights.main([str(experiments / "rand.safetensors")])
    said = capsys.readouterr().out
    assert "ctc.ctc_lo.weight" in said and "quantizer: rand" in said and "espnet: 20" in said
    file, tensors, head = re.search(r"safetensors: ([\d,]+) bytes: these ([\d,]+), and ([\d,]+) that", said).groups()
    assert "all parameters and buffers" in said and f" {tensors} after" in said, "the sizes that are printed agree"
    file, tensors, head = (int(size.replace(",", "")) for size in (file, tensors, head))
    assert file == tensors + head == (experiments / "rand.safetensors").stat().st_size


def test_inspection_draws_two_files_side_by_side(experiments, tmp_path, capsys, monkeypatch):
    float_model, packed = experiments / "float/valid.loss.best.pth", tmp_path / "$a_$%s.safetensors"
    quantize_weights.main(_arguments(experiments / "float", packed, "--quantizer", "absmax"))
    files, drawn = [str(experiments / "rand.safetensors"), str(packed)], []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: drawn.append(figure) or savefig(figure, *a, **k))
    inspect_weights.main([*files, "--plot", str(tmp_path / "w.PNG"), "--float_model", str(float_model)])
    assert image.imread(tmp_path / "w.PNG", format="png").shape[1] == 1760
    bits, size, error = drawn[0].axes
    names = [label.get_text() for label in bits.get_yticklabels()]
    state = torch.load(float_model, weights_only=True)
    for number, path in enumerate(files):
        weights = read_packed(path).weights
        assert sorted(names) == sorted(weights)
        assert Path(path).name in drawn[0].legends[0].get_texts()[number].get_text()
        found = [[bar.get_width() for bar in axes.containers[number]] for axes in (bits, size, error)]
        assert found[0] == [weights[name].bits for name in names] and found[1] == [
            weights[name].bytes for name in names
        ]
        for name, width in zip(names, found[2]):
            wanted = (weights[name].values() - state[name]).square().sum() / state[name].square().sum()
            assert width == pytest.approx(wanted.item(), rel=1e-4)
    inspect_weights.main([files[0], "--plot", str(tmp_path / "bits.svg")])
    assert len(drawn[1].axes) == 2 and "<svg" in (tmp_path / "bits.svg").read_text()
    # of another model, and of a part of one
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="has none of the weights of .* Fix: "):
        inspect_weights.main(
            [files[0], "--plot", str(tmp_path / "w.png"), "--float_model", str(tmp_path / "other.pth")]
        )
    torch.save({name: tensor for name, tensor in state.items() if name != names[0]}, tmp_path / "other.pth")
    inspect_weights.main([files[0], "--plot", str(tmp_path / "w.png"), "--float_model", str(tmp_path / "other.pth")])
    assert f"no error is drawn for {names[0]}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--plot", "weights"], "a picture's name ends in png, pdf, svg"),
        (["--plot", "weights.bmp"], "a picture's name ends in png, pdf, svg"),
        (["--plot", "not_there/weights.png"], "cannot be written. Fix: "),
        (["--float_model", "float.pth"], "Fix: add --plot FILE.png"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_work(options, reason, experiments, monkeypatch, capsys):
    monkeypatch.setattr(inspect_weights, "read_packed", lambda path: 1 / 0)
    with pytest.raises(SystemExit, match=f"^inspect_weights: error: .*{reason}"):
        inspect_weights.main([str(experiments / "rand.safetensors"), *options])


def test_any_float_checkpoint_is_quantized_without_training(experiments, tmp_path, capsys):
    output = tmp_path / "new/float.safetensors"
    options = ["--quantizer", "clip", "--quantizer_conf", "bits=5", "--quantizer_conf", "granularity=tensor"]
    quantize_weights.main(_arguments(experiments / "float", output, *options))
    packed = read_packed(output)
    assert {(w.bits, len(w.scales)) for w in packed.weights.values()} == {(5, 1)}
    assert packed.info["quantizer"] == "clip"
    state = torch.load(experiments / "float/valid.loss.best.pth", weights_only=True)
    assert packed.state_dict().keys() == state.keys()
    for name, weight in packed.weights.items():
        assert (weight.values() - state[name]).abs().max() <= state[name].abs().max() / 3


def test_a_calibrated_checkpoint_is_packed_and_trained_from(experiments, corpus, train, tmp_path, capsys):
    options = ["--quantizer", "rand", "--quantizer_conf", "mode=3", "--quantizer_conf", "init=clip"]
    options += ["--quantizer_conf", "bits=3", "--quantizer_conf", "estimator=ste"]
    exp, calibrated = experiments / "float", tmp_path / "calibrated.pth"
    calibrate_weights.main(_arguments(exp, calibrated, *options, "--num_utterances", "6"))
    said = capsys.readouterr().out
    rounded, better = said.partition("\nmean of ")[2].splitlines()[0].replace("%", "").split()[-2:]
    assert float(better) < float(rounded) / 2
    assert "decoder.embed.0.weight" in said and "ctc.ctc_lo.weight" in said
    model = ["--train_config", str(exp / "config.yaml"), "--model_file", str(calibrated)]
    quantize_weights.main([*model, "--output", str(tmp_path / "packed"), *options])
    packed, state = read_packed(tmp_path / "packed"), torch.load(calibrated, weights_only=True)
    other = tmp_path / "rounded"
    quantize_weights.main(_arguments(exp, other, *options))
    rounded = read_packed(other).weights
    differ = {name for name, w in packed.weights.items() if not torch.equal(w.codes(), rounded[name].codes())}
    assert "ctc.ctc_lo.weight" in differ and "decoder.embed.0.weight" not in differ
    for name, weight in packed.weights.items():
        step = weight.scales.view(-1, *[1] * (state[name].dim() - 1))
        off = (weight.values() - state[name]).abs() > 0.5 * step * 1.0001
        assert not (off & (weight.codes().abs() < 3)).any(), f"{name}: its float weights round to its codes"
    train("--config", corpus.config, "--output_dir", tmp_path / "tuned", *options, "--init_param", calibrated)
    assert (tmp_path / "tuned/valid.loss.best.pth").exists()


def test_plans_are_within_their_budgets_pack_and_decode(experiments, corpus, run, tmp_path, capsys):
    exp, config = experiments / "rand", experiments / "rand/config.yaml"
    common = [*_arguments(exp, None)[:4], "--num_utterances", "4", "--output_dir", str(tmp_path)]
    allocate_bits.main([*common, "--average_bits", "2.5", "6.1"])
    said = capsys.readouterr().out
    assert "rank correlation at 2 bits" in said and "2 for all" in said
    for budget in (2.5, 6.1):
        plan = tmp_path / f"average_{budget}.yaml"
        pack_weights.main(_arguments(exp, tmp_path / f"{budget}.safetensors", "--eval_bits", plan))
        packed = read_packed(tmp_path / f"{budget}.safetensors")
        assert {name: weight.bits for name, weight in packed.weights.items()} == yaml.safe_load(plan.read_text())
        assert budget - 0.5 < packed.average_bits() <= budget
    from_packed = _decode(run, "espnet-rand", corpus, config, tmp_path / "2.5.safetensors", tmp_path / "a")
    plan = f"espnet-rand --eval_bits {tmp_path}/average_2.5.yaml"
    assert _decode(run, plan, corpus, config, exp / "valid.loss.best.pth", tmp_path / "b") == from_packed


def test_a_plan_for_a_float_checkpoint_and_a_file_size(experiments, tmp_path):
    exp, clip = experiments / "float", ["--quantizer", "clip"]
    sizes = {}
    for bits in (2, 8):
        quantize_weights.main(_arguments(exp, tmp_path / "uniform", *clip, "--eval_bits", bits))
        sizes[bits] = (tmp_path / "uniform").stat().st_size / 1e6
    target = round((sizes[2] + sizes[8]) / 2, 4)
    common = [*_arguments(exp, None, *clip)[:4], *clip, "--num_utterances", "4", "--sensitivity", "curvature"]
    allocate_bits.main([*common, "--output_dir", str(tmp_path), "--target_mb", str(target)])
    plan = tmp_path / f"mb_{target:g}.yaml"
    quantize_weights.main(_arguments(exp, tmp_path / "mixed", *clip, "--eval_bits", plan))
    assert 0.98 * target < (tmp_path / "mixed").stat().st_size / 1e6 <= target
    assert len({weight.bits for weight in read_packed(tmp_path / "mixed").weights.values()}) > 1


@pytest.mark.parametrize(
    "exp, options, message",
    [
        ("float", [], "give --quantizer"),
        ("float", ["--quantizer", "clip"], "take learned ones, `rand` with mode: 3"),
        ("rand", ["--quantizer", "lsc"], "has a quantizer of its own"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_one_line(experiments, tmp_path, exp, options, message):
    with pytest.raises(SystemExit) as stopped:
        calibrate_weights.main(_arguments(experiments / exp, tmp_path / "out.pth", *options, "--num_utterances", "2"))
    said = stopped.value.code
    assert message in said and "\n" not in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "exp, options, message",
    [
        ("rand", ["--average_bits", "1.9"], "--average_bits: 1.9 is not possible, it must be at least 2"),
        ("rand", ["--target_mb", "0.001"], "--target_mb: 0.001 is not possible, it must be at least 0.0"),
        ("rand", ["--average_bits", "4", "--quantizer", "clip"], "has a quantizer of its own"),
        ("float", ["--average_bits", "4"], "give --quantizer"),
        ("rand", ["--average_bits", "4", "--bits", "2", "9"], "--bits: 9 is not allowed"),
        ("rand", ["--average_bits", "4", "--bits", "1", "4"], "--bits: 1 is not allowed"),
        (
            "rand",
            ["--average_bits", "4", "--data_path_and_name_and_type", "/no/wav.scp,speech,sound"],
            "no such file: /no/wav.scp",
        ),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(experiments, tmp_path, exp, options, message):
    with pytest.raises(SystemExit) as stopped:
        allocate_bits.main([*_arguments(experiments / exp, None)[:4], "--output_dir", str(tmp_path), *options])
    said = stopped.value.code
    assert message in said and "\n" not in said and not list(tmp_path.iterdir())


def test_data_that_espnet_cannot_read_is_said(experiments, corpus, tmp_path, capsys):
    (tmp_path / "text").write_text("u0 ab\n")
    plan = [*_arguments(experiments / "rand", None)[:4], "--output_dir", str(tmp_path / "plans"), "--average_bits", "4"]
    speech = ["--data_path_and_name_and_type", f"{corpus.root}/wav.scp,speech,sound"]
    for text, message in (
        ([], "'text'"),
        (["--data_path_and_name_and_type", f"{tmp_path}/text,text,text"], "is not found"),
        (["--data_path_and_name_and_type", f"{tmp_path}/text,text,tekst"], "loader_type=tekst"),
    ):
        with pytest.raises(SystemExit, match=f"--data_path_and_name_and_type: .*wav.scp.* can't be read: .*{message}"):
            allocate_bits.main([*plan, *speech, *text])
    with pytest.raises(SystemExit, match="2"):
        allocate_bits.main([*plan, "--batch_size", "0"])
    assert "--batch_size: 0 is not allowed" in capsys.readouterr().err


def test_a_model_that_writes_into_its_batch_has_one_loss(experiments, tmp_path):
    """As global normalization of features does: each forward has the data as they are."""
    args = calibrate_weights.get_parser().parse_args(_arguments(experiments / "rand", tmp_path / "out.pth"))
    model, trained = checkpoints.load_quantized(args)
    forward = model.eval().forward
    model.forward = lambda speech, **others: forward(speech=speech.mul_(0.1), **others)
    data = validation.Validation(args, checkpoints.find_task(args.task), model, trained)
    assert data.first_loss == data.loss() == data.loss()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(experiments, tmp_path):
    with pytest.raises(SystemExit, match="--ngpu 1: torch finds no GPU"):
        calibrate_weights.main(_arguments(experiments / "rand", tmp_path / "out.pth", "--ngpu", "1"))


@pytest.mark.parametrize(
    "command, exp, options, message",
    [
        (pack_weights, "rand", ["--eval_bits", "9"], "eval_bits: 9 is not allowed"),
        (pack_weights, "rand", ["--eval_bits", "/no/plan.yaml"], "no such file: /no/plan.yaml"),
        (pack_weights, "rand", ["--task", "lm"], "--task lm cannot build the model of"),
        (pack_weights, "rand", ["--task", "asr_transducer"], "Fix: --task"),
        (pack_weights, "float", [], "there is nothing to pack. Fix: espnet_rand.bin.quantize_weights"),
        (quantize_weights, "float", [], "--quantizer is not given"),
        (quantize_weights, "rand", ["--quantizer", "absmax"], "use pack_weights"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(experiments, tmp_path, command, exp, options, message):
    with pytest.raises(SystemExit) as stopped:
        command.main(_arguments(experiments / exp, tmp_path / "out.safetensors", *options))
    said = stopped.value.code
    assert message in said and "\n" not in said and not list(tmp_path.iterdir())


def test_a_directory_as_output_is_refused_before_any_work(tmp_path):
    with pytest.raises(SystemExit, match=f"--output: {tmp_path} is a directory"):
        pack_weights.main(["--model_file", "/no/such.pth", "--output", str(tmp_path)])


def test_utterances_that_the_model_cannot_take_are_named(experiments, corpus, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    (tmp_path / "wav.scp").write_text(f"short {tmp_path}/a.wav\n")
    (tmp_path / "text").write_text("short a\n")
    data = ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
    data += ["--data_path_and_name_and_type", f"{tmp_path}/text,text,text"]
    with pytest.raises(SystemExit, match="the model has no loss of the utterances short: "):
        calibrate_weights.main(_arguments(experiments / "rand", tmp_path / "out.pth", *data))


def test_weights_that_nobody_trained_are_not_packed_in_silence(experiments, tmp_path, caplog):
    output = ["--output", str(tmp_path / "out.safetensors")]
    with pytest.raises(SystemExit, match="--model_file is not given"):
        pack_weights.main(["--train_config", str(experiments / "rand/config.yaml"), *output])
    assert not list(tmp_path.iterdir())
    quantize_weights.main(["--train_config", str(experiments / "float/config.yaml"), *output, "--quantizer", "absmax"])
    assert "--model_file is not given: the weights are those that the model is built with" in caplog.text


def test_a_missing_file_is_named(experiments, tmp_path):
    arguments = _arguments(experiments / "rand", tmp_path / "out.safetensors")
    arguments[3] = "/no/such.pth"
    with pytest.raises(SystemExit, match="/no/such.pth"):
        pack_weights.main(arguments)


def test_the_configuration_lies_in_the_packed_file(experiments):
    config = yaml.safe_load((experiments / "rand/config.yaml").read_text())
    assert read_packed(experiments / "rand.safetensors").info["quantizer_conf"] == config["quantizer_conf"]
