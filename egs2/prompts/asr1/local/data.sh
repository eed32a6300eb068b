#!/usr/bin/env bash
# Gets Debian's asterisk-core-sounds-en and makes ${datadir}/{train,dev,test} of it.
set -euo pipefail
cd "$(dirname "$0")/.."

datadir=data
source_dir=   # a folder that has the recordings already, at any depth
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ../../TEMPLATE/asr1/utils/debian.sh
. ./path.sh

if [ -z "${source_dir}" ]; then
    source_dir=downloads/prompts
    unpack_debian "${source_dir}" --source_dir asterisk-core-sounds-en asterisk-core-sounds-en-g722
fi
python local/prepare_prompts.py "${source_dir}" "${datadir}"
