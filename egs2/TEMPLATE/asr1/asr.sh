#!/usr/bin/env bash
# The stages of speech recognition recipes: 1 data, 2 tokens, 3 statistics, 4 training (with the language model's),
# 5 packing (and shipping), 6 decoding, 7 scoring. A recipe's run.sh calls this script in its own directory, with its options and a
# list of systems.
#
# Finished jobs are skipped, an interrupted training goes on where it was; to redo something, remove its directory.
# Packed and decoded files are renewed when a file that they are made of is.

set -euo pipefail

# Tokens and statistics
token_type=char      # char, bpe (sentencepiece), whisper_en, whisper_multilingual
use_lang_prompt=false # whisper_multilingual: each data directory has the file prompt, e.g. "NAME <|fr|> <|transcribe|>"
nbpe=30              # number of tokens of bpe
bpemode=unigram      # unigram, bpe
feats_normalize=global_mvn # global_mvn, none

# Training
asr_args=            # training options for all systems, e.g. "--max_epoch 1"
speed_perturb_factors= # e.g. "0.9 1.0 1.1": each recording is read at one of them, drawn anew in every epoch

# Language model, in float
use_lm=false         # train it and decode with it
lm_config=conf/train_lm.yaml
lm_args=             # more options for its training
lm_train_text=       # Kaldi-style text files; default: that of the training set
lm_exp=              # its directory; default: lm in expdir
inference_lm=valid.loss.ave.pth

# Decoding
use_streaming=false  # decode by espnet2.bin.asr_inference_streaming
inference_config=conf/decode_asr.yaml

# Shipping
ship_to=             # runtimes that packed models are written for and checked with, e.g. "onnx whisper_cpp" (docs/export.md)

template=$(cd "$(dirname "$0")" && pwd)
task=asr
inputs=wav.scp,speech,sound
outputs=text,text,text
scorer=${template}/wer.py
modules=jiwer
decoding_step="speech length: "
. "${template}/utils/stages.sh"

[ "${use_lang_prompt}" = false ] || outputs+=" prompt,prompt,text"  # no output, but what one begins with
text=${datadir}/${train_set}/text
token_name=${token_type}
[ "${token_type}" != bpe ] || token_name=bpe_${bpemode}${nbpe}
token_dir=${datadir}/token_list/${token_name}
tokens=${token_dir}/tokens.txt
token_options="--token_type ${token_type} --token_list ${tokens}"
case ${token_type} in
    bpe) token_options+=" --bpemodel ${token_dir}/bpe.model" ;;
    whisper_*) token_options+=" --bpemodel ${token_type} --use_lang_prompt ${use_lang_prompt}" ;;
esac
stats=${datadir}/stats_${token_name}
train_args=${asr_args}
if [ -n "${speed_perturb_factors}" ]; then
    # a random one of the factors for each recording, by ESPnet's preprocessor; only ratios of rates matter, not the
    # rate itself
    task_options="--preprocessor_conf fs=16000 --preprocessor_conf data_aug_prob=1.0 --preprocessor_conf \
'data_aug_effects=[$(printf '[1,speed_perturb,{"factor":%s}],' ${speed_perturb_factors})]'"
fi
if [ "${feats_normalize}" = global_mvn ]; then
    task_options+=" --normalize global_mvn --normalize_conf stats_file=${stats}/train/feats_stats.npz"
fi
[ "${use_streaming}" = false ] || inference=espnet2.bin.asr_inference_streaming

lm_stats=${datadir}/lm_stats_${token_name}
lm_exp=${lm_exp:-${expdir}/lm}
lm_command="${python} -m espnet2.bin.lm_train ${token_options} \
--train_data_path_and_name_and_type ${lm_stats}/train.txt,text,text \
--valid_data_path_and_name_and_type ${datadir}/${valid_set}/text,text,text"
if [ "${use_lm}" = true ]; then
    tag=_lm
    decode_options=" --lm_train_config ${lm_exp}/config.yaml --lm_file ${lm_exp}/${inference_lm}"
    decode_made_of=("${lm_exp}/${inference_lm}")
fi

options_of_set() {  # <test set>: the tokens that its prompt says
    local file=${datadir}/$1/prompt prompt
    [ "${use_lang_prompt}" = true ] || return 0
    [ -s "${file}" ] || die "${file} is not there: --use_lang_prompt needs it. Remove ${datadir}/data.done and run stage 1"
    prompt=$(cut -d ' ' -f 2- "${file}" | sort -u)
    [ "$(wc -l <<< "${prompt}")" = 1 ] || die "${file} has several prompts: make a test set of each"
    echo " --lang_prompt_token '${prompt}'"
}

asr_token_job() {
    case ${token_type} in
        char | bpe)
            token_job "${token_type}" "${text}" "${token_dir}" "${nbpe}" "${bpemode}" ;;
        whisper_*)
            job "${tokens%.txt}.log" 0 - "${python} -m espnet2.bin.whisper_export_vocabulary --whisper_model ${token_type} \
--output ${tokens}" ;;
        *)
            die "--token_type must be char, bpe, whisper_en or whisper_multilingual: ${token_type}" ;;
    esac
}

join_lm_text() {
    local file texts=${lm_train_text:-${text}}
    [ ! -e "${lm_stats}/train.txt" ] || return 0
    for file in ${texts}; do
        [ -s "${file}" ] || die "${file} is not there: remove ${datadir}/data.done and run stage 1 again"
    done
    mkdir -p "${lm_stats}"
    # shellcheck disable=SC2086
    cat ${texts} > "${lm_stats}/.train.txt"
    mv "${lm_stats}/.train.txt" "${lm_stats}/train.txt"
}

lm_job() {
    [ -e "${lm_stats}/all.done" ] || die "${lm_stats} is not finished: run stage 3 first"
    job "${lm_exp}/train.log" "$(epochs "${lm_config}" "${lm_args}")" - "${launch} ${lm_command} --config ${lm_config} \
--output_dir ${lm_exp} --resume true --train_shape_file ${lm_stats}/train/text_shape \
--valid_shape_file ${lm_stats}/valid/text_shape ${launch_options} ${lm_args}"
}

ship_jobs() {  # <name> <mode> <config> <init> ...
    local dir=${expdir}/$1 data=${datadir}/${test_sets%% *} files target
    [ -e "${dir}/packed.safetensors" ] || return 0  # it stays in float
    files=$(model_files "$1" "$2" "$4") || exit 1
    for target in ${ship_to}; do
        outdated "${dir}/${target}.log" "${dir}/${target}/report.json" "${dir}/packed.safetensors"
        job "${dir}/${target}.log" 0 - "${python} -m espnet_rand.bin.ship ${dir}/packed.safetensors \
--train_config $(awk '{ print $2 }' <<< "${files}") --target ${target} --data ${data}/wav.scp,${data}/text \
--output ${dir}/${target} --min_agreement 0"
    done
}

if selected 1; then
    prepare_data
fi
if selected 2; then
    list=$(asr_token_job)
    run_jobs tokens "${list}"
fi
if selected 3; then
    [ -s "${tokens}" ] || die "${tokens} is not there: run stage 2 first"
    collect_data_stats 16
    if [ "${use_lm}" = true ]; then
        join_lm_text
        collect_stats "language model's statistics" "${lm_stats}" "${lm_stats}/train.txt" \
            "${datadir}/${valid_set}/text" 1000 "${lm_command} --config ${lm_config} ${lm_args}"
    fi
fi
if selected 4; then
    list=
    [ "${use_lm}" = false ] || list=$(lm_job)
    train_systems "${list}"
fi
if selected 5; then
    pack_systems
    if [ -n "${ship_to}" ]; then
        list=$(for_systems ship_jobs)
        run_jobs shipping "${list}"
        for target in ${ship_to}; do
            grep -H "words are those" "${expdir}"/*/"${target}/README.md"
        done
    fi
fi
if selected 6; then
    [ "${use_lm}" = false ] || [ -e "${lm_exp}/train.done" ] || die "${lm_exp} is not finished: run stage 4 first"
    decode_systems
fi
if selected 7; then
    score_systems
fi
