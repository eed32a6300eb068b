"""ESPnet's transducers as graphs: an encoder, a step of the prediction network, a joint network.

The projections of the joint network are in the graphs of what they project, so that each is computed once.
"""

from typing import Any, Dict, List, Tuple

import torch
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from torch import Tensor, nn

from espnet_rand.toolkit.exporting import encoders
from espnet_rand.toolkit.exporting.features import Features


def misfit(model: Any) -> str:
    """Why the decoder of a transducer cannot be written; empty if it can."""
    if type(model.decoder) not in (TransducerDecoder, RNNDecoder, StatelessDecoder):
        return f"decoder {type(model.decoder).__name__} of a transducer"
    if getattr(model, "transducer_multi_blank_durations", None):
        return "transducer with several blanks"
    return ""


class Encoded(nn.Module):
    """Speech (1, samples), or features (1, frames, bands) -> what joint networks take (1, fewer frames, dimensions)."""

    def __init__(self, model: Any):
        super().__init__()
        self.features, self.encoder, self.project = Features(model), encoders.make(model), model.joint_network.lin_enc

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.encoder(self.features(x)))


class Prediction(nn.Module):
    """A token (1, 1) and states (layers, 1, units) -> what joint networks take (1, dimensions), and the next states."""

    def __init__(self, model: Any):
        super().__init__()
        self.embed, self.layers = model.decoder.embed, _layers(model.decoder)
        self.project = model.joint_network.lin_dec

    def forward(self, token: Tensor, *states: Tensor) -> Tuple[Tensor, ...]:
        x, new = self.embed(token), []
        for number, layer in enumerate(self.layers):
            own = tuple(state[number : number + 1] for state in states)
            x, after = layer(x, own if len(own) > 1 else own[0])
            new.append(after if len(own) > 1 else (after,))
        return (self.project(x)[:, 0], *(torch.cat(parts) for parts in zip(*new)))


class Joint(nn.Module):
    """A frame and a prediction, (1, dimensions) each -> log-probabilities (1, tokens)."""

    def __init__(self, model: Any):
        super().__init__()
        self.joint = model.joint_network

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        return self.joint(encoded, predicted, no_projection=True).log_softmax(-1)


def states(decoder: Any) -> Dict[str, Tensor]:
    """The states of a prediction network before the first token, by the names of a graph's inputs."""
    layers = _layers(decoder)
    if not layers:
        return {}
    names: List[str] = ["hidden", "cell"] if decoder.dtype == "lstm" else ["hidden"]
    return {name: torch.zeros(len(layers), 1, layers[0].hidden_size) for name in names}


def _layers(decoder: Any) -> Any:
    """The recurrent layers of a prediction network."""
    if isinstance(decoder, StatelessDecoder):
        return []
    return decoder.decoder if isinstance(decoder, TransducerDecoder) else decoder.rnn
