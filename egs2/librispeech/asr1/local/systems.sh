# What this recipe's run.sh shares with that of egs2/librispeech_long: the options that say which systems, how those are
# trained and decoded. Sourced by them as utils/own_options.sh is; goes on in this recipe's directory.

train_set=train_960
model=conformer
presets=rand_m3_ste_w4
datadir=
expdir=
own+=" train_set model presets"
paths+=" datadir expdir"
. "$(dirname "${BASH_SOURCE[0]}")/../../../TEMPLATE/asr1/utils/own_options.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

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
tune="--max_epoch 15 --optim_conf lr=0.0002 --scheduler_conf warmup_steps=2000"
systems="
float: {train: ${config}}
float_w4: {round: float, options: --quantizer absmax --quantizer_conf bits=4}"
for preset in ${presets}; do
    quantizer="--quantizer_config ${preset}"
    systems+="
${preset}_scratch: {train: ${config}, options: ${quantizer}}
${preset}_tuned: {train: ${config}, from: float, options: ${quantizer} ${tune}}"
done
