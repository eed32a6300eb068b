#!/usr/bin/env bash
# The stages that speech recognition recipes share: data, tokens, statistics,
# training, packing, decoding, scoring. A recipe's run.sh calls this script in
# its own directory, with its options and a list of systems, one a line:
#
#     NAME  train|dry|round  CONFIG  INIT  [options ...]
#
# train: train it, from the weights of the system INIT (-: from new ones).
# dry:   no training: the model as the options build it.
# round: no training: the weights of INIT, rounded as the options say (CONFIG: -).
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
# redo something, remove its directory.

set -euo pipefail

# General
stage=1              # first stage to run
stop_stage=7         # last stage to run
nj=2                 # processes at a time
ngpu=0               # GPUs of each process
python=espnet-rand   # python, or a launcher that behaves like it
datadir=data         # data directories, tokens and statistics
expdir=exp           # models and results

# Data
local_data_opts=     # options for local/data.sh
train_set=train
valid_set=dev
test_sets=test       # one or more

# Tokens and statistics
token_type=char      # char, whisper_en
feats_normalize=global_mvn # global_mvn, none

# Training, decoding, scoring
systems=             # the list: see above
asr_args=            # training options for all systems, e.g. "--max_epoch 1"
inference_config=conf/decode_asr.yaml
inference_model=valid.loss.ave.pth
inference_args=      # more options for decoding
score_cleaner=none   # text cleaner for reference and hypothesis, e.g. whisper_en

template=$(cd "$(dirname "$0")" && pwd)
help_message=$(sed -n '2,/^$/s/^#* \?//p; /^# General/,/^template/p' "$0" | sed '$d')
. "${template}/utils/parse_options.sh"
. ./path.sh
. ./cmd.sh

die() {
    echo "$0: $*" >&2
    exit 1
}

job() {  # <log> <steps> <after> <command>: one line of a list of jobs
    printf '%s\t%s\t%s\t%s\n' "$@"
}

run_jobs() {  # <title> <list of jobs>
    python3 "${template}/pyscripts/jobs.py" --nj "${nj}" --title "stage ${current}, $1" <<< "$2"
}

for_systems() {  # <function> ...: calls it with ... and the fields of each system
    local name mode config init options
    while read -r name mode config init options; do
        [ -z "${name}" ] || "$@" "${name}" "${mode}" "${config}" "${init}" "${options}"
    done <<< "${systems}"
}

selected() {  # <n>: is this stage to be run?
    current=$1
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

python3 - <<'EOF' || exit 1
import importlib.util, sys
missing = [m for m in ("espnet2", "jiwer", "rich") if not importlib.util.find_spec(m)]
if missing:
    sys.exit(f"asr.sh: {sys.executable} lacks {' '.join(missing)}. "
             "Mend: run `make demo` in the repository, or pip install -e '.[train]' there")
EOF
command -v "${python%% *}" > /dev/null \
    || die "${python%% *} is not there. Mend: run \`make demo\` in the repository, or give --python"
[ -n "${systems}" ] || die "--systems is empty; see --help"

tokens=${datadir}/token_list/${token_type}/tokens.txt
stats=${datadir}/stats
read -r _ _ first_config _ <<< "$(sed '/^ *$/d' <<< "${systems}")"

# What every training command has: the data, the tokens, the program.
data_options() {  # <train|valid> <data directory>
    echo "--$1_data_path_and_name_and_type $2/wav.scp,speech,sound" \
        "--$1_data_path_and_name_and_type $2/text,text,text"
}
train_command="${train_cmd} ${python} -m espnet2.bin.asr_train --ngpu ${ngpu} \
--token_type ${token_type} --token_list ${tokens} \
$(data_options train "${datadir}/${train_set}") $(data_options valid "${datadir}/${valid_set}")"
if [[ ${token_type} == whisper_* ]]; then
    train_command+=" --bpemodel ${token_type}"
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
        whisper_*)
            # espnet-rand --import acts when the tasks are imported, which this program does not do
            command="-c 'import espnet2.tasks.asr, espnet2.bin.whisper_export_vocabulary as v; v.main()' \
--whisper_model ${token_type} --output ${tokens}" ;;
        *)
            die "--token_type must be char or whisper_en: ${token_type}" ;;
    esac
    run_jobs tokens "$(job "${tokens%.txt}.log" 0 - "${python} ${command}")"
fi

stats_jobs() {  # <directory>
    local i set batch=16
    mkdir -p "$1"
    for set in "${train_set}" "${valid_set}"; do
        split -d -n "r/${nj}" "${datadir}/${set}/text" "$1/keys_${set}."
    done
    for i in $(seq -f %02.0f 0 $((nj - 1))); do
        job "$1/${i}/stats.log" $(($(cat "$1"/keys_*."${i}" | wc -l) / batch)) - \
            "${train_command} --collect_stats true --config ${first_config} \
--output_dir $1/${i} --batch_size ${batch} --log_interval 1 \
--train_shape_file $1/keys_${train_set}.${i} --valid_shape_file $1/keys_${valid_set}.${i} ${asr_args}"
    done
}

if selected 3; then
    [ -s "${tokens}" ] || die "${tokens} is not there: run stage 2 first"
    list=$(stats_jobs "${stats}/split${nj}")
    run_jobs statistics "${list}"
    run_jobs "statistics together" "$(job "${stats}/all.log" 0 - \
        "${python} -m espnet2.bin.aggregate_stats_dirs --output_dir ${stats} \
$(printf -- '--input_dir %s ' "${stats}/split${nj}"/[0-9][0-9])")"
fi

train_job() {  # <name> <mode> <config> <init> <options>
    local dir=${expdir}/$1 after=- options=$5
    [ "$4" = - ] || after=${expdir}/$4/train.log
    case $2 in
        round)
            return ;;
        dry)
            options+=" --dry_run true" ;;
        train)
            [ "$4" = - ] || options="--init_param ${expdir}/$4/${inference_model} ${options}" ;;
        *)
            die "system $1: 'train', 'dry' or 'round' is wanted, not '$2'" ;;
    esac
    if [ "${feats_normalize}" = global_mvn ]; then
        options="--normalize global_mvn --normalize_conf stats_file=${stats}/train/feats_stats.npz ${options}"
    fi
    job "${dir}/train.log" 0 "${after}" "${train_command} --config $3 --output_dir ${dir} \
--resume true $(printf -- '--%s_shape_file '"${stats}"'/%s/%s_shape ' \
train train speech train train text valid valid speech valid valid text) ${options} ${asr_args}"
}

if selected 4; then
    [ -e "${stats}/all.done" ] || die "${stats} is not finished: run stage 3 first"
    list=$(for_systems train_job)
    run_jobs training "${list}"
fi

config_and_model() {  # <option> <name>: of a system that was trained, or built by a dry run
    local model=${expdir}/$2/${inference_model}
    [ -e "${expdir}/$2/train.done" ] || die "${expdir}/$2 is not finished: run stage 4 first"
    echo "--$1train_config ${expdir}/$2/config.yaml $([ ! -e "${model}" ] || echo "--$1model_file ${model}")"
}

pack_job() {  # <name> <mode> <config> <init> <options>
    local dir=${expdir}/$1 command
    if [ "$2" = round ]; then
        command="quantize_weights $(config_and_model '' "$4") $5" || exit 1
    else
        command="pack_weights $(config_and_model '' "$1")" || exit 1
        [ -e "${dir}/quantization.yaml" ] || return 0  # it stays in float
    fi
    job "${dir}/pack.log" 0 - "${python} -m espnet_rand.bin.${command} --output ${dir}/packed.safetensors"
}

if selected 5; then
    list=$(for_systems pack_job)
    run_jobs packing "${list}"
fi

decode_job() {  # <test set> <name> <mode> <config> <init> <options>
    local dir=${expdir}/$2 system=$2 files
    [ "$3" != round ] || system=$5
    files=$(config_and_model asr_ "${system}") || exit 1
    if [ "$3" = round ] || [ -e "${dir}/quantization.yaml" ]; then
        [ -e "${dir}/packed.safetensors" ] || die "${dir} is not packed: run stage 5 first"
        files="--asr_train_config ${expdir}/${system}/config.yaml --asr_model_file ${dir}/packed.safetensors"
    fi
    job "${dir}/decode_$1/decode.log" "$(wc -l < "${datadir}/$1/wav.scp")" - \
        "${decode_cmd} ${python} -m espnet2.bin.asr_inference --config ${inference_config} \
--ngpu ${ngpu} --data_path_and_name_and_type ${datadir}/$1/wav.scp,speech,sound \
${files} --output_dir ${dir}/decode_$1 ${inference_args}"
}

if selected 6; then
    list=$(for test_set in ${test_sets}; do for_systems decode_job "${test_set}"; done)
    run_jobs decoding "${list}"
fi

if selected 7; then
    python3 "${template}/pyscripts/score.py" --expdir "${expdir}" --datadir "${datadir}" \
        --test_sets ${test_sets} --cleaner "${score_cleaner}" \
        --systems $(for_systems echo | cut -d ' ' -f 1)
fi
