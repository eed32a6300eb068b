"""`espnet_rand.bin.publish`: a folder that ESPnet's users load, and its way to the hub."""

import json
import re

import pytest
import sentencepiece
import yaml
from espnet2.tasks.asr import ASRTask
from huggingface_hub import ModelCard, constants

from espnet_rand.bin import publish, quantize_weights
from espnet_rand.publishing import checking, private
from espnet_rand.publishing.hub import HubError, check_tag
from tests.publishing.hub import running

SAID = {
    "--license": "cc-by-4.0",
    "--origin": "trained from random weights",
    "--dataset": "some_noise",
    "--data_license": "CC0",
    "--plugin": "git+https://example.org/espnet_rand.git",
}


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    """A packed file, with its config.yaml beside it."""
    folder = tmp_path_factory.mktemp("model")
    options = {**ASRTask.get_default_config(), **yaml.safe_load(corpus.config.read_text())}
    options.update(token_list=corpus.tokens.read_text().split(), output_dir=str(folder))
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    quantizer = ["--quantizer", "absmax", "--quantizer_conf", "bits=3"]
    given = ["--train_config", str(folder / "config.yaml"), "--output", str(folder / "packed.safetensors")]
    quantize_weights.main([*given, *quantizer])
    return folder / "packed.safetensors"


@pytest.fixture
def loaded(monkeypatch):
    """Let every folder load, in place of the check."""
    monkeypatch.setattr("espnet_rand.publishing.checking.check", lambda *_: None)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub; this user has a token."""
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
        yield hub


def _publish(model, output, *more, said=SAID):
    about = [word for pair in said.items() for word in pair]
    publish.main([str(word) for word in ("--model_file", model, "--output", output, *about, *more)])


def test_a_user_loads_it_by_its_name(model, hub, tmp_path, capsys, monkeypatch):
    (tmp_path / "RESULTS.md").write_text("| set | WER % |\n| --- | --- |\n| test | 12.3 |\n")
    given = ("--repo", "me/model", "--with_float", "true", "--language", "en", "--results", tmp_path / "RESULTS.md")
    output = tmp_path / "published"
    _publish(model, output, *given)  # loads it, with and without this package
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.address}/me/model"
    assert {name: (output / name).read_bytes() for name in hub.files} == hub.files
    assert set(hub.files) == {"README.md", "config.yaml", "float.pth", "meta.yaml", "model.safetensors", "report.json"}
    card = ModelCard.load(output / "README.md")
    assert (card.data.license, card.data.language, card.data.library_name) == ("cc-by-4.0", ["en"], "espnet")
    assert card.data.datasets == ["some_noise"] and card.data.pipeline_tag == "automatic-speech-recognition"
    for told in ("espnet_rand.git", "| test | 12.3 |", "trained from random weights", "CC0", "3 bits"):
        assert told in card.text
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["token_list"][2] == "a" and not {"quantizer", "output_dir", "optim"} & {*config}
    assert (output / "model.safetensors").read_bytes() == model.read_bytes()
    # once more: what is no longer published goes
    monkeypatch.setattr("espnet_rand.publishing.checking.check", lambda *_: None)
    _publish(model, output, "--repo", "me/model")
    assert "float.pth" not in hub.files and not (output / "float.pth").exists()


def test_what_does_not_load_is_not_published(model, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_rand.publishing.card.Card.code", lambda card: "raise ValueError('no such model')")
    with pytest.raises(SystemExit, match="with espnet_rand does not load what is to be published: .*no such model"):
        _publish(model, tmp_path / "out", "--repo", "me/model")
    assert hub.files is None and not list((tmp_path / "out").iterdir())


def test_files_that_the_configuration_names_come_along(model, loaded, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("ab ba abab\n" * 20)
    sentencepiece.SentencePieceTrainer.train(input=corpus, model_prefix=tmp_path / "bpe", vocab_size=7, minloglevel=9)
    options = yaml.safe_load((model.parent / "config.yaml").read_text())
    options.update(bpemodel=str(tmp_path / "bpe.model"), token_type="bpe", rir_scp=str(corpus))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    _publish(model, tmp_path / "out", "--train_config", tmp_path / "config.yaml")
    published = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert published["bpemodel"] == "files/0_bpe.model" and published["rir_scp"] is None
    copied = tmp_path / "out/files/0_bpe.model"
    assert str(tmp_path).encode() in (tmp_path / "bpe.model").read_bytes()
    assert str(tmp_path).encode() not in copied.read_bytes()
    encode = [sentencepiece.SentencePieceProcessor(str(path)).encode for path in (copied, tmp_path / "bpe.model")]
    assert encode[0]("abab ba") == encode[1]("abab ba")
    with pytest.raises(SystemExit, match="--search_conf: Speech2Text has no beam. Fix: one of .*beam_size"):
        _publish(model, tmp_path / "other", "--search_conf", "beam=5")
    (tmp_path / ".mine").mkdir()
    (tmp_path / "bpe.model").rename(tmp_path / ".mine/bpe.model")
    hidden = (tmp_path / "config.yaml").read_text().replace("/bpe.model", "/.mine/bpe.model")
    (tmp_path / "hidden.yaml").write_text(hidden)
    with pytest.raises(SystemExit, match="bpe.model is hidden, and not published. Fix"):
        _publish(model, tmp_path / "other", "--train_config", tmp_path / "hidden.yaml")
    with pytest.raises(SystemExit, match="bpemodel: no such file: .*Fix"):
        _publish(model, tmp_path / "other", "--train_config", tmp_path / "config.yaml")


def test_exported_files_go_with_it(model, loaded, tmp_path):
    shipped = tmp_path / "onnx"
    shipped.mkdir()
    (shipped / "model.onnx").write_bytes(b"codes")
    report = {"target": "onnx", "agreement": 98.76, "words": 123, "reference": "float model", "model": "/home/me/x"}
    (shipped / "report.json").write_text(json.dumps(report))
    _publish(model, tmp_path / "out", "--exported", shipped)
    assert [path.name for path in (tmp_path / "out/exported/onnx").iterdir()] == ["model.onnx"]
    assert "98.8% of 123 words" in (tmp_path / "out/README.md").read_text()
    (shipped / "secret").symlink_to("/etc/passwd")
    with pytest.raises(SystemExit, match="secret is a link, and not published. Fix"):
        _publish(model, tmp_path / "out", "--exported", shipped)
    (shipped / "secret").rename(tmp_path / "secret")
    (shipped / "log.txt").write_text(f"started in {tmp_path}/exp")
    with pytest.raises(SystemExit, match="exported/onnx/log.txt names .*, a folder of your machine. Fix"):
        _publish(model, tmp_path / "out", "--exported", shipped)


@pytest.mark.parametrize(
    "told, wrong",
    [
        ({}, "--license .*--origin .*--dataset .*--data_license .*--plugin"),
        ({**SAID, "--license": "CC BY 4.0"}, "--license: 'CC BY 4.0' is not allowed"),
        ({**SAID, "--plugin": "./espnet_rand"}, "is on this machine alone"),
    ],
)
def test_nothing_is_guessed(model, hub, tmp_path, told, wrong):
    with pytest.raises(SystemExit, match=wrong):
        _publish(model, tmp_path / "out", "--repo", "me/model", said=told)
    assert not hub.asked


def test_the_check_has_no_options_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_RAND_IMPORT", "a_module_of_mine")
    (tmp_path / "folder").mkdir()
    program = "import os\nassert 'ESPNET_RAND_IMPORT' not in os.environ\nraise ValueError('all is well')"
    with pytest.raises(checking.CheckError, match="^second does not load what is to be published: .*all is well$"):
        checking.check(tmp_path / "folder", "me/model", {"first": "", "second": program})


def test_folders_with_other_files_stay(model, loaded, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds other files: mine.txt. Fix"):
        _publish(model, tmp_path)
    with pytest.raises(SystemExit, match="is replaced, and holds .* Fix"):
        _publish(model, model.parent)
    assert model.is_file()


def test_the_hub_refuses_before_any_work(model, hub, tmp_path, monkeypatch):
    def refused(why, repo="me/model"):
        with pytest.raises(SystemExit, match=why):
            _publish(model, tmp_path / "out", "--repo", repo)

    refused("is of me. Fix: another token", "somebody/model")
    hub.account["auth"]["accessToken"]["role"] = "read"
    refused("may only read. Fix")
    hub.account["auth"]["accessToken"]["role"] = "write"
    hub.files = {"pytorch_model.bin": b"of another model"}
    refused("has files that this command did not write, as pytorch_model.bin. Fix")
    hub.refuses = {"whoami": 401}
    refused("nothing was made: .*Fix: another token: this one is wrong or out of date")
    monkeypatch.delenv("HF_TOKEN")
    refused("there is no token of the hub. Fix: .*leave --repo out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "part, status, fix", [("create", 403, "with the right to write"), ("commit", 0, "run this again")]
)
def test_a_failed_upload_keeps_the_folder(model, loaded, hub, tmp_path, part, status, fix):
    hub.refuses = {part: status}
    with pytest.raises(SystemExit, match=f"nothing was uploaded, .*out is complete: .*Fix: .*{fix}") as said:
        _publish(model, tmp_path / "out", "--repo", "me/model")
    assert "xxx" not in str(said.value) and "\n" not in str(said.value)
    assert not hub.files and (tmp_path / "out/README.md").is_file()
    hub.refuses = {}
    _publish(model, tmp_path / "out", "--repo", "me/model")
    assert "model.safetensors" in hub.files


@pytest.mark.parametrize("tag", ["me", "me/my model", "../x", "me/../x", "me/a/b", "me/x@main", "-me/x", "me/x.git"])
def test_names_that_the_hub_has_not(tag):
    with pytest.raises(HubError, match="is not allowed. Fix: USER/NAME"):
        check_tag(tag)


@pytest.mark.parametrize(
    "content, found",
    [
        (b"see /home/jane/exp", "/home/jane"),
        (b"\n\x0bA/home/jane/x", "/home/jane"),
        (b"file:///Users/jane", "/Users/jane"),
        (rb"C:\Users\jane\x", "jane"),
        (b"key: hf_" + b"a" * 34, "a token"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "a key"),
        (b"https://example.org/home/page", None),
    ],
)
def test_private_things_are_found(tmp_path, content, found):
    (tmp_path / "file").write_bytes(content)
    if found is None:
        return private.check(tmp_path, [], None)
    with pytest.raises(private.PrivateError, match=re.escape(found)) as said:
        private.check(tmp_path, [], None)
    assert "aaaa" not in str(said.value)
