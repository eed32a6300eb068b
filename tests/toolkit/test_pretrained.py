"""Training and packing start from any pretrained model, and say what fits."""

import io
import logging
import shutil
import tarfile
import zipfile
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import espnet_rand
from espnet_rand.bin import pack_weights, quantize_weights
from espnet_rand.packing import pack_model, read_packed, write_packed

espnet_rand.register()
from espnet2.bin import pack  # noqa: E402
from espnet2.main_funcs import pack_funcs  # noqa: E402
from espnet2.tasks import abs_task  # noqa: E402

from espnet_rand.context import setting  # noqa: E402
from espnet_rand.toolkit.hooks import init_param  # noqa: E402
from espnet_rand.toolkit.pretrained import sources  # noqa: E402
from espnet_rand.toolkit.pretrained.fitting import PretrainedError, fit  # noqa: E402
from espnet_rand.toolkit.pretrained.sources import open_pretrained  # noqa: E402
from tests.toolkit import tasks  # noqa: E402

#: The contents that espnet2.bin.pack makes of a task (it has none for mt and slu: the names of their inference).
CONTENTS = {
    **dict.fromkeys(("asr", "asr_rnn", "asr_transducer", "lm"), "asr"),
    **{name: name for name in ("st", "tts", "mt", "slu")},
    "tts_transformer": "tts",
}
LOAD = abs_task.load_pretrained_model


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """`zoo(name)`: a model of random weights: its task, folder, state, archive. `zoo(name, quantizer)`: a new one."""
    root, made = tmp_path_factory.mktemp("zoo"), {}

    def zoo(name):
        if name not in made:
            task, folder = tasks.write_config(name, root / name)
            torch.manual_seed(0)
            state = task.build_model_from_file(folder / "config.yaml")[0].state_dict()
            torch.save(state, folder / "model.pth")
            archive = folder / "model.zip"
            pack_as(CONTENTS[name], folder, archive, "lm_file" if name == "lm" else None)
            made[name] = SimpleNamespace(task=task, folder=folder, state=state, archive=archive)
        return made[name]

    return zoo


def pack_as(contents, folder, archive, file=None):
    """Pack `folder`'s config.yaml and model.pth as recipes do, in that folder."""
    stem = f"{contents}_" if contents != "tts" else ""
    file = file or f"{stem}model_file"
    config = "lm_train_config" if file == "lm_file" else f"{stem}train_config"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if contents in ("mt", "slu"):
            pack_funcs.pack({file: "model.pth"}, {config: "config.yaml"}, archive)
        else:
            pack.main([contents, "--outpath", str(archive), f"--{file}", "model.pth", f"--{config}", "config.yaml"])


def built(model, **quantizer):
    """A new model of a zoo's configuration with other random weights, quantized if asked for."""
    config = yaml.safe_load((model.folder / "config.yaml").read_text())
    torch.manual_seed(1)
    return model.task.build_model(Namespace(**{**config, **quantizer}))


RAND = {"quantizer": "rand", "quantizer_conf": {"mode": 3}}


def same(model, state, prefix=""):
    """Whether a model has the weights of a state_dict (below a prefix)."""
    own = model.state_dict()
    return all(torch.equal(own[k], v) for k, v in state.items() if k.startswith(prefix))


@pytest.mark.parametrize("name", CONTENTS)
def test_archives_of_every_task_start_a_training_and_are_packed(zoo, name, tmp_path, caplog):
    given = zoo(name)
    model = built(given, **RAND)
    with caplog.at_level(logging.INFO):
        LOAD(str(given.archive), model, False)
    assert same(model, given.state)
    assert f"{len(given.state)} of {len(given.state)} tensors" in caplog.text
    output = tmp_path / "packed.safetensors"
    quantize_weights.main(
        ["--task", tasks.MODELS[name].get("task", name), "--model_file", str(given.archive), "--output", str(output)]
        + ["--quantizer", "absmax", "--quantizer_conf", "bits=8"]
    )
    packed = read_packed(output)
    assert packed.state_dict().keys() == given.state.keys()
    for key, weight in packed.weights.items():
        assert (weight.values() - given.state[key]).abs().max() <= weight.scales.float().max() * 0.51
    assert all(torch.equal(tensor, given.state[key]) for key, tensor in packed.floats.items())


@pytest.mark.parametrize("form", ["model.pth", "model.zip", "model.tar.gz", "directory", "packed.safetensors"])
def test_a_training_starts_from_each_form(zoo, corpus, train, tmp_path, caplog, form):
    """With a learning rate of zero the weights after an epoch are those that it started from."""
    given = zoo("asr")
    (tmp_path / "tokens.txt").write_text("\n".join(tasks.TOKENS) + "\n")
    shutil.copy(given.folder / "model.pth", tmp_path)
    shutil.copy(given.folder / "config.yaml", tmp_path)
    path, expected = tmp_path / form, given.state
    if form == "packed.safetensors":
        model = built(given, **RAND)
        LOAD(str(given.archive), model, False)
        write_packed(path, pack_model(model.eval()))
        expected = read_packed(path).state_dict()
    elif form == "directory":
        pack_funcs.unpack(given.archive, path)
    elif form != "model.pth":
        pack_as("asr", tmp_path, path)
    config = yaml.safe_load((given.folder / "config.yaml").read_text())
    conf = {key: config[key] for key in ("encoder", "encoder_conf", "decoder", "decoder_conf", "frontend_conf")}
    conf.update(token_list=str(tmp_path / "tokens.txt"), optim_conf={"lr": 0.0}, model_conf={}, **RAND)
    with caplog.at_level(logging.INFO):
        train("--config", corpus.write_config(conf, f"{form}.yaml"), "--output_dir", tmp_path, "--init_param", path)
    trained = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    learned = {key for key in expected if not key.rpartition(".")[2].startswith(("running_", "num_batches"))}
    assert learned and all(torch.equal(trained[key], expected[key]) for key in learned)
    assert f"{path}: {len(expected)} of {len(expected)} tensors" in caplog.text


def test_another_token_list_swaps_what_follows_it(zoo, corpus, train, tmp_path, caplog):
    given = zoo("asr")
    config = yaml.safe_load((given.folder / "config.yaml").read_text())
    conf = {key: config[key] for key in ("encoder", "encoder_conf", "decoder", "decoder_conf", "frontend_conf")}
    path = corpus.write_config({**conf, "model_conf": {}, "optim_conf": {"lr": 0.0}, **RAND}, "vocabulary.yaml")
    common = ("--config", path, "--output_dir", tmp_path, "--init_param", given.archive)
    with pytest.raises(PretrainedError, match=r"model.zip does not fit.*another size: 6.*--ignore_init_mismatch true"):
        train(*common)
    with caplog.at_level(logging.WARNING):
        train(*common, "--ignore_init_mismatch", "true")
    swapped = ["decoder.embed.0.weight", "decoder.output_layer.weight", "decoder.output_layer.bias"]
    swapped += ["ctc.ctc_lo.weight", "ctc.ctc_lo.bias"]
    assert f"5 with the token list (another size: 6): {', '.join(swapped)}. Tensors" in caplog.text
    trained = torch.load(tmp_path / "1epoch.pth", weights_only=True)
    assert {k for k, v in given.state.items() if trained[k].shape != v.shape} == set(swapped)
    assert torch.equal(trained["encoder.after_norm.weight"], given.state["encoder.after_norm.weight"])


def test_other_tokens_of_the_same_number_are_noticed(zoo, caplog):
    given = zoo("asr")
    model = built(given, **RAND)
    with setting(init_param.training, Namespace(token_list=[*tasks.TOKENS[:2], "b", "a", *tasks.TOKENS[4:]])):
        with pytest.raises(
            PretrainedError, match="token_list differs from that of .*config.yaml in 2 of 6 tokens. Fix"
        ):
            LOAD(str(given.archive), model, False)
        LOAD(f"{given.archive}:::ctc,decoder.embed,decoder.output_layer", model, False)
        with caplog.at_level(logging.WARNING):
            LOAD(str(given.archive), model, True)
    assert "in 2 of 6 tokens" in caplog.text
    with setting(init_param.training, Namespace(token_list=tasks.TOKENS)):
        LOAD(str(given.archive), model, False)


def test_a_model_of_which_nothing_fits_is_an_error(zoo):
    with pytest.raises(PretrainedError, match="does not fit"):
        LOAD(str(zoo("lm").folder / "model.pth"), built(zoo("asr"), **RAND), True)


def test_keys_and_shapes_that_do_not_fit_are_listed(zoo, tmp_path, caplog):
    given = zoo("asr")
    state = {**given.state, "encoder.more.weight": torch.ones(2), "decoder.after_norm.bias": torch.ones(3)}
    del state["ctc.ctc_lo.bias"]
    torch.save(state, tmp_path / "other.pth")
    model = built(given, **RAND)
    why = (
        "1 of another shape: decoder.after_norm.bias (3, not 16); 1 missing: ctc.ctc_lo.bias; "
        "1 unexpected: encoder.more.weight"
    )
    with pytest.raises(PretrainedError) as error:
        LOAD(str(tmp_path / "other.pth"), model, False)
    assert f"other.pth does not fit the model: {why}. Fix" in str(error.value)
    with caplog.at_level(logging.INFO):
        LOAD(str(tmp_path / "other.pth"), model, True)
    assert why in caplog.text and f"{len(given.state) - 2} of {len(given.state)} tensors" in caplog.text
    del state["encoder.more.weight"], state["decoder.after_norm.bias"]
    assert same(model, state)


def test_parts_are_named_as_in_espnet(zoo, caplog):
    given = zoo("asr")
    model = built(given, **RAND)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        LOAD(f"{given.archive}:encoder:encoder:encoder.embed", model, False)
    for key, value in model.state_dict().items():
        if key in given.state:
            taken = key.startswith("encoder.") and not key.startswith("encoder.embed")
            assert torch.equal(value, (given.state if taken else before)[key])
    with pytest.raises(PretrainedError, match="the model has no encodr"):
        LOAD(f"{given.archive}:encoder:encodr", model, False)
    with pytest.raises(PretrainedError, match="missing"):
        LOAD(f"{given.archive}:encodr:encoder", model, False)
    with pytest.raises(PretrainedError, match="must read model:src_key"):
        LOAD(f"{given.archive}:a:b:c:d", model, False)
    LOAD(f"{given.archive}:::ctc,decoder.embed", model, False)
    assert same(model, given.state, "encoder.")


def test_old_names_still_load(zoo, tmp_path):
    """Of ESPnet before its subsampling layers lost their nn.Sequential, and before positional tables left the file."""
    given = zoo("asr")
    state = dict(given.state)
    for kind in ("weight", "bias"):
        state[f"encoder.embed.out.0.{kind}"] = state.pop(f"encoder.embed.out.{kind}")
    state["decoder.embed.1.pe"] = torch.zeros(1, 9, 16)
    torch.save(state, tmp_path / "model.pth")
    for ignore in (False, True):
        model = built(given, **RAND)
        LOAD(str(tmp_path / "model.pth"), model, ignore)
        assert same(model, given.state)
    output = tmp_path / "packed.safetensors"
    quantize_weights.main(
        ["--model_file", str(tmp_path / "model.pth"), "--train_config", str(given.folder / "config.yaml")]
        + ["--output", str(output), "--quantizer", "absmax"]
    )
    assert torch.equal(read_packed(output).floats["encoder.embed.out.bias"], given.state["encoder.embed.out.bias"])


def test_old_names_of_the_transformer_still_load(zoo, tmp_path):
    """Of 2020: `norm`, `output_norm` and `input_layer`, in synthesis."""
    given = zoo("tts_transformer")
    old = {"encoder.after_norm.": "encoder.norm.", "encoder.embed.": "encoder.input_layer."}
    old = {f"tts.{new}": f"tts.{name}" for new, name in {**old, "decoder.after_norm.": "decoder.output_norm."}.items()}
    state = dict(given.state)
    for new, name in old.items():
        renamed = {k: name + k.removeprefix(new) for k in given.state if k.startswith(new)}
        assert renamed
        for k, v in renamed.items():
            state[v] = state.pop(k)
    torch.save(state, tmp_path / "model.pth")
    model = built(given, **RAND)
    LOAD(str(tmp_path / "model.pth"), model, False)
    assert same(model, given.state)


def test_the_frontend_of_old_self_supervised_models_still_loads():
    inner = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2)})
    model = torch.nn.ModuleDict(
        {"frontend": torch.nn.ModuleDict({"upstream": torch.nn.ModuleDict({"upstream": inner})})}
    )
    state = {"frontend.upstream.model.weight": torch.ones(2, 2), "frontend.upstream.model.bias": torch.ones(2)}
    assert not fit(model, state).misfits()
    assert inner["model"].weight.eq(1).all()


def test_learned_scales_start_from_the_weights(zoo, tmp_path):
    """Scales of a start with another granularity, or of a method without one here, do not count and are not taken."""
    given = zoo("asr")
    start = built(given, quantizer="rand", quantizer_conf={"mode": 3, "granularity": "tensor"})
    torch.save(start.state_dict(), tmp_path / "start.pth")
    for quantizer in (RAND, {"quantizer": "absmax"}):
        model = built(given, **quantizer)
        LOAD(str(tmp_path / "start.pth"), model, False)
        assert same(model, {k: v for k, v in start.state_dict().items() if not k.endswith("_quantizer_scale")})
    fresh = built(given, **RAND)
    fresh.load_state_dict(
        {k: v for k, v in start.state_dict().items() if not k.endswith("_quantizer_scale")}, strict=False
    )
    model = built(given, **RAND)
    LOAD(str(tmp_path / "start.pth"), model, False)
    assert same(model, fresh.state_dict())


def test_adapters_may_be_missing(zoo):
    pytest.importorskip("loralib")
    given = zoo("asr")
    model = built(given, **RAND)
    abs_task.create_adapter(model, "lora", {"target_modules": ["linear_q"]})
    LOAD(str(given.archive), model, False)
    assert same(model, given.state)


def test_without_a_quantizer_a_checkpoint_is_left_to_espnet(zoo):
    given, called = zoo("asr"), []
    model = built(given)
    path = str(given.folder / "model.pth")
    init_param.load_pretrained_model(lambda *args: called.append(args), path, model, True, "cpu")
    assert called == [(path, model, True, "cpu")]
    LOAD(str(given.archive), model, False)
    assert same(model, given.state)


def test_pack_weights_takes_a_quantized_archive_and_refuses_what_does_not_fit(zoo, tmp_path):
    task, folder = tasks.write_config("lm", tmp_path / "lm", **RAND)
    torch.save(task.build_model_from_file(folder / "config.yaml")[0].state_dict(), folder / "model.pth")
    pack_as("asr", folder, tmp_path / "lm.tgz", "lm_file")
    output = str(tmp_path / "lm.safetensors")
    pack_weights.main(["--task", "lm", "--model_file", str(tmp_path / "lm.tgz"), "--output", output])
    assert {w.bits for w in read_packed(output).weights.values()} == {4}
    lm, asr, other = tmp_path / "lm.tgz", zoo("asr").archive, zoo("asr_rnn").folder / "config.yaml"
    for options, message in (
        (["--model_file", lm], "there must be one *model_file in it; there is lm_train_config, lm_file"),
        (["--model_file", folder], "no meta.yaml"),
        (["--model_file", asr, "--train_config", other], f"{asr} does not fit the model of {other}: "),
        ([], "--model_file is not given"),
    ):
        with pytest.raises(SystemExit) as stopped:
            pack_weights.main([*map(str, options), "--output", output])
        said = stopped.value.code
        assert message in said and said.startswith("pack_weights: error"), said


def test_the_statistics_in_an_archive_are_found(zoo, tmp_path, monkeypatch):
    more = {"normalize": "global_mvn", "normalize_conf": {"stats_file": "stats.npz"}}
    task, folder = tasks.write_config("asr", tmp_path / "asr", **more)
    np.savez(folder / "stats.npz", count=4, sum=np.full(16, 2.0), sum_square=np.full(16, 8.0))
    monkeypatch.chdir(folder)
    torch.save(task.build_model_from_file("config.yaml")[0].state_dict(), "model.pth")
    files = ["--asr_train_config", "config.yaml", "--asr_model_file", "model.pth", "--option", "stats.npz"]
    pack.main(["asr", "--outpath", str(tmp_path / "asr.zip"), *files])
    monkeypatch.chdir(tmp_path)
    quantize_weights.main(["--model_file", "asr.zip", "--output", "asr.safetensors", "--quantizer", "absmax"])
    assert read_packed("asr.safetensors").floats["normalize.mean"].eq(0.5).all()


def test_a_packed_file_is_quantized_to_fewer_bits_with_a_warning(zoo, tmp_path, caplog, capsys):
    common = ["--task", "lm", "--train_config", str(zoo("lm").folder / "config.yaml"), "--quantizer", "absmax"]
    for given, bits in ((zoo("lm").archive, 8), (tmp_path / "8.safetensors", 3)):
        output = str(tmp_path / f"{bits}.safetensors")
        quantize_weights.main(
            [*common, "--model_file", str(given), "--quantizer_conf", f"bits={bits}", "--output", output]
        )
        assert f"{given}: 11 of 11 tensors" in capsys.readouterr().out
    finer, coarser = (read_packed(tmp_path / f"{bits}.safetensors") for bits in (8, 3))
    assert caplog.text.count("rounded once more") == 1
    for name, weight in coarser.weights.items():
        assert weight.bits == 3
        assert (weight.values() - finer.weights[name].values()).abs().max() <= weight.scales.float().max() * 0.51


def test_a_tag_is_downloaded_by_the_model_zoo(zoo, monkeypatch):
    from espnet_model_zoo.downloader import ModelDownloader

    given = zoo("asr")
    files = {"asr_train_config": str(given.folder / "config.yaml"), "asr_model_file": str(given.folder / "model.pth")}
    monkeypatch.setattr(ModelDownloader, "__init__", lambda self: None)
    monkeypatch.setattr(ModelDownloader, "download", lambda self, tag: str(given.folder))  # as of Hugging Face
    monkeypatch.setattr(ModelDownloader, "download_and_unpack", lambda self, tag: files if tag == "me/model@v1" else {})
    with open_pretrained("me/model@v1") as found:
        assert found == (given.folder / "model.pth", given.folder / "config.yaml")

    def fail(self, tag):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(ModelDownloader, "download_and_unpack", fail)
    with pytest.raises(PretrainedError, match=r"^me/model: .* cannot be downloaded: ConnectionError: no network\. Fix"):
        LOAD("me/model", built(given, **RAND), False)


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch, name):
    from espnet_model_zoo.downloader import ModelDownloader

    bomb = tmp_path / name
    content = {"meta.yaml": META, "model.pth": bytes(5_000_000)}
    if name == "bomb.zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in content.items():
                archive.writestr(member, data)
    else:
        _tar(bomb, content, "w:gz")
    unpacked = []
    monkeypatch.setattr(sources, "unpack", lambda *args: unpacked.append(args))
    monkeypatch.setattr(ModelDownloader, "__init__", lambda self: None)
    monkeypatch.setattr(ModelDownloader, "download", lambda self, tag: str(bomb))
    monkeypatch.setattr(ModelDownloader, "download_and_unpack", lambda self, tag: unpacked.append(tag))
    for given in (bomb, "me/model"):
        with (
            pytest.raises(PretrainedError, match=rf"{name}: .* bytes that unpack to 5,000,\d+ or more"),
            open_pretrained(given),
        ):
            pass
    monkeypatch.setattr(sources, "_MOST_TIMES", 10**9)
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(PretrainedError, match="has room for 1,000,000. Fix: make room there"), open_pretrained(bomb):
        pass
    assert not unpacked


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


def _tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.type, info.linkname = content, "meta.yaml"
                content = b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


META = b"files: {asr_model_file: model.pth}\nyaml_files: {}\n"


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("evil.pth", lambda path: torch.save({"a": Evil()}, path), "no checkpoint of tensors alone"),
        ("empty.pth", lambda path: path.write_bytes(b""), "copy or make it again"),
        ("list.pth", lambda path: torch.save([torch.ones(1)], path), "no weights of a model"),
        ("cut.zip", lambda path: path.write_bytes(b"PK\x03\x04 cut"), "no archive of espnet2.bin.pack, or damaged"),
        ("none.zip", lambda path: zipfile.ZipFile(path, "w").close(), "no archive of espnet2.bin.pack.*meta.yaml"),
        ("slip.tar", lambda path: _tar(path, {"meta.yaml": META, "../slip": b"x"}), "slip.tar: .*outside"),
        (
            "symbolic.tar",
            lambda path: _tar(path, {"meta.yaml": META, "model.pth": tarfile.SYMTYPE}),
            "pth is no file but",
        ),
        ("hard.tar", lambda path: _tar(path, {"meta.yaml": META, "model.pth": tarfile.LNKTYPE}), "pth is no file but"),
        ("lost.tar", lambda path: _tar(path, {"meta.yaml": META}), "asr_model_file is not in it"),
        (
            "away.tar",
            lambda path: _tar(path, {"meta.yaml": META.replace(b"model.pth", b"../../model.pth")}),
            "names a file elsewhere",
        ),
        ("x.name.gz", lambda path: path.write_bytes(b""), "Cannot detect archive format"),
        ("no/such.pth", lambda path: None, "no such file or directory: .*no/such.pth"),
    ],
)
def test_hostile_and_damaged_files_are_refused(zoo, tmp_path, capsys, name, make, message):
    make(tmp_path / name)
    with pytest.raises(PretrainedError, match=message) as error:
        LOAD(str(tmp_path / name), built(zoo("asr"), **RAND), True)
    assert "\n" not in str(error.value) and "unpickled" not in capsys.readouterr().out.splitlines()
    assert not (tmp_path.parent / "slip").exists()
