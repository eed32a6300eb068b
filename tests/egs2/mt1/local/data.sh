#!/usr/bin/env bash
set -euo pipefail
for name in train dev test; do
    mkdir -p "data/${name}"
    printf 'u%s ab\n' 0 1 2 3 > "data/${name}/text.src"
    tr ab AB < "data/${name}/text.src" > "data/${name}/text"
done
