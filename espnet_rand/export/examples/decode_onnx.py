"""Decode WAV files with what espnet_rand.bin.export_onnx wrote, by numpy and onnxruntime alone.

    python decode.py recording.wav ... [--model FOLDER] [--beam 8] [--nbest 3]

Prints a line for each recording: the file, a tab, the text. With --nbest it prints others below, with their
log-probabilities. CTC is searched by prefixes, with a beam of 1 greedily. Transducers, and attention decoders of models
without CTC, are searched greedily.
"""

import argparse
import math
import os
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime


class Model:
    """The files of a folder: `sessions` by their names, `about` the metadata, `tokens`."""

    def __init__(self, folder, threads=1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            path.stem: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in sorted(Path(folder).glob("*.onnx"))
        }
        metadata = {name: session.get_modelmeta().custom_metadata_map for name, session in self.sessions.items()}
        if len({about["packed_file_sha256"] for about in metadata.values()}) != 1:
            raise SystemExit(f"{folder}: its files are of several models")
        self.about = metadata["model"]
        lines = (Path(folder) / "tokens.txt").read_text(encoding="utf-8").splitlines()
        self.tokens = [line.rpartition(" ")[0] for line in lines]
        self.blank, self.sos, self.eos = (int(self.about[f"{name}_id"]) for name in ("blank", "sos", "eos"))

    def run(self, name, **inputs):
        """The outputs of a file, by their names."""
        session = self.sessions[name]
        return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs)))

    def text(self, ids):
        """Tokens as text: of letters, of pieces of words, or of words."""
        if any("\N{LOWER ONE EIGHTH BLOCK}" in token for token in self.tokens):
            return "".join(self.tokens[i] for i in ids).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip()
        words = any(len(token) > 1 and not token.startswith("<") for token in self.tokens)
        return (" " if words else "").join(self.tokens[i].replace("<space>", " ") for i in ids)


def read(path, rate):
    """Samples of a WAV file of 16 bits, (1, samples), from -1 to 1."""
    try:
        with wave.open(str(path)) as file:
            form, frames = (file.getframerate(), file.getsampwidth(), file.getnchannels()), file.readframes(-1)
    except (OSError, EOFError, wave.Error) as e:
        raise SystemExit(f"{path}: {e}. Fix: give a WAV file of 16 bits") from None
    if form != (rate, 2, 1):
        raise SystemExit(f"{path}: it must have one channel of 16 bits at {rate} Hz")
    return np.frombuffer(frames, dtype="<i2").astype(np.float32)[None] / 32768


def ctc_greedy(log_probs, blank=0):
    """The tokens of the best path through log-probabilities (frames, tokens)."""
    best = log_probs.argmax(1)
    changes = np.append(True, best[1:] != best[:-1])
    return [int(token) for token in best[changes] if token != blank]


def ctc_search(log_probs, beam=8, blank=0):
    """The most probable sequences, best first, with the log-probabilities of all their paths through (frames, tokens).

    Of each prefix there are two sums: of paths that end with blank, and of those that end with its last token.
    """
    prefixes = {(): (0.0, -math.inf)}
    for frame in log_probs:
        grown = defaultdict(lambda: (-math.inf, -math.inf))
        likely = [int(token) for token in np.argsort(-frame)[: beam + 1] if token != blank]
        for prefix, (ended, open_) in prefixes.items():
            both = np.logaddexp(ended, open_)
            _add(grown, prefix, both + frame[blank], -math.inf)
            if prefix:
                _add(grown, prefix, -math.inf, open_ + frame[prefix[-1]])
            for token in likely:
                before = ended if prefix and token == prefix[-1] else both
                _add(grown, (*prefix, token), -math.inf, before + frame[token])
        possible = [item for item in grown.items() if max(item[1]) > -math.inf]
        prefixes = dict(sorted(possible, key=lambda item: -np.logaddexp(*item[1]))[:beam])
    return [(list(prefix), float(np.logaddexp(*sums))) for prefix, sums in prefixes.items()]


def _add(grown, prefix, ended, open_):
    sums = grown[prefix]
    grown[prefix] = (np.logaddexp(sums[0], ended), np.logaddexp(sums[1], open_))


def transducer_greedy(model, encoded, most=10):
    """The best token of each frame (1, frames, dimensions) until it is blank, but no more than `most` of a frame."""
    inputs = model.sessions["prediction"].get_inputs()
    states = {entry.name: np.zeros(entry.shape, np.float32) for entry in inputs if entry.name != "token"}

    def predict(token, states):
        outputs = model.run("prediction", token=np.array([[token]]), **states)
        return outputs.pop("predicted"), {name.removeprefix("next_"): state for name, state in outputs.items()}

    predicted, states = predict(model.blank, states)
    ids = []
    for frame in range(encoded.shape[1]):
        for _ in range(most):
            scores = model.run("joint", encoded=encoded[:, frame], predicted=predicted)["log_probs"]
            token = int(scores.argmax())
            if token == model.blank:
                break
            ids.append(token)
            predicted, states = predict(token, states)
    return ids


def attention_greedy(model, speech_keys, speech_values):
    """The best token after each other, until the end, or until there are as many as frames."""
    layers, heads, frames, dimensions = speech_keys.shape
    keys = values = np.zeros((layers, heads, 0, dimensions), np.float32)
    ids = [model.sos]
    while len(ids) <= frames:
        past = {"keys": keys, "values": values, "speech_keys": speech_keys, "speech_values": speech_values}
        outputs = model.run("decoder", token=np.array([[ids[-1]]]), **past)
        keys, values = outputs["next_keys"], outputs["next_values"]
        token = int(outputs["log_probs"].argmax())
        if token == model.eos:
            break
        ids.append(token)
    return ids[1:]


def decode(model, samples, beam=1):
    """Hypotheses for samples (1, samples), best first: whose it is, tokens, log-probability where it is known."""
    if samples.shape[1] < int(model.about["shortest"]):
        return [("too short", [], None)]
    if model.sessions["model"].get_inputs()[0].name != "speech":
        raise SystemExit("the model takes features, which this example does not compute")
    heard = model.run("model", speech=samples)
    if "prediction" in model.sessions:
        return [("transducer", transducer_greedy(model, heard["encoded"]), None)]
    found = []
    if "log_probs" in heard:
        log_probs = heard["log_probs"][0]
        if beam == 1:
            found.append(("ctc", ctc_greedy(log_probs, model.blank), None))
        else:
            found += [("ctc", ids, score) for ids, score in ctc_search(log_probs, beam, model.blank)]
    if "decoder" in model.sessions:
        found.append(("attention", attention_greedy(model, heard["speech_keys"], heard["speech_values"]), None))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wav", nargs="*")
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parent / "model", help="the folder")
    parser.add_argument("--beam", type=int, default=8, help="prefixes that CTC's search keeps; 1: greedy")
    parser.add_argument(
        "--nbest", type=int, default=1, help="hypotheses of CTC that are printed, with log-probabilities"
    )
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 1)))
    args = parser.parse_args()
    model = Model(args.model, args.threads)
    for path in args.wav:
        hypotheses = decode(model, read(path, int(model.about["sample_rate"])), args.beam)
        print(path, model.text(hypotheses[0][1]), sep="\t", flush=True)
        others = [one for one in hypotheses if one[0] != "ctc"]
        for kind, ids, score in [*hypotheses[: args.nbest], *others] if args.nbest > 1 else []:
            print(f"  {kind}", "" if score is None else f"{score:.2f}", model.text(ids), sep="\t")


if __name__ == "__main__":
    main()
