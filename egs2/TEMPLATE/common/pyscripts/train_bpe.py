#!/usr/bin/env python3
"""Train a sentencepiece model on Kaldi-style texts, and write ESPnet's list of its tokens."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import sentencepiece

SENTENCES = 10_000_000  # it looks at no more


def sentences(texts: list) -> Iterator[str]:
    """Yield the sentences of all texts."""
    for text in texts:
        with text.open(encoding="utf-8") as lines:
            yield from (line.partition(" ")[2].strip() for line in lines)


def train(texts: list, nbpe: int, bpemode: str, prefix: Path) -> None:
    """Write <prefix>.model and <prefix>.vocab.

    Raises:
        RuntimeError: sentencepiece cannot make this number of tokens of these texts
    """
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(texts),
        model_prefix=str(prefix),
        model_type=bpemode,
        vocab_size=nbpe,
        character_coverage=1.0,
        input_sentence_size=SENTENCES,
        shuffle_input_sentence=True,
    )


def token_list(model: Path) -> list:
    """List the tokens as ESPnet wants them: its own symbols in place of sentencepiece's three."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    own = {processor.unk_id(), processor.bos_id(), processor.eos_id()}
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size()) if i not in own]
    return ["<blank>", "<unk>", *pieces, "<sos/eos>"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="one or more")
    parser.add_argument("--nbpe", type=int, required=True, help="number of tokens")
    parser.add_argument("--bpemode", required=True, choices=["unigram", "bpe", "char", "word"])
    parser.add_argument("--output_dir", type=Path, required=True, help="gets bpe.model, bpe.vocab and tokens.txt")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir) as temporary:
        prefix = Path(temporary) / "bpe"
        try:
            train(args.text, args.nbpe, args.bpemode, prefix)
        except RuntimeError as e:
            reason = " ".join(str(e).split())
            sys.exit(f"train_bpe.py: --nbpe {args.nbpe} does not go with {' '.join(map(str, args.text))}: {reason}")
        tokens = prefix.with_name("tokens.txt")
        tokens.write_text("\n".join(token_list(prefix.with_suffix(".model"))) + "\n", encoding="utf-8")
        for path in (prefix.with_suffix(".model"), prefix.with_suffix(".vocab"), tokens):
            os.replace(path, args.output_dir / path.name)


if __name__ == "__main__":
    main()
