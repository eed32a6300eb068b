import math

import models
import pytest
import torch
import yaml
from torch import nn

from espnet_rand import QuantizerConfig, quantize


@pytest.fixture
def report():
    return quantize(models.Net(), QuantizerConfig(bits=3, granularity="group", group_size=3))


def test_entries_count_what_the_layers_hold(report):
    conv = report.quantized[1]
    assert (conv.name, conv.layer, conv.shape, conv.bits) == ("conv.weight", "Conv1d", (8, 8, 3), 3)
    assert conv.scales == 8 * math.ceil(24 / 3)
    assert conv.bytes_before == 4 * 8 * 8 * 3
    assert conv.bytes_after == math.ceil(192 * 3 / 8) + 4 * conv.scales
    embed = report.quantized[0]
    assert (embed.name, embed.scales) == ("embed.weight", 11 * 3)


def test_every_parameter_is_counted_once(report):
    stock = models.Net()
    total = sum(p.numel() for p in stock.parameters())
    totals = report.totals
    assert totals["quantized_weights"] + totals["float_parameters"] == total
    assert totals["bytes_before"] == 4 * total
    after = sum(e.bytes_after for e in report.quantized) + 4 * totals["float_parameters"]
    assert totals["bytes_after"] == after and totals["ratio"] == round(4 * total / after, 3)


def test_what_stays_in_float_has_a_reason(report):
    left = {(e.name, e.reason): e.parameters for e in report.left_in_float}
    assert left[("norm", "not a layer that is quantized (LayerNorm)")] == 16
    assert left[("rnn", "bias")] == 64 and left[("out", "bias")] == 11


def test_half_precision_weights_count_two_bytes():
    entry = quantize(nn.Linear(8, 4).to(torch.bfloat16), {}).quantized[0]
    assert (entry.bytes_before, entry.bytes_after) == (64, 16 + 4 * 4)


def test_it_prints_as_a_table(report):
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["weight", "layer", "shape"]
    (conv,) = [line for line in lines if line.startswith("conv.weight")]
    assert conv.split()[:5] == ["conv.weight", "Conv1d", "8x8x3", "64", "3"]
    assert "LayerNorm" in str(report) and f"{report.totals['bytes_after']:,} after" in lines[-1]


def test_it_is_plain_data_for_yaml(report):
    plain = report.to_dict()
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert len(plain["quantized"]) == 6 and plain["totals"] == report.totals
