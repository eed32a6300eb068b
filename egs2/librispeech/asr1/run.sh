#!/usr/bin/env bash
# LibriSpeech: a float model, its rounding to 4 bits, RAND from scratch and fine-tuned from the float model.
#
#   --librispeech DIR   a copy of LibriSpeech (the folder that holds dev-clean and so on); default: download it
#   --downloads DIR     where to download to; default: downloads here
#   --base_url URL      where to download from; default: https://www.openslr.org/resources
#   --train_set NAME    train_960 (default), train_clean_100
#   --model NAME        conformer (default), e_branchformer, transducer, streaming_conformer, transformer
#   --presets "..."     the quantized systems, by the presets of the repository (default: rand_m3_ste_w4)
#   --use_lm true       train a transformer language model and decode with it; default: false
#   --datadir DIR, --expdir DIR  default: data/<train set>, exp/<train set> here; models go to <expdir>/<model>
#
# Further options are those of asr.sh:

set -euo pipefail

librispeech=
downloads=
base_url=https://www.openslr.org/resources
use_lm=false
own="base_url use_lm"
paths="librispeech downloads"
. "$(dirname "$0")/local/systems.sh"

if [ -n "${librispeech}" ] && [ ! -d "${librispeech}" ]; then
    echo "$0: --librispeech: there is no folder ${librispeech}" >&2
    exit 1
fi
local_data_opts="--datadir ${datadir} --train_set ${train_set} --downloads ${downloads:-downloads} \
--base_url ${base_url} --lm_text ${use_lm}"
[ -z "${librispeech}" ] || local_data_opts+=" --librispeech ${librispeech}"

../../TEMPLATE/asr1/asr.sh \
    --local_data_opts "${local_data_opts}" \
    --datadir "${datadir}" \
    --expdir "${expdir}/${model}" \
    --train_set "${train_set}" \
    --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --token_type bpe \
    --nbpe 5000 \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --systems "${systems}" \
    --use_lm "${use_lm}" \
    --lm_train_text "${datadir}/${train_set}/text ${datadir}/lm/text" \
    --lm_exp "${expdir}/lm" \
    --use_streaming "${use_streaming}" \
    --inference_config "${inference_config}" \
    --inference_model "${inference_model}" \
    "${options[@]}"
