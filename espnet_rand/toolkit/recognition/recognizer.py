"""ESPnet's Speech2Text as something that hears words with times."""

import argparse
import logging
import math
from contextlib import nullcontext
from typing import Any, List, Optional, Tuple

import numpy as np
import torch

from espnet_rand.quantizers import OptionError
from espnet_rand.toolkit import search
from espnet_rand.toolkit.recognition.guard import attends, find_loop, guarding, no_speech
from espnet_rand.toolkit.recognition.token_times import ctc_best_path, ctc_frames, transducer_frames
from espnet_rand.toolkit.recognition.words import Heard, Word, word_tokens
from espnet_rand.toolkit.trailing_silence import samples_heard

_NO_SPEECH = "no speech by the model's own account: its text is left out"
_LOOP = "the decoder said the same over and over: it is kept once, and what follows may be missing"


class Recognizer:
    """An ESPnet model with its search, asked for words.

    Token times are those of the best alignment of the hypothesis: with the model's CTC, or of a transducer. A model
    without either (attention alone, as Whisper) has no times: its words are spread evenly.

    Args:
        speech2text: Speech2Text of espnet2.bin.asr_inference or asr_transducer_inference
        ctc_greedy: take the best token of each frame by the model's CTC, in place of speech2text's search. The time of
            the search with CTC grows with the square of a recording's length, that of this with the length
        guard: against what attention decoders say that nobody said: words over and over are kept once, and words on
            what Whisper itself takes for no speech are left out. The notes say where

    Attributes:
        rate: of the samples that it wants, in Hz
        longest: samples that it hears at once, of more it would hear the first: Whisper's 30 seconds; else infinity

    Raises:
        OptionError: ctc_greedy, and the model has no CTC; or the search does not fit the model, see search.check
    """

    def __init__(self, speech2text: Any, ctc_greedy: bool = False, guard: bool = True):
        self.speech2text = speech2text
        self.model = speech2text.asr_model
        if ctc_greedy and getattr(self.model, "ctc", None) is None:
            raise OptionError(
                f"ctc_greedy: {type(self.model).__name__} has no CTC: its model_conf has ctc_weight 0, or it is a "
                "transducer. Mend: leave ctc_greedy out"
            )
        if not ctc_greedy:
            search.check(speech2text)
        self.ctc_greedy = ctc_greedy
        self.guard = guard and not ctc_greedy and attends(speech2text)
        self.rate = _rate(speech2text.asr_train_args)
        encoder = self.model.encoder
        self.longest = getattr(encoder, "pad_samples", math.inf)
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
            with guarding(self.speech2text) if self.guard else nullcontext():
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
            text, note = self._to_text(tokens), ""
        else:
            text, tokens, ids, note = self._best(found, frames)
            spans = self._frames(frames, ids) if tokens else None
        if not tokens:
            return Heard([], note=note)
        seconds = len(samples) / self.rate
        phonemes = type(self.speech2text.tokenizer).__name__ == "PhonemeTokenizer"
        stretches = word_tokens(text, tokens, self._to_text, each=phonemes)
        if spans is None:
            spread = [i * seconds / len(tokens) for i in range(len(tokens) + 1)]
            words = [Word(word, spread[first], spread[last + 1], space) for word, first, last, space in stretches]
            return Heard(words, timed=False, note=note)
        step = self._frame_seconds(len(samples), frames.size(1))
        times = [(min(first * step, seconds), min(end * step, seconds)) for first, end in spans]
        words = [Word(word, times[first][0], times[last][1], space) for word, first, last, space in stretches]
        return Heard(words, note=note)

    def _encode(self, samples: np.ndarray) -> None:
        speech = torch.as_tensor(samples)[None]
        speech = speech.to(self.speech2text.device, getattr(torch, self.speech2text.dtype))
        self.model.encode(speech, torch.tensor([speech.size(1)], device=speech.device))

    def _best(self, result: Any, encoded: torch.Tensor) -> Tuple[str, List[str], List[int], str]:
        """Text, tokens and their numbers of the best hypothesis, as the guard leaves them, and its note."""
        if isinstance(result, tuple):  # with what intermediate CTC says
            result = result[0]
        if not result:  # no hypothesis was finished
            return "", [], [], ""
        if not isinstance(result[0], tuple):
            result = self.speech2text.hypotheses_to_results(result)
        text, tokens, ids, hypothesis = result[0]
        text = self._to_text(tokens) if text is None else text
        if not self.guard or not tokens:
            return text, tokens, ids, ""
        if no_speech(self.model, encoded, hypothesis):
            logging.info(f"espnet_rand: no speech: left out: {text.strip()}")
            return "", [], [], _NO_SPEECH
        if (loop := find_loop(ids)) is None:
            return text, tokens, ids, ""
        logging.info(f"espnet_rand: words over and over: {text.strip()}")
        tokens, ids = (x[: loop.start + loop.period] + x[loop.stop :] for x in (tokens, ids))
        return self._to_text(tokens), tokens, ids, _LOOP

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
        shift = samples_heard(self.model.encoder, samples) / frames
        hop = getattr(getattr(self.model, "frontend", None) or self.model.encoder, "hop_length", None)
        if hop:
            shift = hop * max(1, round(shift / hop - 0.25))  # convolutions without padding take some frames away
        return shift / self.rate


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
