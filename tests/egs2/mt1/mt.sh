#!/usr/bin/env bash
# The stages of a translation recipe, as short as they can be: text.src into text, in characters. tests/egs2/test_mt.py
# puts this script where TEMPLATE/mt1 would be, and the rest of this folder where a recipe would be.

set -euo pipefail

# Training, decoding
mt_args=             # training options for all systems
inference_config=conf/decode_mt.yaml

template=$(cd "$(dirname "$0")" && pwd)
task=mt
inputs=text.src,src_text,text
outputs=text,text,text
scorer=local/exact.py
modules=
decoding_step="decoder input length: "
. "${template}/utils/stages.sh"

source_tokens=${datadir}/token_list/source
target_tokens=${datadir}/token_list/target
token_options="--token_type char --token_list ${target_tokens}/tokens.txt \
--src_token_type char --src_token_list ${source_tokens}/tokens.txt"
stats=${datadir}/stats
train_args=${mt_args}

if selected 1; then
    prepare_data
fi
if selected 2; then
    list=$(
        token_job char "${datadir}/${train_set}/text.src" "${source_tokens}"
        token_job char "${datadir}/${train_set}/text" "${target_tokens}"
    )
    run_jobs tokens "${list}"
fi
if selected 3; then
    collect_data_stats 16
fi
if selected 4; then
    train_systems
fi
if selected 5; then
    pack_systems
fi
if selected 6; then
    decode_systems
fi
if selected 7; then
    score_systems
fi
