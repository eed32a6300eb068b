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

librispeech_long=
own=
paths=librispeech_long
script=asr1/asr_long.sh
local=$(cd "$(dirname "$0")" && pwd)/local
. "$(dirname "$0")/../../librispeech/asr1/local/systems.sh"
. ./path.sh
if [ "${use_streaming}" = true ]; then
    echo "$0: the streaming model is not decoded here: espnet2.bin.asr_inference_streaming takes recordings as they are" >&2
    exit 1
fi

further=
if [ -n "${librispeech_long}" ]; then
    python3 "${local}/prepare_long.py" --librispeech_long "${librispeech_long}" \
        --output_dir "${datadir}"
    further=$(printf 'librispeech_long_%s ' dev_clean dev_other test_clean test_other)
fi

../../TEMPLATE/asr1/asr_long.sh \
    --datadir "${datadir}" \
    --expdir "${expdir}/${model}" \
    --systems "${systems}" \
    --test_sets "dev_clean dev_other test_clean test_other" \
    --further_sets "${further}" \
    --by chapter \
    --inference_config "${inference_config}" \
    --inference_model "${inference_model}" \
    "${options[@]}"
