"""Recipes of translation: the stages of TEMPLATE/mt1, run by egs2/libreoffice_help/mt1, and its data."""

import gzip
import importlib
import struct
import sys
from types import SimpleNamespace

import pytest
import torch

import espnet_rand
from espnet_rand.bin import pack_weights
from espnet_rand.kaldi import DataError, read_lines
from espnet_rand.packing import read_packed
from tests.egs2.recipe import EGS2, run
from tests.toolkit import tasks

RECIPE, TEMPLATE = EGS2 / "libreoffice_help/mt1", EGS2 / "TEMPLATE/mt1"
SENTENCES = {
    "a cab": "das ist ein Taxi",
    "a bad cab": "das ist ein altes Taxi",
    "bad ace": "das hier ist ein As",
    "a dab": "hier ist ein kleiner Tupfen",
}


@pytest.fixture(autouse=True)
def local_path(monkeypatch):
    """The modules of the recipe and of its stages, while a test runs."""
    for folder in (RECIPE / "local", TEMPLATE):
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("pairs", "corpora", "libreoffice", "wesnoth", "prepare_pairs", "bleu", "nearest"):
        sys.modules.pop(name, None)


def write_corpus(folder):
    for part in ("train", "dev", "test"):
        (folder / part).mkdir(parents=True)
        for name, texts in (("text.en", SENTENCES), ("text.de", SENTENCES.values())):
            lines = (f"{part}{i} {text}\n" for i, text in enumerate(texts))
            (folder / part / name).write_text("".join(lines))
    return folder


def run_stages(folder, first, last, *options):
    done = run(
        RECIPE / "run.sh", "--stage", first, "--stop_stage", last, "--corpus", "corpus",
        "--datadir", "data", "--expdir", "exp", *options, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_trainings_have_one_list_of_tokens_and_begin_with_float(tmp_path):
    espnet_rand.register()
    from espnet2.tasks.mt import MTTask

    write_corpus(tmp_path / "corpus")
    systems = "--presets", "rand_m1_ste_w4", "--taught", "rand_m3_ste_w4", "--bits", "2", "--granularity", "g32"
    run_stages(tmp_path, 1, 2, "--python", "python3", "--nbpe", "30")
    assert read_lines(tmp_path / "data/train/text.src")["train1"] == "a bad cab"
    tokens = (tmp_path / "data/token_list/bpe30/tokens.txt").read_text()
    assert "c" in tokens and "T" in tokens  # of both languages
    run_stages(tmp_path, 3, 4, "--python", "echo", "--nbpe", "30", "--mt_args", "--max_epoch 7", *systems)

    def training(system):
        command = (tmp_path / f"exp/{system}/train.log").read_text().splitlines()[-1].split()  # by echo
        assert command[:2] == ["-m", "espnet2.bin.mt_train"]
        return MTTask.get_parser().parse_args([word.replace("conf/", f"{RECIPE}/conf/") for word in command[2:]])

    args = training("rand_m3_ste_taught_g32_w2.1")
    files = [path for path, *_ in args.train_data_path_and_name_and_type]
    assert files == [str(tmp_path / "data/train" / name) for name in ("text.src", "text")]
    assert args.token_list == args.src_token_list and args.bpemodel == args.src_bpemodel
    assert args.model_conf["share_encoder_decoder_input_embed"] and args.max_epoch == 7
    assert args.init_param == [args.teacher] == [f"{tmp_path}/exp/float/valid.loss.ave.pth"]
    chosen = [training(f"{name}_g32_w2.1").quantizer_conf for name in ("rand_m1_ste", "rand_m3_ste_taught")]
    assert [(conf["mode"], conf["estimator"], conf["group_size"], conf["bits"]) for conf in chosen] == [
        (1, "ste", 32, 2),
        (3, "ste", 32, 2),
    ]
    assert not training("float").init_param
    (tmp_path / "exp/float/valid.loss.ave.pth").touch()
    run_stages(tmp_path, 5, 5, "--python", "echo", "--seeds", "", "--bits", "2", "--granularity", "g32")
    log = (tmp_path / "exp/calibrated_g32_w2/calibrate.log").read_text()
    assert "calibrate_weights --task mt " in log and f"{tmp_path}/data/train/text.src,src_text,text" in log


def test_wrong_options_are_refused_before_anything_is_trained(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    for option, value, message in (
        ("--bits", "4 1", "--bits must be numbers from 2 to 8: 1"),
        ("--granularity", "row", "--granularity must be of tensor, channel, column"),
        ("--seeds", "1 a", "--seeds must be whole numbers: a"),
        ("--taught", "rand_w9", "rand_w9: there is no rand_w9.yaml"),
        ("--expdir", "my models", "has a space"),
        ("--corpus", "nowhere", "--corpus must be libreoffice, multi30k or a folder"),
    ):
        done = run(RECIPE / "run.sh", "--corpus", corpus, "--datadir", "data", option, value, cwd=tmp_path)
        assert done.returncode and message in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "data").exists()
    run_stages(tmp_path, 1, 1)
    assert "other options" not in run_stages(tmp_path, 1, 1)
    assert "is of other options" in run_stages(tmp_path, 1, 1, "--target", "fr")


def test_packed_files_are_decoded_and_systems_compared_with_float(tmp_path):
    espnet_rand.register()
    write_corpus(tmp_path / "corpus")
    run_stages(tmp_path, 1, 1)
    systems = "float: {train: c}\nrand.1: {train: c}\nrand.2: {train: c}"
    for name in ("float", "rand.2"):  # decoded already
        said = tmp_path / f"exp/{name}/decode_test/1best_recog/text"
        said.parent.mkdir(parents=True)
        lines = (tmp_path / "data/test/text").read_text()
        said.write_text(lines if name == "float" else lines.replace("Taxi", "Rad"))
    tied = {"share_decoder_input_output_embed": True, "share_encoder_decoder_input_embed": True}
    quantizer = {"quantizer": "absmax", "quantizer_conf": {"bits": 4}}
    task, exp = tasks.write_config(
        "mt", tmp_path / "exp/rand.1", model_conf=tied, frontend_conf={"embed_dim": 16}, **quantizer
    )
    torch.manual_seed(0)
    model, _ = task.build_model_from_file(exp / "config.yaml")
    files = exp / "config.yaml", exp / "valid.loss.ave.pth", exp / "packed.safetensors"
    torch.save(model.state_dict(), files[1])
    for name in ("train.done", "quantization.yaml"):  # as a training leaves them
        (exp / name).touch()
    options = zip(("--task", "--train_config", "--model_file", "--output"), ("mt", *map(str, files)))
    pack_weights.main([word for option in options for word in option])
    first, *others = (f"{name}.weight" for name in ("frontend.embed.0", "decoder.embed.0", "decoder.output_layer"))
    assert read_packed(files[2]).aliases == dict.fromkeys(others, first)  # one weight, packed once
    (tmp_path / "exp/rand.2/packed.safetensors").symlink_to(files[2])
    run_stages(tmp_path, 6, 6, "--systems", "rand.1: {train: c}")
    assert f"--mt_model_file {files[2]}" in next((exp / "decode_test").rglob("decode.log")).read_text()
    done = run(
        RECIPE / "run.sh", "--stage", "7", "--corpus", "corpus", "--datadir", "data", "--expdir", "exp",
        "--systems", systems, "--baseline", "flat", cwd=tmp_path,
    )  # fmt: skip
    assert "--baseline: flat is not one of float, rand" in done.stderr
    run_stages(tmp_path, 7, 7, "--systems", systems)
    table, signatures = (tmp_path / "exp/RESULTS.md").read_text().split("\n\n")
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    nearest, float_, rand = (dict(zip(header, row)) for row in rows)
    assert nearest["system"] == "nearest" and float(nearest["BLEU"]) == 100.0  # the test set is that of training here
    assert nearest["BLEU, difference"] == "+0.00 (+0.00 to +0.00)" and nearest["p"] == "1.000"
    assert float_["BLEU"] == float_["chrF"] == "100.00" and float_["p"] == "-"
    assert rand["weights"] == "4 bits, channel" and "(0.00-" in rand["BLEU"]  # of two runs
    assert rand["BLEU, difference"].startswith("-") and "BLEU nrefs:1|case:mixed" in signatures


def test_differences_of_seeds_are_joined():
    bleu = importlib.import_module("bleu")
    references = [f"the {word} of page {i} is shown here" for i, word in enumerate("abcdefghij" * 4)]
    worse = [text.replace("shown", "seen") if i % 3 else text for i, text in enumerate(references)]
    worst = ["nothing of that"] * len(references)
    found = bleu.compare(references, [worse], [references])
    assert found["p"] == "0.001" and found["BLEU, difference"].split(" to ")[1].startswith("-")
    lone, seeds = (bleu.compare(references, runs, [worse]) for runs in ([worst], [worst, references]))
    assert lone["p"] == "0.001" and "to +" not in lone["BLEU, difference"]
    assert "to +" in seeds["BLEU, difference"]  # two runs that lie far apart say nothing of a third
    assert bleu.compare(references, [list(worse)], [worse])["p"] == "1.000"
    twice = bleu.compare(references, [worse, worst], [worse, worst])  # the seeds differ, but not the two systems
    assert twice == {"BLEU, difference": "+0.00 (+0.00 to +0.00)", "p": "1.000"}
    apart = bleu.compare(references, [worse], [worse, worst])  # two runs of the baseline say little of its mean
    assert "(-" in apart["BLEU, difference"] and "to +" in apart["BLEU, difference"]


PAGE = """<html><body><p dir="auto">no id here</p>
<h1 id="hd_1">{0} of <span class="emph">one</span> page &amp; more</h1>
<p id="par_1">Choose <span class="switchinline"><span hidden="true" id="MACx_1" class="MAC">
<span class="emph">{0} - Preferences</span></span><span hidden="true" id="defaultx_1">{0} - Options</span></span>
now<br>please.</p>
<p id="par_2">Works<span class="switchinline"><span hidden="true" id="CALCx_1"> in Calc only</span></span> {0} here
<p id="par_3">same in both languages</p><p id="par_4">{0} short</p></body></html>"""  # an unclosed p, too


def write_page(folder, language, name, word):
    path = folder / f"usr/share/libreoffice/help/{language}/text/{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.format(word), encoding="utf-8")


def write_catalogue(path, messages):
    """Write an .mo file: a table of lengths and places of the messages, one of the translations, then both."""
    rows = sorted(messages.items())
    texts = [text.encode() for column in zip(*rows) for text in column]
    at, table = 28 + 8 * len(texts), b""
    for text in texts:
        table += struct.pack("<2I", len(text), at)
        at += len(text) + 1
    header = struct.pack("<7I", 0x950412DE, 0, len(rows), 28, 28 + 8 * len(rows), 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + table + b"\0".join(texts) + b"\0")


def prepare(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["prepare_pairs.py", *map(str, options)])
    importlib.import_module("prepare_pairs").main()


def test_pages_and_catalogues_become_sets(tmp_path, monkeypatch):
    pairs = importlib.import_module("pairs")
    names = {}
    for i in range(1000):
        names.setdefault(pairs.set_of(f"page{i}", {"test": 0.06, "dev": 0.03}), f"page{i}")
    for number, name in enumerate(names.values()):
        for language, word in (("en-US", "Tools"), ("de", "Extras")):
            write_page(tmp_path, language, name, f"{word}{number}")
    write_page(tmp_path, "en-US", "untranslated", "Tools")
    catalogue = {
        "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n!=1;\n",
        "menu^The <b>king</b> rides today": "Der <b>König</b> reitet heute",
        "one old elf rides\0many old elves ride": "ein alter Elf reitet\0viele alte Elfen reiten",
        "title\x04See <ref>dst='x' text='an elf\\'s home'</ref> over there": "Dort ist <i>das Heim</i> eines Elfen",
        "$name| rides out again today": "$name| reitet heute wieder aus",
        "First line of two.\nSecond line of them.": "Die erste Zeile.\nDie zweite Zeile davon.",
        "Only one line in this": "Hier sind\nzwei Zeilen",
        "three words only": "nur drei Worte",
    }
    write_catalogue(tmp_path / "x/de/LC_MESSAGES/wesnoth-a.mo", catalogue)
    prepare(monkeypatch, tmp_path / "data", "--libreoffice", tmp_path, "--wesnoth", tmp_path)
    source, target = (read_lines(tmp_path / "data/train" / name) for name in ("text.src", "text"))
    page = names["train"]
    number = list(names).index("train")
    assert source == {
        f"{page}-hd_1": f"Tools{number} of one page & more",
        f"{page}-par_1": f"Choose Tools{number} - Options now please.",
        f"{page}-par_2": f"Works Tools{number} here",
    }
    assert target[f"{page}-par_1"] == f"Choose Extras{number} - Options now please."
    assert set(read_lines(tmp_path / "data/dev/text")) == {
        f"{names['dev']}-{key}" for key in ("hd_1", "par_1", "par_2")
    }
    game = read_lines(tmp_path / "data/test_wesnoth/text.src")
    assert sorted(game.values()) == [
        "First line of two.",
        "Second line of them.",
        "See an elf's home over there",
        "The king rides today",
        "one old elf rides",
    ]
    translated = read_lines(tmp_path / "data/test_wesnoth/text")
    assert {translated[key] for key, text in game.items() if "elf" in text} == {
        "Dort ist das Heim eines Elfen",
        "ein alter Elf reitet",
    }


def test_what_training_says_is_no_test():
    pairs = importlib.import_module("pairs")
    training = [pairs.Pair("a", "Click the button to save all of your work now.", "Klicken Sie zum Speichern.")]
    kept = "Click the button to print a letter that you wrote yesterday"
    test = [
        pairs.Pair("b", "click THE button, to save all of your work now", "anderes"),  # but for case and commas
        pairs.Pair("c", "Something else altogether", "klicken sie zum speichern"),  # in the other language
        pairs.Pair("d", "Click the button to save all of your files", "Andere Dateien"),  # 5 of 6 n-grams
        pairs.Pair("e", kept, "Drucken"),
        pairs.Pair("f", kept, "Noch einmal drucken"),
    ]
    assert [pair.key for pair in pairs.unsaid(test, pairs.Said(training))] == ["e"]


def test_what_dev_and_test_have_in_common_stays_in_test(monkeypatch):
    pairs, prepare_pairs = map(importlib.import_module, ("pairs", "prepare_pairs"))
    sets = {
        "train": [pairs.Pair("a", "Something else", "Etwas anderes")],
        "test": [pairs.Pair("b", "All of this", "All das")],
        "dev": [pairs.Pair("c", "All of THIS.", "Das alles")],
    }
    monkeypatch.setattr(prepare_pairs, "libreoffice_sets", lambda *_: sets)
    args = SimpleNamespace(corpus="libreoffice", target="de", libreoffice=None, wesnoth=None)
    found = prepare_pairs.read_sets(args)
    assert {part: [pair.key for pair in rows] for part, rows in found.items()} == {
        "train": ["a"],
        "test": ["b"],
        "dev": [],
    }


def test_multi30k_is_read_and_other_files_are_refused(tmp_path, monkeypatch, capsys):
    corpora = importlib.import_module("corpora")
    raw = tmp_path / "multi30k/data/task1/raw"
    raw.mkdir(parents=True)
    for part in ("train", "val", "test_2016_flickr"):
        for language, text in (("en", "A dog runs.\nTwo men.\n"), ("de", "Ein Hund läuft.\nZwei Männer.\n")):
            (raw / f"{part}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    options = "--corpus", "multi30k", "--multi30k", tmp_path / "multi30k"
    prepare(monkeypatch, tmp_path / "data", *options)
    assert read_lines(tmp_path / "data/test/text") == {"test-00001": "Ein Hund läuft.", "test-00002": "Zwei Männer."}
    (raw / "val.de.gz").write_bytes(gzip.compress(b"Ein Hund.\n"))
    with pytest.raises(SystemExit, match="val.de.gz has not as many lines as"):
        prepare(monkeypatch, tmp_path / "data", *options)
    (raw / "val.de.gz").write_bytes(b"no gzip")
    with pytest.raises(SystemExit, match="val.de.gz: not to be read"):
        prepare(monkeypatch, tmp_path / "data", *options)
    whole = gzip.compress(b"Ein Hund.\n" * 99 + bytes(range(99)))
    (raw / "val.de.gz").write_bytes(whole[:10] + b"\xff" * 20 + whole[30:])
    with pytest.raises(SystemExit, match="val.de.gz: not to be read"):
        prepare(monkeypatch, tmp_path / "data", *options)
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "dev/text.de").write_text("dev0 nur einer\n")
    with pytest.raises(DataError, match="dev1 is in one of .*text.en and .*text.de alone"):
        corpora.read_folders(corpus, ("en", "de"))
    (corpus / "dev/text.de").unlink()
    with pytest.raises(DataError, match="dev: has neither text.en and text.de nor text.src and text"):
        corpora.read_folders(corpus, ("en", "de"))
    page = tmp_path / "page.html"
    page.write_text("<p id='a'>here</p><![unknown[")
    with pytest.raises(DataError, match="page.html: not to be read"):
        importlib.import_module("libreoffice").paragraphs(page)
    catalogue = tmp_path / "de/LC_MESSAGES/wesnoth.mo"
    catalogue.parent.mkdir(parents=True)
    tables = struct.pack("<2I", 400, 44) * 2  # one text, as often as one likes
    repeated = struct.pack("<7I", 0x950412DE, 0, 2, 28, 28, 0, 0) + tables + b"a" * 401
    for content, why in (
        (b"\xde\x12\x04\x95" + b"\xff" * 60, "buffer"),
        (repeated, "its texts are longer than the file"),
        (b"", "buffer"),
    ):
        catalogue.write_bytes(content)
        with pytest.raises(DataError, match=f"wesnoth.mo: no catalogue of gettext: .*{why}"):
            list(importlib.import_module("wesnoth").read_game(tmp_path, "de"))
