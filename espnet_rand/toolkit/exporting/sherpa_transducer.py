"""ESPnet's transducers in the form of sherpa-onnx: an encoder, a decoder that knows one token, a joiner.

An encoder that was trained with chunks (`dynamic_chunk_training`) hears while one speaks, others the whole recording.
"""

import functools
from typing import Any, Dict, List, Tuple

import torch
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.encoder.blocks.conformer import Conformer
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor, nn

from espnet_rand.toolkit.exporting import transducers
from espnet_rand.toolkit.exporting.features import Features
from espnet_rand.toolkit.exporting.models import Graph

#: The modules of an encoder's file.
ENCODER = ("encoder", "joint_network.lin_enc")
# of features that a chunk has of the one before, so that the input block has what it wants
_BEFORE = 11


def is_streaming(model: Any) -> bool:
    """Whether a model's encoder hears while one speaks."""
    return bool(getattr(model.encoder, "dynamic_chunk_training", False))


def misfit(model: ESPnetASRTransducerModel) -> str:
    """Why sherpa-onnx cannot compute what a transducer does, and what can be done; empty if it can."""
    if type(model.decoder) is not StatelessDecoder:
        return (
            f"decoder {type(model.decoder).__name__}, whose states it does not keep. Fix: train with decoder: stateless"
        )
    if not is_streaming(model):
        return ""
    blocks = model.encoder.encoders.blocks
    sizes = {(block.block_size, block.conv_mod.kernel_size) for block in blocks if type(block) is Conformer}
    if any(type(block) is not Conformer for block in blocks) or len(sizes) > 1:
        return "blocks of several kinds or sizes. Fix: conformer blocks of one hidden_size and conv_mod_kernel_size"
    if model.encoder.embed.vgg_like or model.encoder.embed.subsampling_factor != 4:
        return "an input block that its chunks do not fit. Fix: input_conf: {vgg_like: false, subsampling_factor: 4}"
    if isinstance(model.normalize, UtteranceMVN):
        return "normalize: utterance_mvn, which wants the end of a recording. Fix: train with global_mvn"
    return ""


class Stream(nn.Module):
    """The next chunk of recordings -> what the joint network takes of it.

    Args:
        model: one that has no `misfit`, without its frontend
        positions: of a chunk with its left context
    """

    def __init__(self, model: Any, positions: Tensor):
        super().__init__()
        self.register_buffer("positions", positions)
        self.features, self.encoder, self.project = Features(model), model.encoder, model.joint_network.lin_enc
        for block in self.encoder.encoders.blocks:
            block.self_att.rel_shift = _shift

    def forward(
        self, x: Tensor, attention: Tensor, convolution: Tensor, processed: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Return the encoded frames, (batch, chunk, dimensions), and the next states.

        Args:
            x: features, (batch, frames, bands), of which 11 are of the chunk before
            attention: states, (blocks, left context, batch, size)
            convolution: states, (blocks, kernel - 1, batch, size)
            processed: how many frames were before, (batch,)
        """
        encoder, left = self.encoder, attention.shape[1]
        x, _ = encoder.embed(self.features(x), None)
        x = x[:, 1:-1]  # as ESPnet's chunk_forward
        missing = torch.arange(left).flip(0) >= processed[:, None] // encoder.embed.subsampling_factor
        mask = torch.cat([missing, torch.zeros_like(x[..., 0], dtype=torch.bool)], dim=1)
        attentions, convolutions = [], []
        for block, frames, inputs in zip(encoder.encoders.blocks, attention, convolution):
            block.cache = [frames.transpose(0, 1), inputs.permute(1, 2, 0)]
            x, _ = block.chunk_forward(x, self.positions, mask, left_context=left)
            attentions.append(block.cache[0].transpose(0, 1))
            convolutions.append(block.cache[1].permute(2, 0, 1))
            block.cache = None
        x = self.project(encoder.encoders.norm_blocks(x))
        return x, torch.stack(attentions), torch.stack(convolutions)


class Decoder(nn.Module):
    """Last tokens (batch, 1) -> what the joint network takes (batch, dimensions)."""

    def __init__(self, model: Any):
        super().__init__()
        self.embed, self.project = model.decoder.embed, model.joint_network.lin_dec

    def forward(self, y: Tensor) -> Tensor:
        return self.project(self.embed(y))[:, 0]


class Joiner(nn.Module):
    """A frame and a prediction, (batch, dimensions) each -> logits (batch, tokens)."""

    def __init__(self, model: Any):
        super().__init__()
        self.activation, self.output = model.joint_network.joint_activation, model.joint_network.lin_out

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        return self.output(self.activation(encoded + predicted))


def graphs(model: Any, bands: int, chunk: int, left: int) -> List[Graph]:
    """The three files of a transducer.

    Args:
        bands: of a frame of features
        chunk, left: frames of the encoder that are computed together, and that they see before them; of streaming
    """
    joint = torch.zeros(2, model.joint_network.lin_out.in_features)
    batch = {0: "batch"}
    pair = {"encoder_out": joint, "decoder_out": joint.clone()}
    return [
        _stream(model, bands, chunk, left) if is_streaming(model) else _offline(bands),
        Graph(
            "decoder.onnx",
            ("decoder", "joint_network.lin_dec"),
            Decoder,
            {"y": torch.zeros(2, 1, dtype=torch.long)},
            {"y": batch},
            ["decoder_out"],
        ),
        Graph("joiner.onnx", ("joint_network.lin_out",), Joiner, pair, dict.fromkeys(pair, batch), ["logit"]),
    ]


def _offline(bands: int) -> Graph:
    example, dynamic = {"features": torch.zeros(1, 200, bands)}, {"features": {1: "feature_frames"}}
    return Graph("encoder.onnx", ENCODER, transducers.Encoded, example, dynamic, ["encoder_out"])


def _stream(model: Any, bands: int, chunk: int, left: int) -> Graph:
    blocks = model.encoder.encoders.blocks
    size, kernel = blocks[0].block_size, blocks[0].conv_mod.kernel_size
    example = {
        "x": torch.zeros(2, 4 * chunk + _BEFORE, bands),
        "attention": torch.zeros(len(blocks), left, 2, size),
        "convolution": torch.zeros(len(blocks), kernel - 1, 2, size),
        "processed": torch.zeros(2, dtype=torch.long),
    }
    batch = {name: {2 if name in ("attention", "convolution") else 0: "batch"} for name in example}
    positions = model.encoder.pos_enc(torch.zeros(1, chunk, size), left_context=left)
    outputs = ["encoder_out", "next_attention", "next_convolution"]
    return Graph("encoder.onnx", ENCODER, functools.partial(Stream, positions=positions), example, batch, outputs)


def about(model: Any, chunk: int, left: int) -> Dict[str, Any]:
    """The metadata that sherpa-onnx reads; arguments as of `graphs`."""
    known = {"vocab_size": len(model.token_list), "context_size": 1}
    if not is_streaming(model):
        return known
    blocks = model.encoder.encoders.blocks
    return {
        **known,
        "model_type": "conformer",
        "num_encoder_layers": len(blocks),
        "T": 4 * chunk + _BEFORE,
        "decode_chunk_len": 4 * chunk,
        "left_context": left,
        "encoder_dim": blocks[0].block_size,
        "pad_length": _BEFORE,
        "cnn_module_kernel": blocks[0].conv_mod.kernel_size,
    }


def _shift(x: Tensor, left_context: int = 0) -> Tensor:
    """(batch, heads, frames, places), by relative positions, to (batch, heads, frames, left context and frames)."""
    frames = x.shape[2]
    places = frames - 1 - torch.arange(frames)[:, None] + torch.arange(frames + left_context)
    return x.gather(3, places.expand(*x.shape[:2], -1, -1))
