"""The data of egs2/amazon_queen/asr1, from a game that is made here."""

import io
import random
import struct
import sys

import numpy as np
import pytest
import soundfile

from espnet_rand.kaldi import read_lines
from tests.egs2.recipe import EGS2, run

pytest.importorskip("whisper")
LOCAL = EGS2 / "amazon_queen/asr1/local"
RATE = 11025


@pytest.fixture
def game(monkeypatch):
    monkeypatch.syspath_prepend(str(LOCAL))
    import prepare_game

    yield prepare_game
    for name in ("prepare_game", "whisper_data"):
        sys.modules.pop(name)


def text(said, align=2, at=0):
    """A text as the game stores it, where `at` bytes are before it."""
    data = bytes([len(said)]) + said.encode()
    return data + bytes(-(at + len(data)) % align if said else 0)


def conversation(key, joe, other, again):
    """A .DOG of one level: what Joe and the other say, by number, and when they meet again."""
    body = bytearray(32 + 96)
    for said in (joe, other):
        other_at = len(body)
        for number, line in said.items():
            body += struct.pack(">HH", 0, number)
            body += text(line, 4, len(body))
    struct.pack_into(">5h", body, 0, -1, 0, key, len(joe), len(other))
    again_at = len(body)
    for line in again:
        body += text(line, 2, len(body))
    struct.pack_into(">3H", body, 22, other_at, 0, again_at)
    return bytes(20) + body


def scene(lines):
    """A .CUT."""
    body = bytearray(struct.pack(">2h3H", 0, len(lines), 0, 0, 10))
    for line in ["", *lines]:
        body += text(line, 2, len(body))
    return bytes(20) + body


def recording(seconds=0.5):
    file = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE))
    soundfile.write(file, samples, RATE, format="MP3", subtype="MPEG_LAYER_III")
    return file.getvalue()


def archive(resources):
    """A queen.1c."""
    at = 15 + 21 * len(resources)
    table, content = b"", b""
    for name, data in resources.items():
        table += struct.pack(">12sBII", name.encode(), 1, at + len(content), len(data))
        content += data
    return struct.pack(">4s8sBH", b"QTBL", b"CEM10", 1, len(resources)) + table + content


def small_game(sounds, sound=b"sound"):
    joe = {0: "Hello*02 there", 0x1E: "What is that?*XY00(237,112)A lamp"}
    dog = conversation(7, joe, {0x20: "A LAMP, of course^_..."}, ["You again", "Me again"])
    woof = conversation(8, {3: "Good dog"}, {4: "Woof woof"}, ["", ""])
    files = {"BOB.DOG": dog, "APE.DOG": woof, "C3C.CUT": scene(["*", "In*05 the end"]), "A.PCX": b"picture"}
    return archive({**files, **{f"{name}.SB": sound for name in sounds}})


SAID = {
    "070000J1": ("joe", "Hello"),
    "070000J2": ("joe", " there"),
    "07001EJ1": ("joe", "What is that?"),
    "07001EJ2": ("joe", "A lamp"),
    "070020P1": ("bob", "A LAMP, of course^_..."),
    "07SSSSJ1": ("joe", "Hello"),
    "07XXXXP1": ("bob", "You again"),
    "07XXXXJ1": ("joe", "Me again"),
    "080003J1": ("joe", "Good dog"),
    "C3C__022": ("c3c", " the end"),
}


def test_each_part_of_a_text_is_found_with_its_recording(game):
    resources = game.read_resources(small_game([*SAID, "080004P1", "NOBODY"]))
    assert {name: (who, said) for name, who, said in game.read_lines(resources)} == SAID  # what barks is left out


def test_texts_are_written_as_whisper_writes(game):
    assert game.clean("... and the OTHER one^_, Joe!") == "And the other one, Joe!"
    assert game.clean("(sigh)") is game.clean("<sneeze>") is game.clean("...") is None


def test_damaged_games_are_refused(game):
    """Cut anywhere, or with bytes changed at random: GameError, or other texts."""
    whole, draw = small_game(SAID), random.Random(0)
    refused = 0
    for trial in range(300):
        data = bytearray(whole[: draw.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(draw.randrange(1, 20)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            list(game.read_lines(game.read_resources(bytes(data))))
        except game.GameError:
            refused += 1
    assert refused > 150


def test_the_data_stage_writes_where_it_is_told_to(tmp_path):
    said = {n: f"This is the {'very ' * n}last one" for n in range(12)}
    dog = conversation(7, said, {}, ["", ""])
    sounds = {f"07{n:04x}J1.SB".upper(): recording() for n in said}
    sounds["070000J1.SB"] = recording(11)  # too long
    data = archive({"BOB.DOG": dog, **sounds})
    (tmp_path / "game/deep").mkdir(parents=True)
    (tmp_path / "game/deep/queen.1c").write_bytes(data)
    done = run(LOCAL / "data.sh", "--source_dir", tmp_path / "game", "--datadir", tmp_path / "data", cwd=LOCAL.parent)
    assert done.returncode == 0, done.stderr
    sizes = {name: len(read_lines(tmp_path / f"data/{name}/text")) for name in ("train", "dev", "test")}
    assert sizes == {"train": 7, "dev": 1, "test": 3}
    for name, seconds in (("train", 3.5), ("test", 12)):
        for path in read_lines(tmp_path / f"data/{name}/wav.scp").values():
            info = soundfile.info(path)
            assert info.samplerate == 16000 and info.duration == pytest.approx(seconds, abs=0.2)

    # what is said in test, in the script's order, without the silence behind
    spoken = read_lines(tmp_path / "data/test_spoken/text")
    assert [name.partition("-")[2] for name in spoken] == sorted(read_lines(tmp_path / "data/test/text"))
    for line in read_lines(tmp_path / "data/test_spoken/segments").values():
        assert 0.4 < float(line.split()[2]) < 0.7
    (tmp_path / "game/deep/queen.1c").write_bytes(data[:40])
    done = run(LOCAL / "data.sh", "--source_dir", tmp_path / "game", "--datadir", tmp_path / "data", cwd=LOCAL.parent)
    assert done.returncode != 0 and "queen.1c" in done.stderr and "Traceback" not in done.stderr
    done = run(LOCAL / "data.sh", "--source_dir", tmp_path / "data", "--datadir", tmp_path / "data", cwd=LOCAL.parent)
    assert done.returncode != 0 and "flight-of-the-amazon-queen" in done.stderr
