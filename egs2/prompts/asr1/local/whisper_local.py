"""Make ESPnet's Whisper classes work with openai-whisper 20250625, and with a local checkpoint.

Import it before a model is built (`espnet-rand --import whisper_local -m espnet2...`).

- ESPnet asks for `whisper.audio.N_MELS`, which newer versions no longer have.
- ESPnet speaks to a Hugging Face tokenizer, which newer versions replaced by tiktoken's.
- With WHISPER_CHECKPOINT set, `whisper_model: local` is that file; no network is needed.
"""

import os
from pathlib import Path

import whisper
import whisper.audio
import whisper.tokenizer

LOCAL = "local"

# GPT-2 writes any byte as one printable character: itself, or one from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_TO_CHAR = {b: chr(b) for b in _PRINTABLE}
_BYTE_TO_CHAR.update({b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))})
_CHAR_TO_BYTE = {c: b for b, c in _BYTE_TO_CHAR.items()}


class HuggingFaceView:
    """Answers by tiktoken's tokenizer what ESPnet asks Hugging Face's Whisper tokenizer."""

    additional_special_tokens = []

    def __init__(self, encoding, special_tokens):
        self.encoding = encoding
        self.special_tokens = special_tokens
        self.vocab_size = 50257  # both the English and the multilingual vocabulary have these

    def get_added_vocab(self):
        # ESPnet counts the timestamps apart
        return {t: i for t, i in self.special_tokens.items() if not t[2:3].isdigit()}

    def add_special_tokens(self, tokens):
        new = set(tokens["additional_special_tokens"]) - set(self.special_tokens)
        if new:
            raise ValueError(f"Whisper's tokenizer has no {sorted(new)}, and none can be added")

    def add_tokens(self, tokens):
        self.add_special_tokens({"additional_special_tokens": tokens})

    def tokenize(self, text, add_special_tokens=False):
        return self.convert_ids_to_tokens(self.encoding.encode(text, disallowed_special=()))

    def convert_ids_to_tokens(self, ids, skip_special_tokens=False):
        if isinstance(ids, int):
            return self._token(ids)
        first = self.encoding.eot_token
        return [self._token(int(i)) for i in ids if not (skip_special_tokens and i >= first)]

    def convert_tokens_to_ids(self, tokens):
        if isinstance(tokens, str):
            return self._id(tokens)
        return [self._id(t) for t in tokens]

    def convert_tokens_to_string(self, tokens):
        return self.encoding.decode(self.convert_tokens_to_ids(tokens))

    def _token(self, i):
        if i >= self.encoding.eot_token:
            return self.encoding.decode([i])
        return "".join(_BYTE_TO_CHAR[b] for b in self.encoding.decode_single_token_bytes(i))

    def _id(self, token):
        if token in self.special_tokens:
            return self.special_tokens[token]
        return self.encoding.encode_single_token(bytes(_CHAR_TO_BYTE[c] for c in token))


def _load_model(name, *args, **kwargs):
    if name == LOCAL:
        name = os.environ.get("WHISPER_CHECKPOINT", "")
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"whisper_model: {LOCAL} needs the environment variable WHISPER_CHECKPOINT "
                f"to name a checkpoint of openai-whisper; {name!r} is not a file"
            )
    return _stock_load_model(name, *args, **kwargs)


if not hasattr(whisper.audio, "N_MELS"):
    whisper.audio.N_MELS = 80
if not hasattr(whisper.tokenizer.Tokenizer, "tokenizer"):
    whisper.tokenizer.Tokenizer.tokenizer = property(lambda self: HuggingFaceView(self.encoding, self.special_tokens))
_stock_load_model = whisper.load_model
whisper.load_model = _load_model
whisper._MODELS.setdefault(LOCAL, "")  # ESPnet takes only names in whisper.available_models()
