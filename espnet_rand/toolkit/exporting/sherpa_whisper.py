"""Packed Whisper models as the two graphs of sherpa-onnx, with the packed file's codes."""

import base64
import dataclasses
from pathlib import Path
from typing import Any, Dict, NamedTuple, Set, Tuple

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_rand.atomic import replacing_directory, write_text
from espnet_rand.export import onnx, operators, whisper
from espnet_rand.export.packages import installed
from espnet_rand.export.symbols import symbolize
from espnet_rand.packing import PackedModel
from espnet_rand.toolkit.exporting.tracing import trace


class Loader(NamedTuple):
    """What loads a model's files in sherpa-onnx.

    Attributes:
        name: of the method, after `sherpa_onnx.`
        options: of it; files are named as in the directory
        remark: what is to be known of it, as a comment, or ""
    """

    name: str
    options: Dict[str, Any]
    remark: str = ""


def loader(language: str = "en") -> Loader:
    """What loads the files of `export`; an English model has no other language."""
    files = {"encoder": "encoder.onnx", "decoder": "decoder.onnx", "tokens": "tokens.txt"}
    return Loader("OfflineRecognizer.from_whisper", {**files, "language": language})


class Encoder(nn.Module):
    """From features to the keys and values of every layer's cross-attention.

    Args:
        model: of `_model`
    """

    def __init__(self, model: Any):
        super().__init__()
        self.encoder = model.encoder.encoders
        attentions = [block.cross_attn for block in model.decoder.decoders.blocks]
        self.keys = nn.ModuleList(attention.key for attention in attentions)
        self.values = nn.ModuleList(attention.value for attention in attentions)

    def forward(self, mel: Tensor) -> Tuple[Tensor, Tensor]:
        """Return keys and values, (layers, 1, frames, state), of Whisper's features, (1, mels, 2 * frames)."""
        x = F.gelu(self.encoder.conv1(mel))
        x = F.gelu(self.encoder.conv2(x)).transpose(1, 2)
        x = x + self.encoder.positional_embedding[: x.shape[1]]
        for block in self.encoder.blocks:
            h = block.attn_ln(x)
            x = x + _attend(block.attn, h, block.attn.key(h), block.attn.value(h))
            x = x + block.mlp(block.mlp_ln(x))
        x = self.encoder.ln_post(x)
        return torch.stack([key(x) for key in self.keys]), torch.stack([value(x) for value in self.values])


class Decoder(nn.Module):
    """From tokens to the logits behind each of them.

    Args:
        model: of `_model`; it has no cross-attention afterwards
    """

    def __init__(self, model: Any):
        super().__init__()
        self.decoder, self.output = model.decoder.decoders, model.decoder.output
        for block in self.decoder.blocks:  # the encoder's graph has them
            del block.cross_attn.key, block.cross_attn.value

    def forward(
        self, tokens: Tensor, self_k: Tensor, self_v: Tensor, cross_k: Tensor, cross_v: Tensor, offset: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Return the logits, (1, count, vocabulary), and both caches with the tokens' keys and values in them.

        Args:
            tokens: (1, count)
            self_k, self_v: keys and values of the tokens before, (layers, 1, longest, state)
            cross_k, cross_v: of `Encoder`
            offset: how many tokens are before, (1,)
        """
        places = offset + torch.arange(tokens.shape[1])
        unseen = torch.arange(self_k.shape[2]) > places[:, None]
        x = self.decoder.token_embedding(tokens) + F.embedding(places, self.decoder.positional_embedding)
        at = places[None, :, None].expand(1, -1, self_k.shape[3])
        keys, values = [], []
        for block, k, v, other_k, other_v in zip(self.decoder.blocks, self_k, self_v, cross_k, cross_v):
            h = block.attn_ln(x)
            keys.append(k.scatter(1, at, block.attn.key(h)))
            values.append(v.scatter(1, at, block.attn.value(h)))
            x = x + _attend(block.attn, h, keys[-1], values[-1], unseen)
            x = x + _attend(block.cross_attn, block.cross_attn_ln(x), other_k, other_v)
            x = x + block.mlp(block.mlp_ln(x))
        return self.output(self.decoder.ln(x)), torch.stack(keys), torch.stack(values)


def _attend(attention: Any, x: Tensor, k: Tensor, v: Tensor, unseen: Any = None) -> Tensor:
    """Attention of x, (1, count, state), to keys and values, (1, length, state), but the unseen, (count, length)."""
    q, k, v = (t.unflatten(2, (attention.n_head, -1)).transpose(1, 2) for t in (attention.query(x), k, v))
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
    if unseen is not None:
        scores = scores.masked_fill(unseen, torch.finfo(torch.float32).min)
    return attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def is_whisper(packed: PackedModel) -> bool:
    """Whether a packed model is Whisper."""
    return "encoder.encoders.positional_embedding" in packed.floats


def export(packed: PackedModel, folder: Path) -> Dict[str, str]:
    """Write encoder.onnx, decoder.onnx and tokens.txt, for `sherpa_onnx.OfflineRecognizer.from_whisper`.

    Returns:
        how each weight is computed with, by its name

    Raises:
        ExportError: it is no Whisper model, or has weights that the operators cannot hold
    """
    dims = whisper.dims(packed)
    tokenizer = whisper.tokenizer(dims, "en" if dims.multilingual else None)
    model = _symbolic(packed, dims)
    encoder, decoder = Encoder(model).eval(), Decoder(model).eval()
    ways: Dict[str, str] = {}
    with replacing_directory(folder) as temporary:
        for module, name, graph, about in (
            (encoder, "encoder.onnx", _encoder_graph(encoder, dims), _about(dims, tokenizer)),
            (decoder, "decoder.onnx", _decoder_graph(decoder, dims), {}),
        ):
            ways.update(onnx.fill(graph, {weight: packed.weights[weight] for weight in _named(module)}))
            onnx.save(graph, temporary / name, about)
        write_text(temporary / "tokens.txt", _tokens(tokenizer))
    return ways


def check(packed: PackedModel) -> None:
    """Raises ExportError: the model is no Whisper model, or has weights that the operators cannot hold."""
    _symbolic(packed, whisper.dims(packed))


def _symbolic(packed: PackedModel, dims: whisper.Dims) -> Any:
    """The model of `_model`, with symbols in the place of the packed layers."""
    model = _model(packed, dims)
    shared = {**packed.aliases, "decoder.output.weight": "decoder.decoders.token_embedding.weight"}
    symbols = symbolize(model, dataclasses.replace(packed, aliases=shared), ("encoder", "decoder"))
    for weight, kinds in symbols.items():
        operators.check(weight, packed.weights[weight], kinds, exact=False)
    return model


def _named(module: nn.Module) -> Set[str]:
    """The names of the packed weights of a module."""
    return {str(part.weight_name) for part in module.modules() if hasattr(part, "weight_name")}


def _model(packed: PackedModel, dims: whisper.Dims) -> Any:
    """OpenAI's model below ESPnet's names, without numbers for what is packed; `decoder.output` gives logits."""
    parts = installed("whisper.model")
    with torch.device("meta"):
        encoder = parts.AudioEncoder(
            dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
        )
        decoder = parts.TextDecoder(
            dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
        )
    del decoder.mask  # of training
    model: Any = nn.ModuleDict(
        {"encoder": nn.ModuleDict({"encoders": encoder}), "decoder": nn.ModuleDict({"decoders": decoder})}
    )
    floats = {
        name: tensor.float() for name, tensor in packed.floats.items() if name.startswith(("encoder.", "decoder."))
    }
    model.load_state_dict(floats, strict=False, assign=True)
    model.decoder["output"] = nn.Linear(dims.n_text_state, dims.n_vocab, bias=False, device="meta")
    model.decoder.output.weight = decoder.token_embedding.weight
    return model


def _encoder_graph(encoder: Encoder, dims: whisper.Dims) -> ModelProto:
    mel = torch.zeros(1, dims.n_mels, 200)
    return trace(encoder, {"mel": mel}, {"mel": {2: "features"}}, ["n_layer_cross_k", "n_layer_cross_v"])


def _decoder_graph(decoder: Decoder, dims: whisper.Dims) -> ModelProto:
    cache = torch.zeros(dims.n_text_layer, 1, dims.n_text_ctx, dims.n_text_state)
    cross = cache[:, :, :100]
    frames = {2: "frames"}
    inputs = {
        "tokens": torch.zeros(1, 3, dtype=torch.long),
        "in_n_layer_self_k_cache": cache,
        "in_n_layer_self_v_cache": cache.clone(),
        "n_layer_cross_k": cross,
        "n_layer_cross_v": cross.clone(),
        "offset": torch.zeros(1, dtype=torch.long),
    }
    dynamic = {"tokens": {1: "count"}, "n_layer_cross_k": frames, "n_layer_cross_v": frames}
    return trace(decoder, inputs, dynamic, ["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache"])


def _about(dims: whisper.Dims, tokenizer: Any) -> Dict[str, Any]:
    """The metadata that sherpa-onnx reads; lists are joined by commas."""
    about = {
        **dataclasses.asdict(dims),
        "model_type": "whisper",
        "is_multilingual": int(dims.multilingual),
        "sot_sequence": tokenizer.sot_sequence,
        "sot": tokenizer.sot,
        "eot": tokenizer.eot,
        "blank_id": tokenizer.encode(" ")[0],
        "no_speech": tokenizer.no_speech,
        "no_timestamps": tokenizer.no_timestamps,
        "transcribe": tokenizer.transcribe,
        "translate": tokenizer.translate,
    }
    if dims.multilingual:
        about["all_language_tokens"] = tokenizer.all_language_tokens
        about["all_language_codes"] = tokenizer.all_language_codes
    return {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in about.items()}


def _tokens(tokenizer: Any) -> str:
    """Lines of a token's bytes, in base64, and its number; no special tokens."""
    tokens = (tokenizer.encoding.decode_single_token_bytes(number) for number in range(tokenizer.eot))
    return "".join(f"{base64.b64encode(token).decode()} {number}\n" for number, token in enumerate(tokens))
