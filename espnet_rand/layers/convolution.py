"""Convolutions: weight (out, in / groups, *kernel), or (in, out / groups, *kernel) where they are transposed."""

import functools

from torch import Tensor, nn

from espnet_rand.layers.layer import QuantizedLayer, quantizes


@quantizes(nn.Conv1d, nn.Conv2d)
class QuantizedConvolution(QuantizedLayer):
    """Quantizes nn.Conv1d, nn.Conv2d and their subclasses."""

    @classmethod
    def skip(cls, module, name, depthwise):
        if module.groups > 1 and module.groups == module.in_channels and not depthwise:
            return "depthwise convolution (depthwise: true quantizes it)"
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and 1 in (module.in_channels, module.out_channels):
            return "filter bank: one-dimensional convolution over a single channel"
        return None

    def columns(self, x):
        if self.groups > 1:
            return None
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = nn.functional.pad(x, self._reversed_padding_repeated_twice, mode)
        one = (1,) * (2 - len(self.kernel_size))  # unfold takes images: a height of one
        x = x.unflatten(-1, (*one, x.shape[-1]))
        patches = nn.functional.unfold(
            x, (*one, *self.kernel_size), dilation=(*one, *self.dilation), stride=(*one, *self.stride)
        )
        return patches.transpose(1, 2).flatten(0, 1)


@quantizes(nn.ConvTranspose1d, nn.ConvTranspose2d)
class QuantizedTransposedConvolution(QuantizedConvolution):
    """Quantizes nn.ConvTranspose1d, nn.ConvTranspose2d and their subclasses."""

    @classmethod
    def layout(cls, module):
        return (
            functools.partial(channels_first, groups=module.groups),
            functools.partial(channels_second, groups=module.groups),
        )

    def columns(self, x):
        return None


def channels_first(weight: Tensor, groups: int) -> Tensor:
    """Reorder a weight: (in, out / groups, *kernel) -> (out, in / groups, *kernel)."""
    inputs, outputs, *kernel = weight.shape
    split = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    return split.reshape(groups * outputs, inputs // groups, *kernel)


def channels_second(weight: Tensor, groups: int) -> Tensor:
    """Undo `channels_first`: (out, in / groups, *kernel) -> (in, out / groups, *kernel)."""
    outputs, inputs, *kernel = weight.shape
    split = weight.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
    return split.reshape(groups * inputs, outputs // groups, *kernel)
