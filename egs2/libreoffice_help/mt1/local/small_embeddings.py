"""Let embeddings begin as small as an output layer's weights must be: N(0, 1/d), as Vaswani et al. (2017) have it.

PyTorch's begin at N(0, 1), whatever ESPnet's `init` says. As an output layer, which shares the weight, that begins with
a loss of 238 in place of 8, and learns little in an hour.

Import it before a model is built (`espnet-rand --import small_embeddings -m espnet2...`).
"""

from torch import nn


def _reset_parameters(embedding: nn.Embedding) -> None:
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    embedding._fill_padding_idx_with_zero()


nn.Embedding.reset_parameters = _reset_parameters
