"""Recognizes words with times by ESPnet's Speech2Text."""

import argparse
import logging
import math
from contextlib import nullcontext
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from espnet2.asr.decoder.whisper_decoder import OpenAIWhisperDecoder

from espnet_rand.context import last_outputs
from espnet_rand.options import OptionError
from espnet_rand.toolkit import search
from espnet_rand.toolkit.recognition.guard import guarding, guards, judge
from espnet_rand.toolkit.recognition.loudness import moves, quietest
from espnet_rand.toolkit.recognition.token_times import (
    Spans,
    ctc_best_path,
    ctc_frames,
    transducer_frames,
    whisper_frames,
)
from espnet_rand.toolkit.recognition.words import Heard, Word, word_tokens
from espnet_rand.toolkit.trailing_silence import seconds_of_a_frame, silence_behind

_NO_SPEECH = "no speech by the model's own account: its text is left out"
_KEPT = "no speech by the model's own account, but as loud as speech: its text is kept"
_LOOP = "the decoder said the same over and over: it is kept once, and what follows may be missing"
_FULL = "the decoder had no more room: what follows may be missing"
_AGAIN = "the decoder went astray, or left out what is said: heard again in parts"
_SILENT = "no words in some seconds in which somebody may speak"
_NOTHING = "the search found no text"
_CUT = "as many tokens as --maxlenratio allows: what follows may be missing. Fix: --maxlenratio 0"
# seconds; recordings as long as this are worth to be heard again in two parts
_WHOLE = 10.0
# seconds from the beginning of a word to that of the next. In speech with pauses of half a second there were 3.4 at
# most, and 4.5 or more where a decoder left out what was said
_SKIPPED = 4.0


class Recognizer:
    """An ESPnet model with its search, asked for words.

    Token times come from the best alignment of the hypothesis, by the model's CTC, by a transducer, or by what
    Whisper's decoder attends to. Another model with attention alone has no times: its words are spread evenly.

    Args:
        speech2text: Speech2Text of espnet2.bin.asr_inference or asr_transducer_inference
        ctc_greedy: take the best token of each frame by the model's CTC, in place of speech2text's search, which
            takes longer
        guard: leave out what attention decoders without CTC say that nobody said. Words over and over are kept once;
            words are left out where Whisper itself takes a recording for no speech that is not as loud as speech; what
            went astray, and where its words' times show that some were left out, is heard again in parts. The notes
            say so. Other decoders and searches have no guard

    Attributes:
        rate: the rate of the samples that it wants, in Hz
        longest: the samples that it hears at once; it would not hear more. Whisper's are 30 seconds, else infinity

    Raises:
        OptionError: ctc_greedy, and the model has no CTC; or the search does not fit the model, see search.check
    """

    def __init__(self, speech2text: Any, ctc_greedy: bool = False, guard: bool = True):
        self.speech2text = speech2text
        self.model = speech2text.asr_model
        if ctc_greedy and getattr(self.model, "ctc", None) is None:
            raise OptionError(
                f"ctc_greedy: {type(self.model).__name__} has no CTC: its model_conf has ctc_weight 0, or it is a "
                "transducer. Fix: leave ctc_greedy out"
            )
        if not ctc_greedy:
            search.check(speech2text)
        self.ctc_greedy = ctc_greedy
        self.guard = guard and not ctc_greedy and guards(speech2text)
        self.rate = trained_rate(speech2text.asr_train_args)
        encoder = self.model.encoder
        self.longest = getattr(encoder, "pad_samples", math.inf)
        self._preprocess = _preprocessor(speech2text.asr_train_args)
        self._blank = getattr(self.model, "blank_id", 0)

    def __call__(self, samples: np.ndarray) -> Heard:
        """Recognize the words of samples, (samples,) float32, with times from their beginning."""
        heard = self._hear(samples)
        if self.guard and heard.timed and self._skipped(samples, heard.words):
            return heard._replace(notes=(*heard.notes, _SILENT))
        return heard

    def _hear(self, samples: np.ndarray) -> Heard:
        """Recognize the words of samples; again in two parts, if they are long and the decoder goes astray."""
        whole = len(samples) >= _WHOLE * self.rate
        best = self._search(samples)
        if best is None:
            return Heard([], notes=("too short for the model",))
        notes = [_NOTHING] if best.hypothesis is None and best.spans is None else []
        if self.guard and best.hypothesis is not None:
            verdict = judge(self.speech2text, best.frames, best.hypothesis, len(samples) / self.rate)
            loud = verdict.no_speech and moves(samples, self.rate)
            if whole and (loud or self._fills(samples) if verdict.no_speech else verdict.astray):
                return self._in_parts(samples, said=bool(best.tokens))
            if verdict.no_speech and (verdict.astray or not loud):
                logging.info(f"espnet_rand: no speech: left out: {best.text.strip()}")
                return Heard([], notes=(_NO_SPEECH,) if best.tokens else ())
            if verdict.looped:
                logging.info(f"espnet_rand: words over and over: {best.text.strip()}")
                tokens = self.speech2text.converter.ids2tokens(verdict.ids)
                best = best._replace(text=self._to_text(tokens), tokens=tokens, ids=verdict.ids)
            held = ((_LOOP, verdict.looped), (_FULL, verdict.full), (_KEPT, verdict.no_speech and best.tokens))
            notes = [note for note, holds in held if holds]
        if best.hypothesis is not None and search.cut(self.speech2text, best.hypothesis, best.frames.size(1)):
            notes.append(_CUT if self.speech2text.maxlenratio else _FULL)
        words, timed = self._words(best, len(samples)) if best.tokens else ([], True)
        if whole and self.guard and timed and self._skipped(samples, words):
            again = self._in_parts(samples, said=bool(words))
            if (again.timed or not words) and len(again.words) > len(words) and not {_LOOP, _FULL} & {*again.notes}:
                return again
        return Heard(words, timed, tuple(notes))

    def _fills(self, samples: np.ndarray) -> bool:
        """Whether samples have no silence behind, without which the model may take speech for none."""
        return silence_behind(self.model.encoder, len(samples)) < self.rate

    def _skipped(self, samples: np.ndarray, words: List[Word]) -> bool:
        """Whether somebody speaks on within a word, before the first or behind the last: some of it is left out."""
        begins = [0.0, *(word.start for word in words), len(samples) / self.rate]
        return any(
            end - begin >= _SKIPPED and moves(samples[int(begin * self.rate) : int(end * self.rate)], self.rate)
            for begin, end in zip(begins, begins[1:])
        )

    def _in_parts(self, samples: np.ndarray, said: bool) -> Heard:
        """Recognize samples in two parts, cut where they are quietest.

        Args:
            said: whether there were words when they were heard at once
        """
        third = len(samples) // 3
        cut = third + quietest(samples[third : 2 * third], self.rate)
        first, second = (self._hear(part) for part in (samples[:cut], samples[cut:]))
        notes = {*first.notes, *second.notes}
        words = [*first.words, *second.moved(cut / self.rate).words]
        if words or (said and _NO_SPEECH not in notes):
            notes.add(_AGAIN)
        return Heard(words, first.timed and second.timed, tuple(sorted(notes)))

    @torch.no_grad()
    def _search(self, samples: np.ndarray) -> Optional["_Best"]:
        """Search for the best hypothesis; None: the samples are too short for the model."""
        postencoder = getattr(self.model, "postencoder", None)
        module = self.model.encoder if postencoder is None else postencoder
        try:
            with last_outputs(module) as outputs, guarding(self.speech2text) if self.guard else nullcontext():
                found = (self._encode if self.ctc_greedy else self.speech2text)(self._preprocess(samples))
        except Exception as e:
            if type(e).__name__ != "TooShortUttError":  # each task has a class of this name
                raise
            return None
        encoded = outputs[module][0]
        # an encoder with intermediate CTC returns those outputs too
        frames = encoded[0] if isinstance(encoded, tuple) else encoded
        if not self.ctc_greedy:
            return _Best(*self._best(found), frames)
        ids, spans = ctc_best_path(self.model.ctc.log_softmax(frames)[0], self._blank)
        tokens = self.speech2text.converter.ids2tokens(ids)
        return _Best(self._to_text(tokens), tokens, ids, None, frames, spans)

    def _words(self, best: "_Best", samples: int) -> Tuple[List[Word], bool]:
        """The words of so many samples with times, and whether the times come from an alignment."""
        seconds = samples / self.rate
        phonemes = type(self.speech2text.tokenizer).__name__ == "PhonemeTokenizer"
        stretches = word_tokens(best.text, best.tokens, self._to_text, each=phonemes)
        spans = best.spans or self._frames(best, samples)
        if spans is None:
            count = len(best.tokens)
            times = [(i * seconds / count, (i + 1) * seconds / count) for i in range(count)]
        else:
            step = self._frame_seconds(samples, best.frames.size(1))
            times = [(min(first * step, seconds), min(end * step, seconds)) for first, end in spans]
        words = [Word(word, times[first][0], times[last][1], space) for word, first, last, space in stretches]
        return words, spans is not None

    def _encode(self, samples: np.ndarray) -> None:
        """Run the encoder alone."""
        speech = torch.as_tensor(samples)[None]
        speech = speech.to(self.speech2text.device, getattr(torch, self.speech2text.dtype))
        self.model.encode(speech, torch.tensor([speech.size(1)], device=speech.device))

    def _best(self, result: Any) -> Tuple[str, List[str], List[int], Any]:
        """The text, the tokens and their numbers of the best hypothesis, and the hypothesis."""
        if isinstance(result, tuple):  # with the results of intermediate CTC
            result = result[0]
        if not result:  # no hypothesis was finished
            return "", [], [], None
        if not isinstance(result[0], tuple):
            result = self.speech2text.hypotheses_to_results(result)
        text, tokens, ids, hypothesis = result[0]
        ids = ids[len(ids) - len(tokens) :]  # special tokens, which the converter leaves out, stand first
        return self._to_text(tokens) if text is None else text, tokens, ids, hypothesis

    def _to_text(self, tokens: List[str]) -> str:
        """The text of tokens."""
        tokenizer = self.speech2text.tokenizer
        return " ".join(tokens) if tokenizer is None else tokenizer.tokens2text(tokens)

    def _frames(self, best: "_Best", samples: int) -> Optional[Spans]:
        """The first frame of each token, and the frame after its last; None: there is no alignment."""
        model, encoded, ids = self.model, best.frames, best.ids
        if getattr(model, "ctc", None) is not None:
            return ctc_frames(model.ctc.log_softmax(encoded)[0], ids, self._blank)
        if getattr(model, "joint_network", None) is not None:
            return transducer_frames(model.joint_network, model.decoder, encoded, ids, self._blank)
        if isinstance(model.decoder, OpenAIWhisperDecoder) and best.hypothesis is not None:
            said = [int(i) for i in best.hypothesis.yseq]
            primer = said[: said.index(ids[0], 1)]  # the start, and special tokens that are no part of the text
            spoken = math.ceil(samples / self.rate / self._frame_seconds(samples, encoded.size(1)))
            return whisper_frames(model.decoder, encoded[:, :spoken], primer, ids)
        return None

    def _frame_seconds(self, samples: int, frames: int) -> float:
        """The shift of the encoder's frames: a multiple of the frontend's, where that is known."""
        if (known := seconds_of_a_frame(self.model.encoder)) is not None:
            return known
        shift = samples / frames
        hop = getattr(getattr(self.model, "frontend", None), "hop_length", None)
        if hop:
            shift = hop * max(1, round(shift / hop - 0.25))  # convolutions without padding take some frames away
        return shift / self.rate


class _Best(NamedTuple):
    """The best hypothesis of a search, as ESPnet gives it: the guard has not judged it yet.

    Attributes:
        ids: numbers of the tokens
        hypothesis: ESPnet's object, with scores; None where there was no search
        frames: the encoder's output, (1, frames, values)
        spans: the first frame of each token, and the frame after its last; None: not known yet
    """

    text: str
    tokens: List[str]
    ids: List[int]
    hypothesis: Any
    frames: torch.Tensor
    spans: Optional[Spans] = None


def trained_rate(train_args: argparse.Namespace) -> int:
    """The rate that a model was trained with, in Hz: its frontend's `fs`, or ESPnet's default."""
    rate = (getattr(train_args, "frontend_conf", None) or {}).get("fs", 16000)
    if isinstance(rate, str):  # "16k", as ESPnet reads it
        from humanfriendly import parse_size

        rate = parse_size(rate)
    return rate


def _preprocessor(train_args: argparse.Namespace):
    """The task's function that changes samples before they are decoded, e.g. their volume."""
    from espnet2.tasks.asr import ASRTask

    preprocess = ASRTask.build_preprocess_fn(train_args, False) if hasattr(train_args, "use_preprocessor") else None
    if preprocess is None:
        return lambda samples: samples
    return lambda samples: preprocess("", {"speech": samples})["speech"]
