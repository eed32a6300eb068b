#!/usr/bin/env bash
# Connected digits in noise, spoken by espeak-ng: a float model, its rounding to
# 4, 3 and 2 bits, and its fine-tuning with RAND at the same precisions.
# Nothing is downloaded. Options: those of asr.sh (./run.sh --help), after
# --corpus_size tiny, which only shows that all stages run.
set -euo pipefail
cd "$(dirname "$0")"

corpus_size=full
precisions="4 3 2"
granularities="channel tensor"
asr_args=
if [ "${1:-}" = --corpus_size ]; then
    corpus_size=${2:?it must be full or tiny}
    shift 2
fi
if [ "${corpus_size}" = tiny ]; then
    precisions=4
    granularities=channel
    asr_args="--max_epoch 1"
fi

train="train conf/train_asr.yaml"
tune="--max_epoch 3 --optim_conf lr=0.001 --scheduler_conf warmup_steps=50"
rand="--quantizer_config ../../../conf/rand_m3_ste_w4.yaml"
systems="
    float ${train} -
    float_tuned ${train} float ${tune}"
for bits in ${precisions}; do
    for granularity in ${granularities}; do
        conf="--quantizer_conf bits=${bits} --quantizer_conf granularity=${granularity}"
        systems+="
            round_w${bits}_${granularity} round - float --quantizer absmax ${conf}
            rand_w${bits}_${granularity} ${train} float ${rand} ${conf} ${tune}"
    done
done

../../TEMPLATE/asr1/asr.sh \
    --local_data_opts "--datadir data/${corpus_size} --corpus_size ${corpus_size}" \
    --datadir "data/${corpus_size}" \
    --expdir "exp/${corpus_size}" \
    --systems "${systems}" \
    --asr_args "${asr_args}" \
    "$@"
