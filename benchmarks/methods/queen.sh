#!/usr/bin/env bash
# What queen is still to say about few bits: grids, rotation and calibration at 4, 3 and 2 bits, three seeds each.
# For a machine with ESPnet and the recipe's data (see NOTES.md, "queen"), best with a GPU:
#
#   benchmarks/methods/queen.sh [--device cuda] [--jobs 4]
#
# It resumes: a line of results/queen.jsonl is never run again. On two CPU cores a taught training takes an hour.

set -euo pipefail

device=cuda
jobs=4
while [ $# -gt 1 ]; do
    case $1 in
        --device) device=$2 ;;
        --jobs) jobs=$2 ;;
        *) break ;;
    esac
    shift 2
done
if [ $# -gt 0 ]; then
    echo "$0: $*: not an option with a value. Fix: --device NAME, --jobs NUMBER" >&2
    exit 2
fi

cd "$(dirname "$0")/../.."
grid() {
    python benchmarks/methods/grid.py --task queen --device "${device}" --jobs "${jobs}" --seeds 1 2 3 "$@"
}

grid --rates 0.00001 --methods float calibrated calibrated_propagated \
    --cells w4.column w4.column_rotated w4.group32 w4.group32_asymmetric w4.group32_asymmetric_rotated \
    w3.group32_asymmetric w3.group32_asymmetric_rotated w2.group32_asymmetric_rotated w2.group32_half_step_rotated
grid --rates 0.00002 --methods rand_m3_ste_taught lsc_clip_taught clip_taught ste_taught --cells \
    w4.group32 w4.group32_asymmetric w3.group32_asymmetric
grid --rates 0.00002 --methods rand_m3_ste_taught_drawn rand_m3_ste_taught_drawn3 --cells w8.group32_asymmetric
grid --rates 0.00002 --methods rand_m3_ste_taught_calibrated rand_m3_ste_taught_propagated --cells \
    w3.group32_asymmetric w3.group32_asymmetric_rotated
grid --rates 0.00005 0.0001 --methods rand_m3_ste_taught_calibrated --cells \
    w2.group32_asymmetric w2.group32_asymmetric_rotated w2.group32_half_step_rotated
