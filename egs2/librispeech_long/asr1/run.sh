#!/usr/bin/env bash
# Long recordings of LibriSpeech, decoded with the models that egs2/librispeech/asr1 trained: chapters of its dev and
# test parts, and stretches of 30 seconds to 10 minutes of them. Runs in that recipe's directory.
#
#   --train_set NAME     as given to that recipe: train_960 (default), train_clean_100
#   --model NAME         as given to that recipe: conformer (default), transducer ...
#   --presets "..."      as given to that recipe: the quantized systems (default: rand_m3_ste_w4)
#   --datadir DIR, --expdir DIR  as given to that recipe; default: its data/<train set>, exp/<train set>
#   --librispeech_long DIR  decode the published LibriSpeech-Long, too: the folder that holds dev-clean and so on
#
# Further options are those of asr_long.sh:

set -euo pipefail

train_set=train_960
model=conformer
presets=rand_m3_ste_w4
datadir=
expdir=
librispeech_long=
own="train_set model presets datadir expdir librispeech_long"
script=asr_long.sh
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"
for path in datadir expdir librispeech_long; do
    [ -z "${!path}" ] || printf -v "${path}" '%s' "$(realpath -m "${!path}")"
done
local=$(cd "$(dirname "$0")" && pwd)/local
cd "$(dirname "$0")/../../librispeech/asr1"
. ./path.sh

datadir=${datadir:-data/${train_set}}
expdir=${expdir:-exp/${train_set}}/${model}
inference_config=conf/decode_asr.yaml
inference_model=valid.acc.ave.pth
if [ "${model}" = transducer ]; then
    inference_config=conf/decode_asr_transducer.yaml
    inference_model=valid.loss.ave.pth
elif [ "${model}" = streaming_conformer ]; then
    echo "$0: the streaming model is not decoded here: espnet2.bin.asr_inference_streaming takes recordings as they are" >&2
    exit 1
fi

further=
if [ -n "${librispeech_long}" ]; then
    python3 "${local}/prepare_long.py" --librispeech_long "${librispeech_long}" \
        --output_dir "${datadir}"
    further=$(printf 'librispeech_long_%s ' dev_clean dev_other test_clean test_other)
fi

systems="float train - -"$'\n'"float_w4 round - float"
for preset in ${presets}; do
    systems+=$'\n'"${preset}_scratch train - -"$'\n'"${preset}_tuned train - float"
done
../../TEMPLATE/asr1/asr_long.sh \
    --datadir "${datadir}" \
    --expdir "${expdir}" \
    --systems "${systems}" \
    --test_sets "dev_clean dev_other test_clean test_other" \
    --further_sets "${further}" \
    --by chapter \
    --inference_config "${inference_config}" \
    --inference_model "${inference_model}" \
    "${options[@]}"
