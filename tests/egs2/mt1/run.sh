#!/usr/bin/env bash
# Letters into capitals.
set -euo pipefail
cd "$(dirname "$0")"
../../TEMPLATE/mt1/mt.sh --systems "
float: {train: conf/train_mt.yaml}
float_w4: {round: float, options: --quantizer absmax --quantizer_conf bits=4}" "$@"
