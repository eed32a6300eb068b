"""Recurrent layers: weight_ih_l0 (gates hidden, input), weight_hh_l0 (gates hidden, hidden), ...

The matrices of every layer and direction are quantized, the projection of an LSTM with proj_size too.
"""

from torch import nn

from espnet_rand.layers.layer import QuantizedLayer, quantizes


@quantizes(nn.RNNCellBase)
class QuantizedCell(QuantizedLayer):
    """Quantizes nn.LSTMCell, nn.GRUCell and nn.RNNCell."""

    @classmethod
    def weights(cls, module):
        return ("weight_ih", "weight_hh")


@quantizes(nn.RNNBase)
class QuantizedRecurrent(QuantizedLayer):
    """Quantizes nn.LSTM, nn.GRU and nn.RNN."""

    @classmethod
    def weights(cls, module):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight_"))

    @property
    def _flat_weights(self):
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights):
        """Do nothing: the list is made whenever it is read."""

    def flatten_parameters(self):
        """Do nothing: the weights of each forward are new tensors."""
