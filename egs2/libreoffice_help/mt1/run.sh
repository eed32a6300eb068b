#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh
../../TEMPLATE/mt1/mt.sh --systems "float: {train: conf/train_mt.yaml}" --python "espnet-rand --import small_embeddings" "$@"
