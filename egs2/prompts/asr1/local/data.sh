#!/usr/bin/env bash
# Gets Debian's asterisk-core-sounds of each language and makes ${datadir}/{train,dev,test} of them; of several languages,
# a test set each: test_en, test_fr ...
set -euo pipefail
cd "$(dirname "$0")/.."

datadir=data
languages=en  # one or more of en, fr, es, it, ru, with commas between them
source_dir=   # a folder that has the recordings already, at any depth
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ../../TEMPLATE/asr1/utils/debian.sh
. ./path.sh

if [ -z "${source_dir}" ]; then
    source_dir=downloads/prompts
    for language in ${languages//,/ }; do
        folder=${source_dir}
        [ "${language}" = en ] || folder+=/${language}
        package=asterisk-core-sounds-${language}
        unpack_debian "${folder}" --source_dir "${package}" "${package}-g722"
    done
fi
# shellcheck disable=SC2086
python local/prepare_prompts.py "${source_dir}" "${datadir}" --languages ${languages//,/ }
