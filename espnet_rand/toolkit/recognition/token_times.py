"""Finds when the tokens of a hypothesis are said: the best path of a model through them."""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from espnet_rand.context import last_outputs

Spans = List[Tuple[int, int]]

# frames times tokens of a transducer's lattice, each an evaluation of its joint network: two minutes of speech or so
_LARGEST_LATTICE = 1_500_000
# values of the joint network's output at a time
_BLOCK = 10_000_000
# frames of 20 ms that attention is smoothed over (medfilt_width of OpenAI's whisper/timing.py)
_SMOOTHED = 7
# the score of a frame without any token: no path takes one
_NEVER = -1e4


def ctc_frames(log_probs: Tensor, tokens: List[int], blank: int) -> Optional[Spans]:
    """Find the first frame of each token, and the frame after its last, on the best path of CTC (Graves, 2006).

    Args:
        log_probs: (frames, classes)
        tokens: without blanks

    Returns:
        None: the tokens do not fit into the frames
    """
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:]))
    if len(tokens) + repeats > len(log_probs):
        return None
    targets = torch.tensor([tokens], device=log_probs.device)
    path, scores = forced_align(log_probs[None].float(), targets, blank=blank)
    return [(span.start, span.end) for span in merge_tokens(path[0], scores[0], blank=blank)]


def ctc_best_path(log_probs: Tensor, blank: int) -> Tuple[List[int], Spans]:
    """Take the best class of each frame, and merge repetitions (Graves, 2006, best path decoding).

    Args:
        log_probs: (frames, classes)

    Returns:
        tokens without blanks; the first frame of each, and the frame after its last
    """
    classes, counts = log_probs.argmax(-1).unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    spoken = classes != blank
    starts, ends = (ends - counts)[spoken].tolist(), ends[spoken].tolist()
    return classes[spoken].tolist(), list(zip(starts, ends))


def transducer_frames(joint: Any, decoder: Any, encoded: Tensor, tokens: List[int], blank: int) -> Optional[Spans]:
    """Find the frame in which each token is emitted, on the best path of a transducer (Graves, 2012).

    Args:
        joint, decoder: the networks of ESPnet's transducers
        encoded: (1, frames, values)
        tokens: without blanks

    Returns:
        each frame, and the one after it; None: the lattice is too large
    """
    frames, count = encoded.size(1), len(tokens)
    if frames * (count + 1) > _LARGEST_LATTICE:
        return None
    labels = torch.tensor([[blank, *tokens]], device=encoded.device)
    if hasattr(decoder, "set_device"):
        decoder.set_device(encoded.device)
    decoded = decoder(labels)[:, None]
    stays, emits = [], []
    chunk = 1
    start = 0
    while start < frames:
        logits = joint(encoded[:, start : start + chunk, None], decoded)
        log_probs = logits[0].float().log_softmax(-1)
        stays.append(log_probs[:, :, blank])
        emits.append(log_probs[:, torch.arange(count), labels[0, 1:]])
        start += chunk
        chunk = max(1, _BLOCK // ((count + 1) * logits.size(-1)))
    stay, emit = torch.cat(stays).cpu(), torch.cat(emits).cpu()
    # entered[u]: score of the best path to a frame with u tokens; came[t, u]: the tokens with which it entered frame t
    came = torch.empty(frames, count + 1, dtype=torch.long)
    entered = torch.full((count + 1,), -torch.inf)
    entered[0] = 0.0
    for t in range(frames):
        emitted = torch.nn.functional.pad(emit[t].cumsum(0), (1, 0))
        best, came[t] = (entered - emitted).cummax(0)
        entered = best + emitted + stay[t]
    spans: Spans = []
    u = count
    for t in reversed(range(frames)):
        spans += [(t, t + 1)] * (u - int(came[t, u]))
        u = int(came[t, u])
    return spans[::-1]


@torch.no_grad()
def whisper_frames(decoder: Any, encoded: Tensor, primer: List[int], tokens: List[int]) -> Optional[Spans]:
    """Find the frames that Whisper's decoder attends to when it says each token.

    As OpenAI's whisper/timing.py does: the cross attention of the decoder's later half, over all heads (its choice for
    models that it does not know), each frame relative to what the other tokens attend to. Then the best path through
    it. Each token has one frame or more; a pause counts as part of the word before it.

    Args:
        decoder: ESPnet's OpenAIWhisperDecoder
        encoded: (1, frames, values), those of the recording alone, without silence behind it
        primer: what stands before the first token of the text

    Returns:
        None: the tokens do not fit into the frames, or into the decoder
    """
    text = decoder.decoders
    if len(primer) + len(tokens) > len(text.positional_embedding):
        return None
    attended = [block.cross_attn for block in text.blocks[len(text.blocks) // 2 :]]
    with last_outputs(*(layer for one in attended for layer in (one.query, one.key))) as outputs:
        text(torch.tensor([[*primer, *tokens]], device=encoded.device), encoded)
    scores = torch.cat(
        [_attention(outputs[one.query][0, len(primer) - 1 :], outputs[one.key][0], one.n_head) for one in attended]
    )
    deviation, mean = torch.std_mean(scores, dim=1, keepdim=True, unbiased=False)
    scores = (scores - mean) / deviation.clamp(min=torch.finfo(torch.float32).tiny)  # 0: where all tokens attend alike
    scores = torch.nn.functional.pad(scores, (_SMOOTHED // 2,) * 2, mode="replicate")
    scores = scores.unfold(-1, _SMOOTHED, 1).median(-1).values.mean(0)  # (tokens and eos, frames)
    path = torch.nn.functional.pad(scores, (0, 0, 0, 1), value=_NEVER).T.contiguous()
    spans = ctc_frames(path, [*range(len(tokens) + 1)], blank=len(tokens) + 1)
    return spans[:-1] if spans is not None and len(spans) == len(tokens) + 1 else None


def _attention(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The weights of an attention, (heads, tokens, frames), of (tokens, values) and (frames, values)."""
    q, k = (x.float().view(len(x), heads, -1).transpose(0, 1) for x in (queries, keys))
    return (q @ k.transpose(1, 2) / q.size(-1) ** 0.5).softmax(-1)
