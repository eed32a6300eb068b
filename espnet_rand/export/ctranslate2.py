"""A packed Whisper model as the directory that CTranslate2 and faster-whisper load.

Its matrices are int8, with a scale for each row: weight = code / weight_scale (ctranslate2/specs/model_spec.py). The
codes are those of the packed file, whatever their number of bits.
"""

import itertools
import json
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np
import torch

from espnet_rand.atomic import replacing_directory, write_text
from espnet_rand.export import whisper
from espnet_rand.export.codes import (
    FEWER,
    Exported,
    ExportError,
    block_scales,
    code_matrix,
    misfit,
    scale_error,
    symmetric,
)
from espnet_rand.export.packages import installed
from espnet_rand.packing import PackedModel, PackedWeight

FIX = f"train or calibrate with granularity: channel (or tensor) for all layers, {FEWER}"

# of u8 activations and s8 weights: 255 * 64 + 255 * 64 < 2^15, and 255 * 128 + 255 * 128 is not
_SATURATES = (
    "codes of 8 bits: on x86 processors without VNNI, CTranslate2 adds products in pairs in 16 bits, which overflow. "
    "For such processors train with 7 bits"
)


def export(packed: PackedModel, path: Union[str, Path]) -> Exported:
    """Write a packed Whisper model for CTranslate2: a new directory.

    Raises:
        ExportError: CTranslate2 cannot hold it, and the message names everything that it cannot; or `path` is there
        NotInstalledError: a package is missing: ctranslate2, tokenizers, or openai-whisper, which has the vocabulary
    """
    if Path(path).exists():
        raise ExportError(f"{path} is there already. Fix: remove it, or name another directory")
    model = describe(packed)
    model.matrices.update({name: symmetric(weight) for name, weight in model.matrices.items()})
    scales = {name: block_scales(weight) for name, weight in model.matrices.items()}
    layers = _Layers(model, {name: some.reciprocal() for name, some in scales.items()})
    _write(model.dims, layers, path)
    held = {name: some.reciprocal() for name, some in layers.scales.items()}
    error = scale_error((w, held[name], torch.zeros_like(held[name])) for name, w in model.matrices.items())
    notes = model.notes("float32")
    if any(weight.bits == 8 for weight in model.matrices.values()):
        notes.append(_SATURATES)
    return Exported("CTranslate2, int8", error, notes)


def _write(dims: whisper.Dims, layers: "_Layers", path: Union[str, Path]) -> None:
    specs, tokens = installed("ctranslate2.specs"), whisper.tokenizer(dims)
    spec = specs.WhisperSpec(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head)
    layers.fill(spec)
    _configure(spec.config, dims, tokens)
    spec.register_vocabulary([*_text_tokens(tokens), *_special_tokens(tokens)])
    spec.validate()
    spec.optimize()  # the output layer becomes an alias of the embedding
    with replacing_directory(path) as folder:
        spec.save(str(folder))
        hugging_face(tokens).save(str(folder / "tokenizer.json"), pretty=False)
        write_text(folder / "preprocessor_config.json", json.dumps({"feature_size": dims.n_mels}))


def describe(packed: PackedModel) -> whisper.Whisper:
    """A packed model as a Whisper model. Raises ExportError: CTranslate2 cannot hold it."""
    return whisper.describe(packed, _problem, FIX)


def _problem(weight: PackedWeight) -> str:
    """What keeps a matrix out of CTranslate2, for `refuse`, or ""."""
    if problem := misfit(weight, None):
        return problem
    scales = weight.wide_scales.float()
    if not (scales.reciprocal().isfinite() | (scales == 0)).all():
        return f"scales from {scales[scales != 0].abs().min():.1e}, whose reciprocals float32 does not hold"
    return ""


class _Layers:
    """Fills the layers of a specification (ctranslate2.specs.WhisperSpec) with a model's tensors.

    Args:
        scales: the matrices' as CTranslate2 has them, (channels, 1), changed where they are of rows of zeros
    """

    def __init__(self, model: whisper.Whisper, scales: Dict[str, Any]):
        self.model = model
        self.scales = {name: some.where(some.isfinite(), 1) for name, some in scales.items()}

    def fill(self, spec: Any) -> None:
        """All layers of a WhisperSpec."""
        floats = self.model.floats
        for layer, name in ((spec.encoder.conv1, "encoder.conv1"), (spec.encoder.conv2, "encoder.conv2")):
            layer.weight, layer.bias = floats[f"{name}.weight"].numpy(), floats[f"{name}.bias"].numpy()
        self._linear(spec.decoder.embeddings, "decoder.token_embedding")
        self._linear(spec.decoder.projection, "decoder.token_embedding")
        for side, norm in ((spec.encoder, "encoder.ln_post"), (spec.decoder, "decoder.ln")):
            name = norm.partition(".")[0]
            side.position_encodings.encodings = floats[f"{name}.positional_embedding"].numpy()
            self._norm(side.layer_norm, norm)
            for i, layer in enumerate(side.layer):
                self._block(layer, f"{name}.blocks.{i}")

    def _block(self, layer: Any, name: str) -> None:
        attention = layer.self_attention
        self._norm(attention.layer_norm, f"{name}.attn_ln")
        self._linear(attention.linear[0], *(f"{name}.attn.{part}" for part in ("query", "key", "value")))
        self._linear(attention.linear[1], f"{name}.attn.out")
        if name.startswith("decoder"):
            self._norm(layer.attention.layer_norm, f"{name}.cross_attn_ln")
            self._linear(layer.attention.linear[0], f"{name}.cross_attn.query")
            self._linear(layer.attention.linear[1], *(f"{name}.cross_attn.{part}" for part in ("key", "value")))
            self._linear(layer.attention.linear[2], f"{name}.cross_attn.out")
        self._norm(layer.ffn.layer_norm, f"{name}.mlp_ln")
        self._linear(layer.ffn.linear_0, f"{name}.mlp.0")
        self._linear(layer.ffn.linear_1, f"{name}.mlp.2")

    def _norm(self, layer: Any, name: str) -> None:
        layer.gamma, layer.beta = (self.model.floats[f"{name}.{part}"].numpy() for part in ("weight", "bias"))

    def _linear(self, layer: Any, *names: str) -> None:
        """One layer, or several as one: their rows one below the other. A missing bias is 0 beside others."""
        weights = [f"{name}.weight" for name in names]
        codes = [code_matrix(self.model.matrices[name]).numpy() for name in weights]
        layer.weight = np.concatenate(codes)
        layer.weight_scale = np.concatenate([self.scales[name].flatten().numpy() for name in weights])
        biases = [self.model.floats.get(f"{name}.bias") for name in names]
        if any(bias is not None for bias in biases):
            rows = [np.zeros(len(some), np.float32) if bias is None else bias for bias, some in zip(biases, codes)]
            layer.bias = np.concatenate(rows)


def _configure(config: Any, dims: whisper.Dims, tokens: Any) -> None:
    """Fill a WhisperConfig in as OpenAI's decoding does, with CTranslate2's own choice of heads for words' times."""
    specials = (tokens.transcribe, tokens.translate, tokens.sot, tokens.sot_prev, tokens.sot_lm, tokens.no_speech)
    config.suppress_ids = sorted({*tokens.non_speech_tokens, *specials})
    config.suppress_ids_begin = [*tokens.encode(" "), tokens.eot]
    config.lang_ids = list(tokens.all_language_tokens) if dims.multilingual else []
    layers = range(dims.n_text_layer // 2, dims.n_text_layer)
    config.alignment_heads = [[*pair] for pair in itertools.product(layers, range(dims.n_text_head))]


def _special_tokens(tokens: Any) -> List[str]:
    """Those that are no text, in the order of their numbers, which follow on those of the text."""
    return sorted(tokens.special_tokens, key=tokens.special_tokens.__getitem__)


def _text_tokens(tokens: Any) -> List[str]:
    """Those that are text, their bytes as characters: as GPT-2's vocabulary writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = sorted(set(range(256)).difference(printable))
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    pieces = map(tokens.encoding.decode_single_token_bytes, range(tokens.encoding.eot_token))
    return ["".join(characters[byte] for byte in piece) for piece in pieces]


def hugging_face(tokens: Any) -> Any:
    """The same tokenizer (whisper.tokenizer.Tokenizer) as a tokenizers.Tokenizer.

    Its merges are all pairs of tokens that make a token, in the order of these (as in transformers' TikTokenConverter).
    """
    library, text = installed("tokenizers"), _text_tokens(tokens)
    ranks = {token: i for i, token in enumerate(text)}
    merges = []
    for token in text:
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = (pair for pair in pairs if pair[0] in ranks and pair[1] in ranks)
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    made = library.Tokenizer(library.models.BPE(vocab=ranks, merges=merges))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    made.add_special_tokens(_special_tokens(tokens))
    return made
