import pytest
import torch
from matplotlib import image

from espnet_rand.packing import PackedModel, PackedWeight, picture
from espnet_rand.packing.bits import pack
from espnet_rand.quantizers import Grid
from espnet_rand.quantizers.granularity import PerTensor


def test_layer_2_comes_before_layer_10():
    names = ["a.10.w", "a.2.w", "b", "a.2.v", "10", "2", "a²"]
    assert sorted(names, key=picture._in_order) == ["2", "10", "a.2.v", "a.2.w", "a.10.w", "a²", "b"]


def test_names_that_are_no_formulas_and_never_end(tmp_path):
    weight = PackedWeight(pack(torch.ones(2, 2, dtype=torch.int8), 4), torch.ones(1), Grid(4), (2, 2), PerTensor())
    names = ["$\\frac{", "_", "<b>\n\x00", "\u202e", "x" * 100000, "9" * 5000]
    model = PackedModel(dict.fromkeys(names, weight), {})
    for ending in ("png", "pdf", "svg"):
        picture.draw(tmp_path / f"a.{ending}", {"1: $x_{": model}, {"1: $x_{": {"_": 0.1}}, "$\\x{")
    assert image.imread(tmp_path / "a.png").shape[0] < 1000


def test_errors_leave_out_what_cannot_be_compared():
    weight = PackedWeight(pack(torch.ones(1, 2, dtype=torch.int8), 4), torch.ones(1), Grid(4), (1, 2), PerTensor())
    model = PackedModel(dict.fromkeys("abcd", weight), {})
    floats = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.ones(2), "c": torch.tensor([[1.0, torch.nan]])}
    assert picture.errors(model, floats) == pytest.approx({"a": 0.2})


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(picture.PictureError, match="0 quantized weights"):
        picture.draw(tmp_path / "a.png", {"none": PackedModel({}, {})}, {}, "")
    for path in (tmp_path, tmp_path / "no" / "a.png", tmp_path / "a.jpeg"):
        with pytest.raises(picture.PictureError, match="Fix: "):
            picture.check(path)
