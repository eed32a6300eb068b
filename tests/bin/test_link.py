"""`espnet-rand link` brings the presets into a recipe of ESPnet, and never takes anything away."""

import pytest

from espnet_rand.presets import presets


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train.yaml").write_text("max_epoch: 1\n")
    (tmp_path / "run.sh").write_text("./st.sh\n")
    (tmp_path / "st.sh").write_text("lm_args=\nst_args=  # Arguments for training\n")
    return tmp_path


def test_links_and_says_how_to_run(run, recipe):
    for _ in range(2):  # the second time all is there
        said = run("espnet-rand", "link", recipe).stdout
        assert './run.sh --python espnet-rand --st_args "--quantizer_config conf/rand_m3_ste_w4.yaml"' in said
    for name, preset in presets().items():
        assert (recipe / "conf" / f"{name}.yaml").read_text() == preset.read_text()
    assert (recipe / "conf/train.yaml").read_text() == "max_epoch: 1\n"


def test_a_script_whose_option_has_half_its_name(run, recipe):
    (recipe / "st.sh").unlink()
    (recipe / "enh_diar.sh").write_text("diar_args=\n")
    assert '--diar_args "--quantizer_config' in run("espnet-rand", "link", recipe).stdout


def test_refuses_codecs(run, recipe):
    (recipe / "codec.sh").write_text("train_args=\n")
    done = run("espnet-rand", "link", recipe, check=False)
    assert done.returncode == 1 and "codecs have a --quantizer of their own" in done.stderr
    assert not (recipe / "conf/rand_w4.yaml").exists()


def test_a_recipe_of_espnet3(run, recipe):
    (recipe / "run.sh").rename(recipe / "run.py")
    said = run("espnet-rand", "link", recipe).stdout
    assert "espnet-rand run.py --training_config" in said and "quantizer_config: conf/rand_m3_ste_w4.yaml" in said


@pytest.mark.parametrize("dangling", [False, True])
def test_never_overwrites(run, recipe, dangling):
    taken = recipe / "conf/rand_w4.yaml"
    if dangling:
        taken.symlink_to(recipe / "gone.yaml")
    else:
        taken.write_text("quantizer: lsc\n")
    before = sorted((recipe / "conf").iterdir())
    done = run("espnet-rand", "link", recipe, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and str(taken) in done.stderr
    assert sorted((recipe / "conf").iterdir()) == before
    assert taken.is_symlink() == dangling


def test_refuses_what_is_no_recipe(run, tmp_path):
    (tmp_path / "conf").mkdir()
    for wrong in (tmp_path, tmp_path / "not_there"):
        done = run("espnet-rand", "link", wrong, check=False)
        assert done.returncode == 1 and f"{wrong} is no recipe" in done.stderr
    assert not any((tmp_path / "conf").iterdir())
