#!/usr/bin/env bash
# Makes the corpus: ${datadir}/{train,dev,test} and the recordings in ${datadir}/wav.
set -euo pipefail

datadir=data
corpus_size=full     # full, tiny, long, bench
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ./path.sh

python3 local/make_corpus.py --data_dir "${datadir}" --size "${corpus_size}"
