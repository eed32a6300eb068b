"""A packed Whisper model of ESPnet's under OpenAI's names, with its sizes and its vocabulary."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from torch import Tensor

from espnet_rand.errors import few
from espnet_rand.export.codes import ExportError, refuse
from espnet_rand.export.packages import installed
from espnet_rand.packing import PackedModel, PackedWeight

# ESPnet's names begin with the first, OpenAI's with the second
_PREFIXES = {"encoder.encoders.": "encoder.", "decoder.decoders.": "decoder."}
# n_state of OpenAI's models, whose heads all have 64 dimensions
_OPENAI_STATES, _HEAD = (384, 512, 768, 1024, 1280), 64
# from sizes of OpenAI's vocabularies to the token <|startoftranscript|>
_START = {51864: 50257, 51865: 50258, 51866: 50258}
CONVOLUTIONS = ("encoder.conv1.weight", "encoder.conv2.weight")


@dataclass(frozen=True)
class Dims:
    """The sizes of a Whisper model, under OpenAI's names and in their order."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def multilingual(self) -> bool:
        """Whether its vocabulary is the multilingual one."""
        return self.n_vocab > 51864

    @property
    def languages(self) -> int:
        """How many languages its vocabulary has tokens for."""
        return self.n_vocab - 51765 - self.multilingual


@dataclass(frozen=True)
class Whisper:
    """A packed Whisper model.

    Attributes:
        dims: its sizes
        matrices: all weights of linear layers and the token embedding, by OpenAI's names
        convolutions: names of convolutions whose weights are packed
        floats: all other tensors, float32; of convolutions the decoded ones
        left_out: names of tensors that Whisper does not have
    """

    dims: Dims
    matrices: Dict[str, PackedWeight]
    convolutions: List[str]
    floats: Dict[str, Tensor]
    left_out: List[str]

    def notes(self, convolutions: str) -> List[str]:
        """What is held otherwise than in the packed file, and what is left out.

        Args:
            convolutions: what the weights of the convolutions are in
        """
        decoded = ", decoded from their codes" if self.convolutions else ""
        notes = [f"in {convolutions}{decoded}: {', '.join(CONVOLUTIONS)}"]
        return notes + ([f"left out: {few(self.left_out, 3)}"] if self.left_out else [])


def describe(packed: PackedModel, problem_of: Callable[[PackedWeight], str], fix: str) -> Whisper:
    """A packed model as a Whisper model.

    Args:
        packed: of an ESPnet model with `encoder: whisper` and `decoder: whisper`
        problem_of: a function from a weight to what keeps it out of the runtime, for `refuse`, or to ""
        fix: what is to be done about such weights

    Raises:
        ExportError: it is no Whisper model, or has weights that the runtime cannot hold: all are named at once
    """
    tensors, left_out = _renamed(packed)
    dims = _dims(packed.info.get("whisper"), {name: tuple(one.shape) for name, one in tensors.items()})
    problems, matrices, floats = {}, {}, {}
    for name, tensor in tensors.items():
        codes = isinstance(tensor, PackedWeight)
        if name.endswith(".weight") and len(tensor.shape) == 2:
            problem = problem_of(tensor) if codes else "weights in float, where all matrices must have codes"
            matrices[name] = tensor
        else:
            floats[name] = (tensor.values() if codes else tensor).float()
            problem = "" if floats[name].isfinite().all() else "infinite numbers"
        if problem:
            problems[_packed_name(name)] = problem
    refuse(problems, fix)
    convolutions = [name for name in CONVOLUTIONS if isinstance(tensors[name], PackedWeight)]
    return Whisper(dims, matrices, convolutions, floats, left_out)


def dims(packed: PackedModel) -> Dims:
    """The sizes of a packed Whisper model.

    Raises:
        ExportError: it is no Whisper model
    """
    tensors, _ = _renamed(packed)
    return _dims(packed.info.get("whisper"), {name: tuple(one.shape) for name, one in tensors.items()})


def _renamed(packed: PackedModel) -> Tuple[Dict[str, Any], List[str]]:
    """All tensors of a Whisper model by OpenAI's names, and the names of those that it does not have."""
    everything: Dict[str, Any] = {**packed.floats, **packed.weights}
    everything.update({alias: everything[name] for alias, name in packed.aliases.items()})
    tensors, others = {}, []
    for name, tensor in everything.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix:
            tensors[_PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
        else:
            others.append(name)
    if unknown := sorted(name for name in others if not name.startswith("ctc.")):
        raise ExportError(
            f"the model is no Whisper model: it has {few(unknown, 2)}. Fix: give the packed file of a model with "
            "encoder: whisper, decoder: whisper and frontend, normalize: null"
        )
    return tensors, sorted(others)


def _packed_name(name: str) -> str:
    """The name in a packed file of what OpenAI's models call `name`."""
    prefix = next(prefix for prefix, openai in _PREFIXES.items() if name.startswith(openai))
    return prefix + name.removeprefix(_PREFIXES[prefix])


def _dims(said: Any, shapes: Mapping[str, Tuple[int, ...]]) -> Dims:
    """The sizes of the model whose tensors have these shapes.

    Args:
        said: what the packed file's metadata say of the model
    """
    try:
        n_audio_state, n_mels, _ = shapes["encoder.conv1.weight"]
        n_audio_ctx, _ = shapes["encoder.positional_embedding"]
        n_text_ctx, _ = shapes["decoder.positional_embedding"]
        n_vocab, n_text_state = shapes["decoder.token_embedding.weight"]
    except (KeyError, ValueError) as e:
        raise ExportError(
            f"the model is no Whisper model of OpenAI's architecture: {e}. Fix: give the packed file of a model with "
            "encoder: whisper and decoder: whisper, whose tokens are OpenAI's own"
        ) from None
    said = said if isinstance(said, Mapping) else {}
    dims = Dims(
        n_mels=n_mels,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=n_audio_state,
        n_audio_head=_heads(said.get("n_audio_head"), n_audio_state),
        n_audio_layer=_layers(shapes, "encoder"),
        n_vocab=n_vocab,
        n_text_ctx=n_text_ctx,
        n_text_state=n_text_state,
        n_text_head=_heads(said.get("n_text_head"), n_text_state),
        n_text_layer=_layers(shapes, "decoder"),
    )
    _check_shapes(shapes, _shapes(dims))
    _check_input_and_tokens(dims, said.get("start_of_transcript"))
    return dims


def _heads(said: Any, state: int) -> int:
    if type(said) is int and said > 0 and state % said == 0:
        return said
    if said is None and state in _OPENAI_STATES:
        return state // _HEAD
    raise ExportError(
        f"the packed file does not say how many attention heads share the {state} dimensions of its layers. "
        "Fix: pack the checkpoint again"
    )


def _layers(shapes: Mapping[str, Any], side: str) -> int:
    return len({name.split(".")[2] for name in shapes if name.startswith(f"{side}.blocks.")})


def _check_input_and_tokens(dims: Dims, start: Any) -> None:
    """Refuse a model whose features or tokens are not OpenAI's; `start` is what <|startoftranscript|> is there."""
    if dims.n_mels not in (80, 128) or dims.n_audio_ctx != 1500:
        raise ExportError(
            f"the model takes {dims.n_mels} mel bands and {dims.n_audio_ctx} frames, where OpenAI's take 80 or 128, "
            "and 1500. Fix: train from one of OpenAI's models"
        )
    if dims.n_vocab not in _START or start not in (None, _START[dims.n_vocab]):
        raise ExportError(
            f"the model's {dims.n_vocab} tokens are not OpenAI's vocabulary, with 51864 (English), 51865 or 51866. "
            "Fix: train with token_type: whisper_en or whisper_multilingual, and no added tokens"
        )


def _check_shapes(found: Mapping[str, Tuple[int, ...]], wanted: Mapping[str, Tuple[int, ...]]) -> None:
    if odd := sorted(found.keys() ^ wanted.keys()):
        missing = [name for name in odd if name in wanted]
        what = f"it lacks {few(missing, 2)}" if missing else f"it has {few(odd, 2)}"
        raise ExportError(f"the model is no Whisper model of OpenAI's architecture: {what}. Fix: pack it again")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ExportError(f"{_packed_name(name)} is {found[name]}, in OpenAI's {shape}. Fix: pack it again")


def _shapes(dims: Dims) -> Dict[str, Tuple[int, ...]]:
    """The tensors of OpenAI's model of these sizes, in their order (whisper/model.py)."""
    shapes: Dict[str, Tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def attention(name: str, n: int) -> None:
        for part in ("query", "key", "value", "out"):
            layer(f"{name}.{part}", n, n, bias=part != "key")
        layer(f"{name}_ln", n)

    def blocks(side: str, count: int, n: int, attentions: Tuple[str, ...]) -> None:
        for block in (f"{side}.blocks.{i}" for i in range(count)):
            for name in attentions:
                attention(f"{block}.{name}", n)
            layer(f"{block}.mlp.0", 4 * n, n)
            layer(f"{block}.mlp.2", n, 4 * n)
            layer(f"{block}.mlp_ln", n)

    n = dims.n_audio_state
    shapes["encoder.positional_embedding"] = (dims.n_audio_ctx, n)
    layer("encoder.conv1", n, dims.n_mels, 3)
    layer("encoder.conv2", n, n, 3)
    blocks("encoder", dims.n_audio_layer, n, ("attn",))
    layer("encoder.ln_post", n)
    shapes["decoder.positional_embedding"] = (dims.n_text_ctx, n)
    layer("decoder.token_embedding", dims.n_vocab, n, bias=False)
    blocks("decoder", dims.n_text_layer, n, ("attn", "cross_attn"))
    layer("decoder.ln", n)
    return shapes


def tokenizer(dims: Dims, language: Optional[str] = None) -> Any:
    """OpenAI's tokenizer of the model's vocabulary (whisper.tokenizer.Tokenizer)."""
    get = installed("whisper.tokenizer").get_tokenizer
    return get(dims.multilingual, num_languages=dims.languages, language=language)
