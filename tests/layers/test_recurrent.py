import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from espnet_rand import quantize

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize(
    "layer, matrices",
    [
        (lambda: nn.LSTM(4, 5), 2),
        (lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), 8),
        (lambda: nn.LSTM(4, 5, proj_size=3, bidirectional=True), 6),
        (lambda: nn.LSTM(4, 5, bias=False), 2),
        (lambda: nn.GRU(4, 5, num_layers=2), 4),
        (lambda: nn.GRU(4, 5, bidirectional=True), 4),
        (lambda: nn.RNN(4, 5, nonlinearity="relu"), 2),
    ],
)
def test_recurrent(check_layer, layer, matrices):
    report = check_layer(layer(), torch.randn(3, 2, 4))
    assert len(report.quantized) == matrices


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(check_layer, kind):
    state = torch.randn(3, 5)
    report = check_layer(kind(4, 5), torch.randn(3, 4), (state, state.flip(0)) if kind is nn.LSTMCell else state)
    assert [entry.name for entry in report.quantized] == ["weight_ih", "weight_hh"]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 5, bidirectional=True)

    def forward(self, x):
        self.rnn.flatten_parameters()
        packed = pack_padded_sequence(x, [3, 2], enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0])[0]


def test_packed_sequences(check_layer):
    check_layer(Packed(), torch.randn(3, 2, 4))


def test_a_matrix_that_weight_norm_computes_is_left_in_float():
    layer = nn.LSTM(4, 5)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer, "weight_hh_l0")
    report = quantize(layer, {})
    assert [entry.name for entry in report.quantized] == ["weight_ih_l0"]
