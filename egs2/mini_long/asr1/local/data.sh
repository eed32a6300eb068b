#!/usr/bin/env bash
# Makes a corpus as that of egs2/mini/asr1, with noise around the words and more to test on:
# ${datadir}/{train,dev,test}.
set -euo pipefail

datadir=data
corpus_size=long     # long, tiny
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ./path.sh

python3 ../../mini/asr1/local/make_corpus.py --data_dir "${datadir}" --size "${corpus_size}"
