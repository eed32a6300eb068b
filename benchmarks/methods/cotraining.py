"""Co-training: in each step the float weights learn by the labels, and the quantized ones imitate their outputs."""

from typing import Any, Dict, List, Sequence

from torch import Tensor, nn

from espnet_rand.distillation import Distillation, divergence, relative_error
from espnet_rand.layers import disabled


class CoTraining:
    """The loss of a batch: that of the float forward by labels, and how the quantized forward differs from it.

    The float forward is a constant for the second part, as in arXiv 2505.21245 (there with 8 bits in place of float).

    Args:
        logits: the module that gives logits
        states: modules that give hidden states
    """

    def __init__(self, model: nn.Module, weights: Distillation, logits: str, states: Sequence[str]):
        self.model, self.weights, self.logits, self.states = model, weights, logits, states
        self.kept: Dict[str, List[Any]] = {}
        for name in (logits, *states):
            calls = self.kept[name] = []
            model.get_submodule(name).register_forward_hook(lambda *call, calls=calls: calls.append(call[-1][:2]))

    def __call__(self, batch: Dict[str, Tensor]) -> Tensor:
        with disabled(self.model):
            loss = self.weights.labels * self.model(**batch)[0]
        self.model(**batch)
        pairs = {name: (calls.pop(), calls.pop()[0].detach()) for name, calls in self.kept.items()}
        (ours, lengths), theirs = pairs[self.logits]
        loss = loss + self.weights.outputs * divergence(ours, theirs, lengths)
        for name in self.states:
            (ours, lengths), theirs = pairs[name]
            loss = loss + self.weights.states * relative_error(ours, theirs, lengths)
        return loss
