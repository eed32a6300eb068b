"""ESPnet's Speech2Text as something that hears words with times."""

import argparse
import importlib
import inspect
import logging
import re
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit.context import building
from espnet_rand.toolkit.token_times import ctc_best_path, ctc_frames, transducer_frames

#: Tasks with a Speech2Text of this kind: espnet2.bin.<task>_inference.
TASKS = ("asr", "asr_transducer")
# scripts that are written without spaces, where a character counts as a word: Thai, Lao, Burmese, Khmer, kana and the
# punctuation of Chinese and Japanese, Han, full-width forms, further Han
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3000, 0x30FF),
    (0x3400, 0x9FFF),
    (0xFF00, 0xFFEF),
    (0x20000, 0x3FFFF),
)


class Word(NamedTuple):
    """A word, and when it is said, in seconds."""

    text: str
    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


class Heard(NamedTuple):
    """What is heard in a piece of a recording.

    Attributes:
        words: in order
        timed: their times are those of an alignment; otherwise they are spread over the piece
        note: what is to be said about it, or nothing
    """

    words: List[Word]
    timed: bool = True
    note: str = ""


class Recognizer:
    """An ESPnet model with its search, asked for words.

    Token times are those of the best alignment of the hypothesis: with the model's CTC, or of a transducer. A model
    without either (attention alone, as Whisper) has no times: its words are spread evenly.

    Args:
        speech2text: Speech2Text of espnet2.bin.asr_inference or asr_transducer_inference
        ctc_greedy: take the best token of each frame by the model's CTC, in place of speech2text's search. The time of
            the search with CTC grows with the square of a recording's length, that of this with the length

    Attributes:
        rate: of the samples that it wants, in Hz

    Raises:
        OptionError: ctc_greedy, and the model has no CTC
    """

    def __init__(self, speech2text: Any, ctc_greedy: bool = False):
        self.speech2text = speech2text
        self.model = speech2text.asr_model
        if ctc_greedy and getattr(self.model, "ctc", None) is None:
            raise OptionError(
                f"ctc_greedy: {type(self.model).__name__} has no CTC: its model_conf has ctc_weight 0, or it is a "
                "transducer. Mend: leave ctc_greedy out"
            )
        self.ctc_greedy = ctc_greedy
        self.rate = _rate(speech2text.asr_train_args)
        self._preprocess = _preprocessor(speech2text.asr_train_args)
        self._blank = getattr(self.model, "blank_id", 0)

    @torch.no_grad()
    def __call__(self, samples: np.ndarray) -> Heard:
        """The words of samples, (samples,) float32, with times from their beginning."""
        encoded = []
        postencoder = getattr(self.model, "postencoder", None)
        module = self.model.encoder if postencoder is None else postencoder
        hook = module.register_forward_hook(lambda module, inputs, output: encoded.append(output[0]))
        try:
            found = (self._encode if self.ctc_greedy else self.speech2text)(self._preprocess(samples))
        except Exception as e:
            if type(e).__name__ != "TooShortUttError":  # each task has a class of this name
                raise
            return Heard([], note="too short for the model")
        finally:
            hook.remove()
        # an encoder with intermediate CTC returns those outputs too
        frames = encoded[-1][0] if isinstance(encoded[-1], tuple) else encoded[-1]
        if self.ctc_greedy:
            ids, spans = ctc_best_path(self.model.ctc.log_softmax(frames)[0], self._blank)
            tokens = self.speech2text.converter.ids2tokens(ids)
            text = self._to_text(tokens)
        else:
            text, tokens, ids = self._best(found)
            spans = self._frames(frames, ids) if tokens else None
        if not tokens:
            return Heard([])
        seconds = len(samples) / self.rate
        stretches = _word_tokens(text, tokens, self._to_text)
        if spans is None:
            spread = [i * seconds / len(tokens) for i in range(len(tokens) + 1)]
            words = [Word(word, spread[first], spread[last + 1]) for word, first, last in stretches]
            return Heard(words, timed=False)
        step = self._frame_seconds(len(samples), frames.size(1))
        times = [(min(first * step, seconds), min(end * step, seconds)) for first, end in spans]
        return Heard([Word(word, times[first][0], times[last][1]) for word, first, last in stretches])

    def _encode(self, samples: np.ndarray) -> None:
        speech = torch.as_tensor(samples)[None]
        speech = speech.to(self.speech2text.device, getattr(torch, self.speech2text.dtype))
        self.model.encode(speech, torch.tensor([speech.size(1)], device=speech.device))

    def _best(self, result: Any) -> Tuple[str, List[str], List[int]]:
        """Text, tokens and their numbers of the best hypothesis."""
        if isinstance(result, tuple):  # with what intermediate CTC says
            result = result[0]
        if not result:  # no hypothesis was finished
            return "", [], []
        if not isinstance(result[0], tuple):
            result = self.speech2text.hypotheses_to_results(result)
        text, tokens, ids, *_ = result[0]
        return self._to_text(tokens) if text is None else text, tokens, ids

    def _to_text(self, tokens: List[str]) -> str:
        tokenizer = self.speech2text.tokenizer
        return " ".join(tokens) if tokenizer is None else tokenizer.tokens2text(tokens)

    def _frames(self, encoded: torch.Tensor, ids: List[int]) -> Optional[List[Tuple[int, int]]]:
        """First frame of each token, and the frame after its last; nothing where there is no alignment."""
        if getattr(self.model, "ctc", None) is not None:
            return ctc_frames(self.model.ctc.log_softmax(encoded)[0], ids, self._blank)
        if getattr(self.model, "joint_network", None) is not None:
            return transducer_frames(self.model.joint_network, self.model.decoder, encoded, ids, self._blank)
        return None

    def _frame_seconds(self, samples: int, frames: int) -> float:
        """The shift of the encoder's frames: a multiple of the frontend's, where that is known."""
        shift = samples / frames
        hop = getattr(getattr(self.model, "frontend", None), "hop_length", None)
        if hop:
            shift = hop * max(1, round(shift / hop - 0.25))  # convolutions without padding take some frames away
        return shift / self.rate


def join_text(words: List[Word]) -> str:
    """The words as a text; no spaces between characters of scripts that are written without."""
    text = ""
    for word in words:
        text += word.text if not text or (_unspaced(text[-1]) and _unspaced(word.text[0])) else " " + word.text
    return text


def _unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)


def _word_tokens(text: str, tokens: List[str], to_text) -> List[Tuple[str, int, int]]:
    """The words of a text, with the numbers of their first and last tokens."""
    # what a token adds to the text, seen with some tokens before it: a character may be of several
    context = 8
    owners: List[int] = []
    for i in range(len(tokens)):
        before = tokens[max(0, i - context) : i]
        added = len(to_text([*before, tokens[i]])) - (len(to_text(before)) if before else 0)
        owners += [i] * max(0, added)
    owners += [len(tokens) - 1] * (len(text) - len(owners))
    words, start = [], 0
    for end in range(1, len(text) + 1):
        whole = end == len(text) or text[end].isspace() or _unspaced(text[end]) or _unspaced(text[end - 1])
        if text[start].isspace():
            start = end
        elif whole:
            words.append((text[start:end], owners[start], owners[end - 1]))
            start = end
    return words


def _rate(train_args: argparse.Namespace) -> int:
    """The rate that a model was trained with, in Hz: its frontend's `fs`, or ESPnet's default."""
    rate = (getattr(train_args, "frontend_conf", None) or {}).get("fs", 16000)
    if isinstance(rate, str):  # "16k", as ESPnet reads it
        from humanfriendly import parse_size

        rate = parse_size(rate)
    return rate


def _preprocessor(train_args: argparse.Namespace):
    """What the task does to samples before it decodes them; e.g. their volume."""
    from espnet2.tasks.asr import ASRTask

    preprocess = ASRTask.build_preprocess_fn(train_args, False) if hasattr(train_args, "use_preprocessor") else None
    if preprocess is None:
        return lambda samples: samples
    return lambda samples: preprocess("", {"speech": samples})["speech"]


def get_parser(task: str) -> argparse.ArgumentParser:
    """The options of espnet2.bin.<task>_inference, and `--ctc_greedy`."""
    from espnet2.utils.types import str2bool

    parser = importlib.import_module(f"espnet2.bin.{task}_inference").get_parser()
    for action in parser._actions:  # ESPnet 202611 has a "%" in a help, which ends --help with an error
        action.help = re.sub(r"%(?![(%])", "%%", action.help or "")
    parser.add_argument(
        "--ctc_greedy",
        type=str2bool,
        default=False,
        help="the best token of each frame by the model's CTC; no search, whose time grows with the square of a window",
    )
    return parser


def build(task: str, args: argparse.Namespace) -> Recognizer:
    """The model and search of those options.

    Raises:
        OptionError: an option wants what decoding long recordings does not do, or another leaves it unused;
            see also context.building
    """
    from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

    module = importlib.import_module(f"espnet2.bin.{task}_inference")
    for name in ("multi_asr", "enh_s2t_task", "word_lm_train_config"):
        if getattr(args, name, None):
            raise OptionError(f"--{name} is not possible with long recordings")
    for name in ("lm_file", "lm_train_config", "ngram_file"):
        if args.ctc_greedy and getattr(args, name, None):
            raise OptionError(
                f"--{name} is of the search, which --ctc_greedy true leaves out. Mend: one without the other"
            )
    if args.ngpu > 1:
        raise OptionError("--ngpu: one GPU at most")
    if args.batch_size > 1:
        logging.info(f"espnet_rand: --batch_size {args.batch_size}: windows are decoded one by one")
    set_all_random_seed(args.seed)
    names = inspect.signature(module.Speech2Text.__init__).parameters
    options = {name: value for name, value in vars(args).items() if name in names}
    options.update(device="cuda" if args.ngpu else "cpu", nbest=1)
    if "batch_size" in names:
        options["batch_size"] = 1
    with building(task, args.asr_train_config):
        speech2text = module.Speech2Text.from_pretrained(model_tag=args.model_tag, **options)
    return Recognizer(speech2text, args.ctc_greedy)
