"""Makes ESPnet's Whisper classes work with openai-whisper 20250625, and without OpenAI's file where weights are packed.

- ESPnet asks for `whisper.audio.N_MELS`, which newer versions no longer have.
- ESPnet speaks to a Hugging Face tokenizer, which newer versions replaced by tiktoken's.
- ESPnet reads OpenAI's weights before it reads the model's own. A packed file has all of them.
"""

import functools
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Callable, ContextManager, List, Type

from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder
from espnet2.asr.encoder.whisper_encoder import OpenAIWhisperEncoder
from espnet2.asr.frontend.whisper import WhisperFrontend
from espnet2.text.whisper_token_id_converter import OpenAIWhisperTokenIDConverter
from espnet2.text.whisper_tokenizer import OpenAIWhisperTokenizer

from espnet_rand.context import patching
from espnet_rand.export.codes import ExportError
from espnet_rand.export.whisper import dims
from espnet_rand.packing import PackedModel
from espnet_rand.whisper_tokens import prepare

# tokens that a decoder may look back on; ten times as many as OpenAI's models have. It holds a matrix of their square
_LONGEST = 4480


def register() -> None:
    """Prepare openai-whisper before ESPnet makes any of its classes; it is imported only then."""
    for cls in (
        OpenAIWhisperDecoder,
        OpenAIWhisperEncoder,
        OpenAIWhisperTokenIDConverter,
        OpenAIWhisperTokenizer,
        WhisperFrontend,
    ):
        _prepare_before(cls)


def _prepare_before(cls: Type) -> None:
    original = cls.__init__

    @functools.wraps(original)
    def made(self, *args, **kwargs):
        prepare()
        original(self, *args, **kwargs)

    cls.__init__ = made


def without_openai(packed: PackedModel) -> ContextManager[None]:
    """Build models inside the block, in this thread, with the sizes of a packed Whisper model, and no file of OpenAI's.

    The names of OpenAI's models that their options have do not count. Another model than Whisper is built as ever.
    """
    try:
        sizes = dims(packed)
        import whisper
    except (ExportError, ImportError):
        return nullcontext()
    if sizes.n_text_ctx > _LONGEST:
        return nullcontext()

    def build(original: Callable, *args: Any, **kwargs: Any) -> Any:
        return whisper.model.Whisper(whisper.model.ModelDimensions(**asdict(sizes)))

    def any_name(original: Callable) -> List[str]:
        return _AnyName()

    return patching((whisper, "load_model", build), (whisper, "available_models", any_name))


class _AnyName(list):
    """A list in which each name is: what a training called its model is nothing to a packed file."""

    def __contains__(self, name: object) -> bool:
        return True
