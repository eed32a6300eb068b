#!/usr/bin/env bash
# What one visit of 8 minutes to a machine with an NVIDIA GPU and torch is for: tests, training steps, packed decoding.
# benchmarks/README.md ("On a GPU") says more. Started again, it goes on.
#
#     benchmarks/gpu.sh [--device cuda|cpu] [--output DIR]      # PYTHON=/path/to/python chooses the interpreter

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=${here}/..${PYTHONPATH:+:${PYTHONPATH}}
exec "${PYTHON:-python3}" "${here}/on_gpu/visit.py" "$@"
