#!/usr/bin/env bash
# Connected digits in noise, spoken by espeak-ng: a float model, its rounding to
# 4, 3 and 2 bits, and its fine-tuning with RAND at the same precisions.
# Nothing is downloaded.
#
#   --corpus_size tiny  only shows that all stages run
#   --curve true        instead: size against word error rate, one model at many precisions beside models of one
#   --asr_args "..."    training options for all systems
#   --datadir DIR, --expdir DIR  default: data/<corpus size>, exp/<corpus size> here
#
# Further options are those of asr.sh:

set -euo pipefail

corpus_size=full
curve=false
asr_args=
datadir=
expdir=
own="corpus_size curve asr_args"
paths="datadir expdir"
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"
cd "$(dirname "$0")"

datadir=${datadir:-data/${corpus_size}}
precisions="4 3 2"
granularities="channel tensor"
few=()
plan_args=
if [ "${corpus_size}" = tiny ]; then
    precisions=4
    granularities=channel
    asr_args="--max_epoch 1 ${asr_args}"
    few=(--seeds 1 --bits 2 --single_bits "" --average_bits 3.5)
    plan_args="--num_utterances 4"
fi

config=conf/train_asr.yaml
tune="--max_epoch 3 --optim_conf lr=0.001 --scheduler_conf warmup_steps=50"
rand="--quantizer_config rand_m3_ste_w4"
systems="
float: {train: ${config}}
float_tuned: {train: ${config}, from: float, options: ${tune}}"
for bits in ${precisions}; do
    for granularity in ${granularities}; do
        conf="--quantizer_conf bits=${bits} --quantizer_conf granularity=${granularity}"
        systems+="
round_w${bits}_${granularity}: {round: float, options: --quantizer absmax ${conf}}
rand_w${bits}_${granularity}: {train: ${config}, from: float, options: ${rand} ${conf} ${tune}}"
    done
done

stages=(../../TEMPLATE/asr1/asr.sh --systems "${systems}")
if [ "${curve}" = true ]; then
    data="--data_path_and_name_and_type ${datadir}/train"
    stages=(../../TEMPLATE/asr1/curve.sh --float "train ${config}" --tune "${config} float ${tune}" "${few[@]}"
        --plan_args "${data}/wav.scp,speech,sound ${data}/text,text,text ${plan_args}")
fi
"${stages[@]}" \
    --local_data_opts "--datadir ${datadir} --corpus_size ${corpus_size}" \
    --datadir "${datadir}" \
    --expdir "${expdir:-exp/${corpus_size}}" \
    --asr_args "${asr_args}" \
    "${options[@]}"
