#!/usr/bin/env bash
# The stages that speech recognition recipes share: 1 data, 2 tokens,
# 3 statistics, 4 training (with the language model's), 5 packing, 6 decoding,
# 7 scoring. A recipe's run.sh calls this script in
# its own directory, with its options and a list of systems, one a line:
#
#     NAME  train|teach|dry|float|round|calibrate|pack|plan  CONFIG  INIT  [options ...]
#
# train: train it, from the weights of the system INIT, which is trained (-: from new ones).
# teach: train it from the weights of INIT, to imitate INIT (--teacher).
# dry:   no training: the model as the options build it.
# float: no training: the weights of INIT, which was trained with a quantizer, in float (CONFIG: -).
# round: no training: the weights of INIT, rounded as the options say (CONFIG: -).
# calibrate: no training: the weights of INIT, rounded as the options say by calibrate_weights, on the training
#        set (CONFIG: -; its options are those of the quantizer alone); of a system that was trained with
#        quantization, without options.
# pack:  no training: INIT, which was trained with quantization, at --eval_bits (CONFIG: -).
# plan:  no training, no model: plan files of allocate_bits for INIT, in exp/NAME (CONFIG: -). A system
#        of round or pack whose --eval_bits is one of them names that system as its CONFIG.
# So the float model, its rounding and its RAND fine-tuning are three lines:
#
#     float  train  conf/train_asr.yaml  -
#     round  round  -                    float  --quantizer absmax
#     rand   train  conf/train_asr.yaml  float  --quantizer rand --max_epoch 5
#
# What is quantized is packed, and decoded from its packed file.
#
# Systems named NAME.1, NAME.2 ... are runs of one system (other seeds); they
# share a line of the table of results.
#
# What is finished is skipped, an interrupted training goes on where it was; to
# redo something, remove its directory. What is packed and decoded is renewed
# when what it is made of is.

set -euo pipefail

# General
stage=1              # first stage to run
stop_stage=7         # last stage to run
nj=2                 # processes at a time; on GPUs of this machine, trainings are one at a time
ngpu=0               # GPUs of a training, on each node; decoding takes one of them
num_nodes=1          # nodes of a training (by cuda_cmd of cmd.sh)
python=espnet-rand   # python, or a launcher that behaves like it
datadir=data         # data directories, tokens and statistics
expdir=exp           # models and results

# Data
local_data_opts=     # options for local/data.sh
train_set=train
valid_set=dev
test_sets=test       # one or more

# Tokens and statistics
token_type=char      # char, bpe (sentencepiece), whisper_en
nbpe=30              # number of tokens of bpe
bpemode=unigram      # unigram, bpe
feats_normalize=global_mvn # global_mvn, none

# Training
systems=             # the list: see above
asr_args=            # training options for all systems, e.g. "--max_epoch 1"
speed_perturb_factors= # e.g. "0.9 1.0 1.1": each recording is read at one of them, drawn anew in every epoch

# Language model, in float
use_lm=false         # train it and decode with it
lm_config=conf/train_lm.yaml
lm_args=             # more options for its training
lm_train_text=       # Kaldi-style text files; default: that of the training set
lm_exp=              # its directory; default: lm in expdir

# Decoding, scoring
use_streaming=false  # decode by espnet2.bin.asr_inference_streaming
inference_nj=1       # parts that a test set is decoded in
inference_config=conf/decode_asr.yaml
inference_model=valid.loss.ave.pth
inference_lm=valid.loss.ave.pth
inference_args=      # more options for decoding, e.g. "--ngpu 0"
score_cleaner=none   # text cleaner for reference and hypothesis, e.g. whisper_en
table=RESULTS        # name of the table of results in expdir, without .md

template=$(cd "$(dirname "$0")" && pwd)
. "${template}/utils/jobs.sh"

token_name=${token_type}
[ "${token_type}" != bpe ] || token_name=bpe_${bpemode}${nbpe}
token_dir=${datadir}/token_list/${token_name}
tokens=${token_dir}/tokens.txt
stats=${datadir}/stats_${token_name}
lm_stats=${datadir}/lm_stats_${token_name}
lm_exp=${lm_exp:-${expdir}/lm}
tag=  # of what is decoded
[ "${use_lm}" = false ] || tag=_lm
read -r _ _ first_config _ <<< "$(sed '/^ *$/d' <<< "${systems}")"

# What commands of a kind have in common: tokens, data.
token_options="--token_type ${token_type} --token_list ${tokens}"
case ${token_type} in
    bpe) token_options+=" --bpemodel ${token_dir}/bpe.model" ;;
    whisper_*) token_options+=" --bpemodel ${token_type}" ;;
esac
data_options() {  # <train_|valid_|nothing> <data directory>
    echo "--$1data_path_and_name_and_type $2/wav.scp,speech,sound" \
        "--$1data_path_and_name_and_type $2/text,text,text"
}
asr_command="${python} -m espnet2.bin.asr_train ${token_options} \
$(data_options train_ "${datadir}/${train_set}") $(data_options valid_ "${datadir}/${valid_set}")"
lm_command="${python} -m espnet2.bin.lm_train ${token_options} \
--train_data_path_and_name_and_type ${lm_stats}/train.txt,text,text \
--valid_data_path_and_name_and_type ${datadir}/${valid_set}/text,text,text"

# How a training is started, and how many at a time.
train_nj=${nj}
if [ -n "${cuda_cmd}" ]; then
    launch="${python} -m espnet2.bin.launch --cmd '${cuda_cmd}' --log - --ngpu ${ngpu} \
--num_nodes ${num_nodes} --init_file_prefix ${expdir}/.dist_init_ --"
    launch_options=
else
    [ "${num_nodes}" = 1 ] || die "--num_nodes ${num_nodes} needs cuda_cmd in cmd.sh, to submit trainings with"
    launch=${train_cmd}
    launch_options="--ngpu ${ngpu} --multiprocessing_distributed true"
    [ "${ngpu}" = 0 ] || train_nj=1
fi

if selected 1; then
    if [ -e "${datadir}/data.done" ]; then
        echo "stage 1, data: ${datadir} is there"
    else
        local/data.sh ${local_data_opts}
        touch "${datadir}/data.done"
    fi
fi

if selected 2; then
    [ -s "${datadir}/${train_set}/text" ] \
        || die "${datadir}/${train_set}/text is not there: run stage 1 first"
    case ${token_type} in
        char)
            command="-m espnet2.bin.tokenize_text --token_type char --field 2- \
--input ${datadir}/${train_set}/text --output ${tokens} --write_vocabulary true \
--add_symbol '<blank>:0' --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1'" ;;
        bpe)
            command="${template}/pyscripts/train_bpe.py --text ${datadir}/${train_set}/text \
--nbpe ${nbpe} --bpemode ${bpemode} --output_dir ${token_dir}" ;;
        whisper_*)
            # espnet-rand --import acts when the tasks are imported, which this program does not do
            command="-c 'import espnet2.tasks.asr, espnet2.bin.whisper_export_vocabulary as v; v.main()' \
--whisper_model ${token_type} --output ${tokens}" ;;
        *)
            die "--token_type must be char, bpe or whisper_en: ${token_type}" ;;
    esac
    run_jobs tokens "$(job "${tokens%.txt}.log" 0 - "${python} ${command}")"
fi

stats_jobs() {  # <directory> <train text> <valid text> <batch size> <command> <parts>
    local keys i
    mkdir -p "$1"
    split -d -n "r/$6" "$2" "$1/keys_train."
    split -d -n "r/$6" "$3" "$1/keys_valid."
    for keys in "$1"/keys_train.*; do
        i=${keys##*.}
        job "$1/${i}/stats.log" $(($(cat "$1"/keys_*."${i}" | wc -l) / $4)) - \
            "${train_cmd} $5 --ngpu 0 --collect_stats true --output_dir $1/${i} --batch_size $4 \
--log_interval 1 --train_shape_file $1/keys_train.${i} --valid_shape_file $1/keys_valid.${i}"
    done
}

collect_stats() {  # <title> <directory> <train text> <valid text> <batch size> <command>
    local count parts list
    count=$( (echo "${nj}"; wc -l < "$3"; wc -l < "$4") | sort -n | head -n 1)  # no part without an utterance
    parts=$2/split${count}
    list=$(stats_jobs "${parts}" "$3" "$4" "$5" "$6" "${count}")
    run_jobs "$1" "${list}"
    run_jobs "$1 together" "$(job "$2/all.log" 0 - "${python} -m espnet2.bin.aggregate_stats_dirs \
--output_dir $2 $(printf -- '--input_dir %s ' "${parts}"/[0-9]*)")"
}

join_lm_text() {
    local text texts=${lm_train_text:-${datadir}/${train_set}/text}
    [ ! -e "${lm_stats}/train.txt" ] || return 0
    for text in ${texts}; do
        [ -s "${text}" ] || die "${text} is not there: remove ${datadir}/data.done and run stage 1 again"
    done
    mkdir -p "${lm_stats}"
    # shellcheck disable=SC2086
    cat ${texts} > "${lm_stats}/.train.txt"
    mv "${lm_stats}/.train.txt" "${lm_stats}/train.txt"
}

if selected 3; then
    [ -s "${tokens}" ] || die "${tokens} is not there: run stage 2 first"
    collect_stats statistics "${stats}" "${datadir}/${train_set}/text" "${datadir}/${valid_set}/text" 16 \
        "${asr_command} --config ${first_config} ${asr_args}"
    if [ "${use_lm}" = true ]; then
        join_lm_text
        collect_stats "language model's statistics" "${lm_stats}" "${lm_stats}/train.txt" \
            "${datadir}/${valid_set}/text" 1000 "${lm_command} --config ${lm_config} ${lm_args}"
    fi
fi

perturb_options() {  # a random one of the factors for each recording, by ESPnet's preprocessor
    [ -n "${speed_perturb_factors}" ] || return 0
    # only ratios of rates matter, not the rate itself
    echo "--preprocessor_conf fs=16000 --preprocessor_conf data_aug_prob=1.0 --preprocessor_conf" \
        "'data_aug_effects=[$(printf '[1,speed_perturb,{"factor":%s}],' ${speed_perturb_factors})]'"
}

epochs() {  # <config> <options>: how many a training has; 0 if it is not said there
    local number
    number=$(sed -n 's/^max_epoch: *\([0-9]*\).*/\1/p' "$1")
    if [[ $2 =~ .*--max_epoch[\ =]+([0-9]+) ]]; then  # the last one
        number=${BASH_REMATCH[1]}
    fi
    echo "${number:-0}"
}

train_job() {  # <name> <mode> <config> <init> <options>
    local dir=${expdir}/$1 init=${expdir}/$4/${inference_model} after=- options=$5 steps=0
    [ "$4" = - ] || after=${expdir}/$4/train.log
    case $2 in
        round|calibrate|pack|plan)
            return ;;
        float)
            job "${dir}/train.log" 0 "${after}" "python3 ${template}/pyscripts/without_quantizer.py \
--trained ${expdir}/$4 --model ${inference_model} --output_dir ${dir}"
            return ;;
        dry)
            options+=" --dry_run true" ;;
        train)
            [ "$4" = - ] || options="--init_param ${init} ${options}" ;;
        teach)
            [ "$4" != - ] || die "system $1: who is to teach it? Give the name of a system as its INIT"
            options="--init_param ${init} --teacher ${init} ${options}" ;;
        *)
            die "system $1: 'train', 'teach', 'dry', 'float', 'round', 'calibrate', 'pack' or 'plan' is wanted, not '$2'" ;;
    esac
    if awk -v name="$4" '$1 == name && $2 == "dry" { found = 1 } END { exit !found }' <<< "${systems}"; then
        die "system $1: $4 has no weights of a training: give a system that is trained as its INIT, or -"
    fi
    if [ "${feats_normalize}" = global_mvn ]; then
        options="--normalize global_mvn --normalize_conf stats_file=${stats}/train/feats_stats.npz ${options}"
    fi
    [ "$2" = dry ] || steps=$(epochs "$3" "${options} ${asr_args}")
    job "${dir}/train.log" "${steps}" "${after}" "${launch} ${asr_command} --config $3 --output_dir ${dir} \
--resume true $(printf -- '--%s_shape_file '"${stats}"'/%s/%s_shape ' \
train train speech train train text valid valid speech valid valid text) ${launch_options} \
$(perturb_options) ${options} ${asr_args}"
}

if selected 4; then
    [ -e "${stats}/all.done" ] || die "${stats} is not finished: run stage 3 first"
    list=$(for_systems train_job)
    if [ "${use_lm}" = true ]; then
        [ -e "${lm_stats}/all.done" ] || die "${lm_stats} is not finished: run stage 3 first"
        steps=$(epochs "${lm_config}" "${lm_args}")
        list+=$'\n'$(job "${lm_exp}/train.log" "${steps}" - "${launch} ${lm_command} --config ${lm_config} \
--output_dir ${lm_exp} --resume true --train_shape_file ${lm_stats}/train/text_shape \
--valid_shape_file ${lm_stats}/valid/text_shape ${launch_options} ${lm_args}")
    fi
    run_jobs training "${list}" "${train_nj}"
fi

pack_job() {  # <name> <mode> <config> <init> <options>
    local dir=${expdir}/$1 after=- log=pack command=pack_weights files output
    local packed=${expdir}/$1/packed.safetensors model=${expdir}/$4/${inference_model}
    output="--output ${packed}"
    case $2 in
        train|teach|dry|float)
            files=$(config_and_model '' "$1") || exit 1
            model=${dir}/${inference_model}
            [ -e "${dir}/quantization.yaml" ] || return 0 ;;  # it stays in float
        *)
            files="$(config_and_model '' "$4") $5" || exit 1
            [ "$3" = - ] || after=${expdir}/$3/plan.log ;;
    esac
    case $2 in
        round)
            command=quantize_weights ;;
        calibrate)
            [ -e "${expdir}/$4/quantization.yaml" ] || command=quantize_weights
            outdated "${dir}/calibrate.log" "${dir}/calibrated.pth" "${model}"
            job "${dir}/calibrate.log" 0 - "${python} -m espnet_rand.bin.calibrate_weights ${files} \
$(data_options '' "${datadir}/${train_set}") --output ${dir}/calibrated.pth"
            after=${dir}/calibrate.log files="--train_config ${expdir}/$4/config.yaml --model_file ${dir}/calibrated.pth $5" ;;
        plan)
            outdated "${dir}/plan.log" "${dir}/sensitivity.yaml" "${model}"
            log=plan command=allocate_bits output="--output_dir ${dir}" ;;
    esac
    if [ "${log}" = pack ]; then
        outdated "${dir}/pack.log" "${packed}" "${model}"
        if [ "${after}" != - ]; then
            outdated "${dir}/pack.log" "${packed}" "${after%.log}.done"
            [ -e "${after%.log}.done" ] || rm -f "${dir}/pack.done"
        fi
    fi
    job "${dir}/${log}.log" 0 "${after}" "${python} -m espnet_rand.bin.${command} ${files} ${output}"
}

if selected 5; then
    list=$(for_systems pack_job)
    run_jobs packing "${list}"
fi

decode_jobs() {  # <test set> <name> <mode> <config> <init> <options>
    local decoded=${expdir}/$2/decode_$1${tag} files keys part made_of
    files=$(model_files "$2" "$3" "$5") || exit 1
    made_of=("${files##* }" "${datadir}/$1/wav.scp" "${inference_config}")
    if [ "${use_lm}" = true ]; then
        files+=" --lm_train_config ${lm_exp}/config.yaml --lm_file ${lm_exp}/${inference_lm}"
        made_of+=("${lm_exp}/${inference_lm}")
    fi
    mkdir -p "${decoded}/split${inference_nj}"
    split -d -n "r/${inference_nj}" "${datadir}/$1/wav.scp" "${decoded}/split${inference_nj}/keys."
    for keys in "${decoded}/split${inference_nj}"/keys.*; do
        part=${keys%/*}/${keys##*.}
        [ -s "${keys}" ] || { rm -rf "${part}"; continue; }  # fewer utterances than parts
        outdated "${part}/decode.log" "${part}/1best_recog/text" "${made_of[@]}"
        job "${part}/decode.log" "$(wc -l < "${keys}")" - "${decode_cmd} ${python} -m ${inference} \
--config ${inference_config} --ngpu $((ngpu > 0)) --key_file ${keys} \
--data_path_and_name_and_type ${datadir}/$1/wav.scp,speech,sound \
${files} --output_dir ${part} ${inference_args}"
    done
}

join_decoded() {  # <test set> <name> ...
    local decoded=${expdir}/$2/decode_$1${tag}
    mkdir -p "${decoded}/1best_recog"
    cat "${decoded}/split${inference_nj}"/*/1best_recog/text > "${decoded}/1best_recog/.text"
    mv "${decoded}/1best_recog/.text" "${decoded}/1best_recog/text"
}

for_systems_and_sets() {  # <function>
    local test_set
    for test_set in ${test_sets}; do
        for_systems but_plans "$1" "${test_set}"
    done
}

but_plans() {  # <function> <test set> <name> <mode> ...
    [ "$4" = plan ] || "$@"
}

if selected 6; then
    inference=espnet2.bin.asr_inference
    [ "${use_streaming}" = false ] || inference=espnet2.bin.asr_inference_streaming
    if [ "${use_lm}" = true ] && [ ! -e "${lm_exp}/train.done" ]; then
        die "${lm_exp} is not finished: run stage 4 first"
    fi
    list=$(for_systems_and_sets decode_jobs)
    run_jobs decoding "${list}"
    for_systems_and_sets join_decoded
fi

if selected 7; then
    python3 "${template}/pyscripts/score.py" --expdir "${expdir}" --datadir "${datadir}" \
        --test_sets ${test_sets} --tag "${tag}" --table "${table}" --cleaner "${score_cleaner}" \
        --systems $(for_systems model_name)
fi
