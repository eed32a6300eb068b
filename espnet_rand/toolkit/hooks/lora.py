"""Quantizes LoRA layers (loralib, which ESPnet's `--use_adapter true` uses) with the adapter merged in.

ESPnet saves and decodes W + B A, so this sum is what training must see quantized: the weight
is q(W + B A), never q(W) + B A. Imported where loralib is installed.
"""

import loralib

from espnet_rand.layers.computation import telling
from espnet_rand.layers.layer import QuantizedLayer, quantizes


class _QuantizedLoRA(QuantizedLayer):
    """A layer with an adapter, which computes with its weight and the adapter quantized as one."""

    #: True while a forward runs that takes the adapter as merged although it is not
    _adding = False

    def source(self, name):
        weight = super().source(name)
        return weight + self._delta() * self.scaling if self._adding else weight

    def sources(self, name):
        return (*super().sources(name), self.lora_A, self.lora_B) if self._adding else super().sources(name)

    def forward(self, x):
        adapted = self.r > 0 and not self.merged
        if not adapted:
            return super().forward(x)
        with self._clock.forward(self.training):
            quantized = self._quantized["weight"]
            reading = quantized.reading()
            if reading.off or quantized.waits(reading, self.training):
                return super().forward(x)
            self.merged = self._adding = True
            try:
                return super().forward(x)
            finally:
                self.merged = self._adding = False

    def train(self, mode=True):
        """Read the parameter as `self.weight` meanwhile: loralib merges the adapter into it here."""
        with telling(off=self._quantized.values()):
            return super().train(mode)


@quantizes(loralib.Linear)
class QuantizedLoRALinear(_QuantizedLoRA):
    """loralib.Linear: weight (out, in), lora_B (out, r), lora_A (r, in)."""

    def _delta(self):
        delta = self.lora_B @ self.lora_A
        return delta.T if self.fan_in_fan_out else delta


@quantizes(loralib.Embedding)
class QuantizedLoRAEmbedding(_QuantizedLoRA):
    """loralib.Embedding: weight (entries, dim), lora_A (r, entries), lora_B (dim, r)."""

    def _delta(self):
        return (self.lora_B @ self.lora_A).T
