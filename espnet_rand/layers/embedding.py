"""Embeddings: weight (entries, dim). A channel is an entry; a column is one dimension of what a lookup puts out."""

from torch import nn

from espnet_rand.layers.layer import QuantizedLayer, quantizes


@quantizes(nn.Embedding)
class QuantizedEmbedding(QuantizedLayer):
    """Quantizes nn.Embedding and its subclasses."""

    @classmethod
    def skip(cls, module, name, depthwise):
        if module.max_norm is not None:
            return "max_norm changes the weight inside the forward"
        if module.sparse:
            return "sparse gradients"
        if "position" in name.lower() or "pos_emb" in name.lower():
            return "positional table"
        return None
