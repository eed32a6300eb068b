#!/usr/bin/env bash
# Gets Debian's flight-of-the-amazon-queen and makes ${datadir}/{train,dev,test} of its dialogues.
set -euo pipefail
cd "$(dirname "$0")/.."

datadir=data
source_dir=   # a folder that has the game's queen.1c already, at any depth
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ../../TEMPLATE/asr1/utils/debian.sh
. ./path.sh

if [ -z "${source_dir}" ]; then
    source_dir=downloads/game
    unpack_debian "${source_dir}" --source_dir flight-of-the-amazon-queen
fi
python local/prepare_game.py "${source_dir}" "${datadir}"
