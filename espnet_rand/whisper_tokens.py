"""Gives the current openai-whisper what ESPnet asks it for. Imports nothing big: the launcher's processes load it."""

from typing import Any, Dict, List, Union

from espnet_rand.options import OptionError

# GPT-2 writes any byte as one printable character: itself, or one from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_TO_CHAR = {b: chr(b) for b in _PRINTABLE}
_BYTE_TO_CHAR.update({b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))})
_CHAR_TO_BYTE = {c: b for b, c in _BYTE_TO_CHAR.items()}


class HuggingFaceView:
    """Answers by tiktoken's tokenizer what ESPnet asks Hugging Face's Whisper tokenizer."""

    additional_special_tokens: List[str] = []

    def __init__(self, encoding: Any, special_tokens: Dict[str, int]):
        self.encoding = encoding
        self.special_tokens = special_tokens
        self.vocab_size = 50257  # both the English and the multilingual vocabulary have these

    def get_added_vocab(self) -> Dict[str, int]:
        """The special tokens. ESPnet counts the timestamps apart."""
        return {t: i for t, i in self.special_tokens.items() if not t[2:3].isdigit()}

    def add_special_tokens(self, tokens: Dict[str, List[str]]) -> None:
        """Accept tokens that are there. Raises ValueError: there are others."""
        new = set(tokens["additional_special_tokens"]) - set(self.special_tokens)
        if new:
            raise ValueError(f"Whisper's tokenizer has no {sorted(new)}, and none can be added")

    def add_tokens(self, tokens: List[str]) -> None:
        """The same."""
        self.add_special_tokens({"additional_special_tokens": tokens})

    def tokenize(self, text: str, add_special_tokens: bool = False) -> List[str]:
        """Split a text into tokens."""
        return [self._token(i) for i in self.encoding.encode(text, disallowed_special=())]

    def convert_ids_to_tokens(
        self, ids: Union[int, List[int]], skip_special_tokens: bool = False
    ) -> Union[str, List[str]]:
        """The tokens of numbers, or the token of one."""
        if isinstance(ids, int):
            return self._token(ids)
        first = self.encoding.eot_token
        return [self._token(int(i)) for i in ids if not (skip_special_tokens and i >= first)]

    def convert_tokens_to_ids(self, tokens: Union[str, List[str]]) -> Union[int, List[int]]:
        """The numbers of tokens, or the number of one."""
        if isinstance(tokens, str):
            return self._id(tokens)
        return [self._id(t) for t in tokens]

    def convert_tokens_to_string(self, tokens: List[str]) -> str:
        """The text of tokens."""
        return self.encoding.decode([self._id(t) for t in tokens])

    def _token(self, i: int) -> str:
        if i >= self.encoding.eot_token:
            return self.encoding.decode([i])
        return "".join(_BYTE_TO_CHAR[b] for b in self.encoding.decode_single_token_bytes(i))

    def _id(self, token: str) -> int:
        if token in self.special_tokens:
            return self.special_tokens[token]
        try:
            return self.encoding.encode_single_token(bytes(_CHAR_TO_BYTE[c] for c in token))
        except KeyError:
            raise OptionError(f"token_list: Whisper's vocabulary has no token {token!r}. Fix: take it out") from None


def prepare() -> None:
    """Give openai-whisper what ESPnet asks for. Idempotent; without the package ESPnet says what is missing."""
    try:
        import whisper.audio
        import whisper.tokenizer
    except ImportError:
        return
    if not hasattr(whisper.audio, "N_MELS"):
        whisper.audio.N_MELS = 80
    tokenizer = whisper.tokenizer.Tokenizer
    older = "tokenizer" in getattr(tokenizer, "__dataclass_fields__", ())  # a Hugging Face tokenizer, a field
    if not older and not hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer = property(lambda self: HuggingFaceView(self.encoding, self.special_tokens))
