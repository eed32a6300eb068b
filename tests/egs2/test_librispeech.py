"""The LibriSpeech recipe on a generated corpus: data stage, downloads, models, and all of it at the tiniest size."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from librispeech_corpus import Server, make_archives, make_corpus  # noqa: E402

RECIPE = Path(__file__).parents[2] / "egs2/librispeech/asr1"


def run_in_recipe(*command):
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix, OMP_NUM_THREADS="1")
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        list(map(str, command)), cwd=RECIPE, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )


def make_data(datadir, *options):
    return run_in_recipe("local/data.sh", "--datadir", datadir, *options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def archives(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("openslr")
    make_archives(corpus, root)
    return root


@pytest.fixture
def server(archives):
    with Server(archives) as server:
        yield server


def columns(path):
    return dict(line.split(" ", 1) for line in path.read_text().splitlines())


def test_data_directories(corpus, tmp_path):
    done = make_data(tmp_path, "--librispeech", corpus)
    assert done.returncode == 0, done.stderr
    names = {"train_960", "dev", "dev_clean", "dev_other", "test_clean", "test_other"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        files = {file: columns(tmp_path / name / file) for file in ("wav.scp", "text", "utt2spk", "spk2utt")}
        keys = list(files["text"])
        assert keys == sorted(keys) == list(files["wav.scp"]) == list(files["utt2spk"])
        speakers = files["utt2spk"].values()
        assert list(speakers) == sorted(speakers) and list(files["spk2utt"]) == sorted(set(speakers))
        assert " ".join(files["spk2utt"].values()).split() == keys
        assert all(Path(path).is_file() and key in path for key, path in files["wav.scp"].items())
    train = columns(tmp_path / "train_960/utt2spk")
    assert len(train) == 20 and train["103-1241-0003"] == "103" and train["1034-121119-0000"] == "1034"
    assert len(columns(tmp_path / "dev/text")) == 8
    spoken = (corpus / "dev-clean/84/121123/84-121123.trans.txt").read_text().splitlines()
    assert spoken == (tmp_path / "dev_clean/text").read_text().splitlines()


def test_the_100_hours_need_fewer_parts(corpus, tmp_path):
    part_of_it = tmp_path / "LibriSpeech"
    shutil.copytree(corpus, part_of_it, ignore=shutil.ignore_patterns("train-clean-360", "train-other-500"))
    done = make_data(tmp_path / "data", "--librispeech", part_of_it, "--train_set", "train_clean_100")
    assert done.returncode == 0, done.stderr
    assert len(columns(tmp_path / "data/train_clean_100/text")) == 12
    done = make_data(tmp_path / "data_960", "--librispeech", part_of_it)
    assert done.returncode == 1 and "train-clean-360 has no <speaker>" in done.stderr
    assert not (tmp_path / "data_960").exists()


@pytest.mark.parametrize(
    "lost, message", [("61-70968-0002.flac", "no recording"), ("61-70968.trans.txt", "test-clean")]
)
def test_a_copy_that_is_not_whole_is_an_error(corpus, tmp_path, lost, message):
    broken = tmp_path / "LibriSpeech"
    shutil.copytree(corpus, broken)
    (broken / "test-clean/61/70968" / lost).unlink()
    done = make_data(tmp_path / "data", "--librispeech", broken)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert message in done.stderr and "Mend: " in done.stderr
    assert not (tmp_path / "data").exists()


def download_options(server, folder):
    return ["--base_url", server.url, "--downloads", folder, "--train_set", "train_clean_100"]


def test_a_download_goes_on_after_interruptions(server, tmp_path):
    """Two within a run, and a run that was killed with a part on disk; the second time nothing is asked for."""
    train, dev = "12/train-clean-100.tar.gz", "12/dev-clean.tar.gz"
    server.break_off = {train: 2}
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / "dev-clean.tar.gz.part").write_bytes((server.root / dev).read_bytes()[:1000])
    (downloads / "LibriSpeech/.test-clean.unfinished").mkdir(parents=True)
    done = make_data(tmp_path / "data", *download_options(server, downloads), "--lm_text", "true")
    assert done.returncode == 0, done.stderr
    size = (server.root / train).stat().st_size
    starts = [start for path, start in server.requests if path == train]
    assert starts == [0, size // 2, size // 2 + (size - size // 2) // 2]
    assert (dev, 1000) in server.requests
    parts = {"train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"}
    assert {path.name for path in (downloads / "LibriSpeech").iterdir()} == parts | {"SPEAKERS.TXT", "CHAPTERS.TXT"}
    assert len(columns(tmp_path / "data/train_clean_100/text")) == 12
    assert len(columns(tmp_path / "data/lm/text")) == 20
    server.requests.clear()
    done = make_data(tmp_path / "data", *download_options(server, downloads))
    assert done.returncode == 0 and not server.requests


def test_a_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.break_off = {"12/dev-other.tar.gz": 1}
    done = make_data(tmp_path / "data", *download_options(server, tmp_path / "downloads"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("archive", ["12/test-other.tar.gz", "11/librispeech-lm-norm.txt.gz"])
def test_a_damaged_archive_is_not_unpacked(server, tmp_path, archive):
    server.damage = {archive: 1}
    options = [*download_options(server, tmp_path / "downloads"), "--lm_text", "true"]
    done = make_data(tmp_path / "data", *options)
    name = archive.partition("/")[2]
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{name}.part came damaged" in done.stderr and "Mend: run again" in done.stderr
    assert not list((tmp_path / "downloads").glob(f"{name}*")) and not (tmp_path / "data").exists()
    assert not (tmp_path / "downloads/LibriSpeech/test-other").exists() or archive.startswith("11")
    done = make_data(tmp_path / "data", *options)
    assert done.returncode == 0, done.stderr


def test_what_the_server_does_not_have_is_named(server, tmp_path):
    server.url += "/nowhere"
    done = make_data(tmp_path / "data", *download_options(server, tmp_path / "downloads"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "/nowhere/12/md5sum.txt: 404" in done.stderr and "--base_url" in done.stderr
