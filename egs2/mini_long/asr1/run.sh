#!/usr/bin/env bash
# Models trained on connected digits of 2 seconds, decoded on minutes of them: float, float with the usual
# regularizers, straight-through, noise without gradient to the scale, RAND; each fine-tuned from one float model, or
# trained from the start.
#
#   --model ctc          what decodes: ctc, transducer (an LSTM) or attention (an LSTM), these with CTC beside them in
#                        training
#   --corpus_size tiny   only shows that all stages run, with one seed, 4 bits and 10 and 20 seconds
#   --seeds "1 2 3"      runs of each system
#   --precisions "4 8"   bits of what is quantized
#   --durations "utterance 30 60 120 300 600"  seconds of the long recordings, and the short ones as they are
#   --scratch true       instead of fine-tuning: each system is trained from the start, as float is; the names end in
#                        _scratch
#   --methods "..."      of weight_decay dropout ste pqn noise rand_m1 rand_m2 rand_m3; default: all
#   --stage, --stop_stage  1 to 5 of asr.sh (training, packing), 8 to 10 of asr_long.sh (decoding)
#   --modes "windows whole", --window 10, --overlap 3  of asr_long.sh
#   --datadir DIR, --expdir DIR  default: data/<corpus size>, exp/<corpus size> here, of other models with _<model> behind
#   --nj N, --ngpu N, --python ..., --inference_model ...  of both
#   --asr_args "..."     training options for all systems
#   --inference_config FILE, --inference_args "..."  of asr_long.sh
#
# Further options are those of asr.sh's stages 1 to 5:

set -euo pipefail

corpus_size=long
model=ctc
seeds=
precisions=
durations=
scratch=false
methods="weight_decay dropout ste pqn noise rand_m1 rand_m2 rand_m3"
stage=1
stop_stage=10
nj=2
ngpu=0
python=espnet-rand
inference_model=valid.loss.ave.pth
modes="windows whole"
window=10
overlap=3
asr_args=
inference_args=
inference_config=
datadir=
expdir=
own="corpus_size model seeds precisions durations scratch methods modes window overlap"
own+=" stage stop_stage nj ngpu python inference_model asr_args inference_args"
paths="datadir expdir inference_config"
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"
cd "$(dirname "$0")"
datadir=${datadir:-data/${corpus_size}}
network=
case ${model} in
    ctc)
        epochs=8 rate=0.001
        search="--ctc_greedy true" ;;
    transducer)
        epochs=20 rate=0.0005
        network="--decoder transducer --decoder_conf rnn_type=lstm --decoder_conf num_layers=1"
        network+=" --decoder_conf hidden_size=96 --joint_net_conf joint_space_size=128"
        search="--beam_size 1" ;;
    attention)
        epochs=20 rate=0.001
        network="--decoder rnn --decoder_conf rnn_type=lstm --decoder_conf num_layers=1"
        network+=" --decoder_conf hidden_size=128 --model_conf lsm_weight=0.1"
        search="--beam_size 1 --ctc_weight 0.0 --guard false" ;;  # what the model itself says
    *)
        echo "$0: --model must be ctc, transducer or attention: ${model}" >&2
        exit 1 ;;
esac
if [ "${model}" = ctc ]; then
    expdir=${expdir:-exp/${corpus_size}}
else
    expdir=${expdir:-exp/${corpus_size}_${model}}
    asr_args="${network} --model_conf ctc_weight=0.3 ${asr_args}"
fi

nbpe=30
if [ "${corpus_size}" = tiny ]; then
    nbpe=25  # of so few words sentencepiece makes no more
    asr_args="--max_epoch 1 ${asr_args}"
    seeds=${seeds:-1}
    precisions=${precisions:-4}
    durations=${durations:-utterance 10 20}
fi
seeds=${seeds:-1 2 3}
precisions=${precisions:-4 8}
durations=${durations:-utterance 30 60 120 300 600}

config=../../mini/asr1/conf/train_asr.yaml
if [ "${scratch}" = true ]; then
    begin= schedule="--max_epoch ${epochs}" tag=_scratch baseline=float
else
    begin="from: float" schedule="--max_epoch 3 --optim_conf lr=${rate} --scheduler_conf warmup_steps=50"
    tag= baseline=float_tuned
fi
trained() {  # <name> <options>: adds a system of one seed
    systems+="
$1${tag}.${seed}: {train: ${config}, ${begin:+${begin}.${seed}, }options: --seed ${seed} ${schedule} ${*:2}}"
}

systems=
for seed in ${seeds}; do
    systems+="
float.${seed}: {train: ${config}, options: --seed ${seed} --max_epoch ${epochs}}"
    [ "${scratch}" = true ] || trained float_tuned
    for method in ${methods}; do
        case ${method} in
            weight_decay) trained weight_decay --optim_conf weight_decay=0.1 ;;
            dropout) trained dropout --encoder_conf dropout_rate=0.2 ;;
            ste | pqn | noise | rand_m[123]) ;;
            *)
                echo "$0: --methods: there is no ${method}" >&2
                exit 1 ;;
        esac
    done
    for bits in ${precisions}; do
        for method in ${methods}; do
            quantizer="--quantizer_config ${method/rand_m2/rand}_w4 --quantizer_conf bits=${bits}"
            case ${method} in
                ste | pqn | rand_m[123])
                    trained "${method}_w${bits}" ${quantizer} ;;
                noise)
                    # variational noise of the size of pqn's, and no rounding: what pqn trained, in float
                    [[ " ${methods} " == *" pqn "* ]] \
                        || { echo "$0: --methods: noise is pqn's weights, and needs pqn" >&2; exit 1; }
                    systems+="
noise_w${bits}${tag}.${seed}: {float: pqn_w${bits}${tag}.${seed}}" ;;
            esac
        done
    done
done

common=(--datadir "${datadir}" --expdir "${expdir}" --systems "${systems}" --nj "${nj}"
    --ngpu "${ngpu}" --python "${python}" --inference_model "${inference_model}"
    --stage "${stage}" --inference_config "${inference_config:-../../mini/asr1/conf/decode_asr.yaml}")
../../TEMPLATE/asr1/asr.sh "${common[@]}" \
    --stop_stage $((stop_stage < 5 ? stop_stage : 5)) \
    --local_data_opts "--datadir ${datadir} --corpus_size ${corpus_size}" \
    --token_type bpe --nbpe "${nbpe}" \
    --asr_args "${asr_args}" \
    "${options[@]}"
# Voices follow one another, each with the noise around its words as the pause. Windows are a few utterances long, and
# memory suffices for five minutes at once.
../../TEMPLATE/asr1/asr_long.sh "${common[@]}" \
    --stop_stage "${stop_stage}" \
    --baseline ${baseline} \
    --by all \
    --pause 0 \
    --durations "${durations}" \
    --whole_durations "utterance 10 20 30 60 120 300" \
    --modes "${modes}" \
    --window "${window}" \
    --overlap "${overlap}" \
    --inference_args "${search} ${inference_args}"
