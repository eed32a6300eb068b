#!/usr/bin/env bash
# Gets LibriSpeech and makes ${datadir}/{train_*,dev,dev_clean,dev_other,test_clean,test_other} of it.
set -euo pipefail

datadir=data
train_set=train_960   # train_960, train_clean_100
librispeech=          # a copy of LibriSpeech: the folder that holds dev-clean and so on; default: download it
downloads=downloads   # where to download to
base_url=https://www.openslr.org/resources
lm_text=false         # download the text for language models too: ${datadir}/lm/text
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ./path.sh

download() {
    python3 local/download.py --downloads "${downloads}" --base_url "${base_url}" "$@"
}

if [ -z "${librispeech}" ]; then
    download --train_set "${train_set}"
    librispeech=${downloads}/LibriSpeech
fi
if [ "${lm_text}" = true ]; then
    download --lm_text
fi
python3 local/prepare.py --librispeech "${librispeech}" --datadir "${datadir}" --train_set "${train_set}" \
    $([ "${lm_text}" = false ] || echo --lm_text "${downloads}/librispeech-lm-norm.txt.gz")
