#!/usr/bin/env bash
# LibriSpeech: a float model, its rounding to 4 bits, RAND from scratch and fine-tuned from the float model.
#
#   --librispeech DIR   a copy of LibriSpeech (the folder that holds dev-clean and so on); default: download it
#   --downloads DIR     where to download to; default: downloads here
#   --base_url URL      where to download from; default: https://www.openslr.org/resources
#   --train_set NAME    train_960 (default), train_clean_100
#   --model NAME        conformer (default), e_branchformer, transducer, streaming_conformer, transformer
#   --presets "..."     the quantized systems: files of conf/ at the top of the repository (default: rand_m3_ste_w4)
#   --use_lm true       train a transformer language model and decode with it; default: false
#
# Further options are those of asr.sh:

set -euo pipefail

librispeech=
downloads=
base_url=https://www.openslr.org/resources
train_set=train_960
model=conformer
presets=rand_m3_ste_w4
use_lm=false
datadir=
expdir=
own="librispeech downloads base_url train_set model presets use_lm datadir expdir"
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"

if [ -n "${librispeech}" ]; then
    if [ ! -d "${librispeech}" ]; then
        echo "$0: --librispeech: there is no folder ${librispeech}" >&2
        exit 1
    fi
    librispeech=$(realpath "${librispeech}")
fi
for path in downloads datadir expdir; do
    [ -z "${!path}" ] || printf -v "${path}" '%s' "$(realpath -m "${!path}")"
done
cd "$(dirname "$0")"
downloads=${downloads:-downloads}

config=conf/train_asr_${model}.yaml
inference_config=conf/decode_asr.yaml
inference_model=valid.acc.ave.pth
use_streaming=false
case ${model} in
    conformer | e_branchformer | transformer) ;;
    transducer)
        inference_config=conf/decode_asr_transducer.yaml
        inference_model=valid.loss.ave.pth ;;
    streaming_conformer)
        inference_config=conf/decode_asr_streaming.yaml
        use_streaming=true ;;
    *)
        echo "$0: --model must be conformer, e_branchformer, transducer, streaming_conformer or transformer:" \
            "${model}" >&2
        exit 1 ;;
esac

datadir=${datadir:-data/${train_set}}
expdir=${expdir:-exp/${train_set}}
local_data_opts="--datadir ${datadir} --train_set ${train_set} --downloads ${downloads} \
--base_url ${base_url} --lm_text ${use_lm}"
[ -z "${librispeech}" ] || local_data_opts+=" --librispeech ${librispeech}"
tune="--max_epoch 15 --optim_conf lr=0.0002 --scheduler_conf warmup_steps=2000"
systems="
float     train  ${config}  -
float_w4  round  -          float  --quantizer absmax --quantizer_conf bits=4"
for preset in ${presets}; do
    quantizer="--quantizer_config ../../../conf/${preset}.yaml"
    systems+="
${preset}_scratch  train  ${config}  -      ${quantizer}
${preset}_tuned    train  ${config}  float  ${quantizer} ${tune}"
done

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
