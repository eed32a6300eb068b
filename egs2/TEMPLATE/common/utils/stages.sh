# The stages that recipes of all tasks share: data, statistics, training, packing, decoding, scoring. A task's script
# sources this after the defaults of its own options, with the variables
#
#   template  its directory, which has links to utils and pyscripts
#   task      asr: of espnet2.bin.asr_train, espnet2.bin.asr_inference and their options
#   inputs    the model's inputs, FILE,NAME,TYPE of a data directory, one or more
#   outputs   the model's outputs, likewise; the first is scored
#   scorer    a Python file with score(references, hypotheses), which returns numbers by their names (see score.py)
#   modules   Python packages that it needs
#   decoding_step  the words in a log of decoding that mark an utterance, a regular expression
#
# It then sets token_options (for trainings), stats (a directory), train_args and, if it likes, the variables below. Then
# it runs its stages.
#
# Finished jobs are skipped, an interrupted training goes on where it was; to redo something, remove its directory.
# Packed and decoded files are renewed when a file that they are made of is.

shared_options=${template}/utils/options.sh
. "${shared_options}"
. "${template}/utils/jobs.sh"

task_options=          # more options for trainings
inference=espnet2.bin.${task}_inference
decode_options=        # more options for decoding
decode_made_of=()      # the files that these options name
tag=                   # ends the names of decoding directories
options_of_set() { :; }  # <test set>: prints more options for decoding that set
score_options=         # more options for scoring
of_task=               # option of espnet_rand's programs, whose default is asr
[ "${task}" = asr ] || of_task=" --task ${task}"

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

data_options() {  # <train_|valid_|nothing> <data directory> <FILE,NAME,TYPE> ...: prints options of ESPnet's programs
    local options
    options=$(printf -- "--$1data_path_and_name_and_type $2/%s " "${@:3}")
    echo "${options% }"
}

train_command() {
    echo "${python} -m espnet2.bin.${task}_train ${token_options}" \
        "$(data_options train_ "${datadir}/${train_set}" ${inputs} ${outputs})" \
        "$(data_options valid_ "${datadir}/${valid_set}" ${inputs} ${outputs})"
}

prepare_data() {  # stage 1
    local mark=${datadir}/data.done  # has the options; of an earlier version of this script, nothing
    if [ -e "${mark}" ]; then
        echo "stage 1, data: ${datadir} is there"
        [ ! -s "${mark}" ] || [ "$(cat "${mark}")" = "${local_data_opts}" ] \
            || echo "stage 1, data: it is of other options ($(cat "${mark}")), and is kept. To make it again, remove ${datadir}"
    else
        local/data.sh ${local_data_opts}
        echo "${local_data_opts}" > "${mark}"
    fi
}

token_job() {  # <char|bpe> <text> <directory> [<number of units> <kind of bpe>]: makes tokens.txt, and bpe.model
    local command text  # of bpe, <text> may be several
    for text in $2; do
        [ -s "${text}" ] || die "${text} is not there: run stage 1 first"
    done
    case $1 in
        char)
            command="-m espnet2.bin.tokenize_text --token_type char --field 2- \
--input $2 --output $3/tokens.txt --write_vocabulary true \
--add_symbol '<blank>:0' --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1'" ;;
        bpe)
            command="${template}/pyscripts/train_bpe.py --text $2 --nbpe $4 --bpemode $5 --output_dir $3" ;;
    esac
    job "$3/tokens.log" 0 - "${python} ${command}"
}

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

collect_data_stats() {  # <batch size>: stage 3, with the configuration of the first system that has one
    local config text=${outputs%%,*}
    config=$(awk -F '\t' '$3 != "-" { print $3; exit }' <<< "${system_list}")
    [ -n "${config}" ] || die "no system of --systems is trained, so that there is no configuration for statistics"
    collect_stats statistics "${stats}" "${datadir}/${train_set}/${text}" "${datadir}/${valid_set}/${text}" "$1" \
        "$(train_command) --config ${config} ${train_args}"
}

epochs() {  # <config> <options>: prints how many epochs a training has; 0 if they do not say
    local number
    number=$(sed -n 's/^max_epoch: *\([0-9]*\).*/\1/p' "$1")
    if [[ $2 =~ .*--max_epoch[\ =]+([0-9]+) ]]; then  # the last one
        number=${BASH_REMATCH[1]}
    fi
    echo "${number:-0}"
}

shape_options() {
    local part data name
    for part in train valid; do
        for data in ${inputs} ${outputs}; do
            name=${data#*,}
            name=${name%%,*}
            printf -- '--%s_shape_file %s ' ${part} "${stats}/${part}/${name}_shape"
        done
    done
}

train_job() {  # <name> <mode> <config> <init> <teacher> <after> <options>
    local dir=${expdir}/$1 after=- options=$7 steps=0 origin
    case $2 in
        train|dry) ;;
        float)
            job "${dir}/train.log" 0 "${expdir}/$4/train.log" "python3 ${template}/pyscripts/without_quantizer.py \
--trained ${expdir}/$4 --model ${inference_model} --output_dir ${dir}"
            return ;;
        *)
            return ;;
    esac
    [ -e "$3" ] || die "system $1: there is no configuration $3"
    [ "$5" = - ] || options="--teacher ${expdir}/$5/${inference_model} ${options}"
    [ "$4" = - ] || options="--init_param ${expdir}/$4/${inference_model} ${options}"
    for origin in "$4" "$5"; do
        [ "${origin}" = - ] || after="${after#-} ${expdir}/${origin}/train.log"
    done
    [ "$2" = train ] || options+=" --dry_run true"
    [ "$2" = dry ] || steps=$(epochs "$3" "${task_options} ${options} ${train_args}")
    job "${dir}/train.log" "${steps}" "${after# }" "${launch} $(train_command) --config $3 --output_dir ${dir} \
--resume true $(shape_options) ${launch_options} ${task_options} ${options} ${train_args}"
}

train_systems() {  # [more jobs]: stage 4
    local list
    [ -e "${stats}/all.done" ] || die "${stats} is not finished: run stage 3 first"
    list=$(for_systems train_job)
    run_jobs training "${list}${1:+$'\n'$1}" "${train_nj}"
}

pack_job() {  # <name> <mode> <config> <init> <teacher> <after> <options>
    local dir=${expdir}/$1 after=- log=pack command=pack_weights files output
    local packed=${expdir}/$1/packed.safetensors model=${expdir}/$4/${inference_model}
    output="--output ${packed}"
    case $2 in
        train|dry|float)
            files=$(config_and_model '' "$1") || exit 1
            model=${dir}/${inference_model}
            [ -e "${dir}/quantization.yaml" ] || return 0 ;;  # it stays in float
        *)
            files="$(config_and_model '' "$4") $7" || exit 1
            [ "$6" = - ] || after=${expdir}/$6/plan.log ;;
    esac
    case $2 in
        round)
            command=quantize_weights ;;
        calibrate)
            [ -e "${expdir}/$4/quantization.yaml" ] || command=quantize_weights
            outdated "${dir}/calibrate.log" "${dir}/calibrated.pth" "${model}"
            job "${dir}/calibrate.log" 0 - "${python} -m espnet_rand.bin.calibrate_weights${of_task} ${files} \
$(data_options '' "${datadir}/${train_set}" ${inputs} ${outputs}) --output ${dir}/calibrated.pth"
            after=${dir}/calibrate.log
            files="--train_config ${expdir}/$4/config.yaml --model_file ${dir}/calibrated.pth $7" ;;
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
    job "${dir}/${log}.log" 0 "${after}" "${python} -m espnet_rand.bin.${command}${of_task} ${files} ${output}"
}

pack_systems() {  # stage 5
    local list
    list=$(for_systems pack_job)
    run_jobs packing "${list}"
}

decode_jobs() {  # <test set> <name> <mode> <config> <init> ...
    local decoded=${expdir}/$2/decode_$1${tag} data=${datadir}/$1 files more keys part made_of
    files=$(model_files "$2" "$3" "$5") || exit 1
    more=${decode_options}$(options_of_set "$1") || exit 1
    made_of=("${files##* }" "${data}/${inputs%%,*}" "${inference_config}" "${decode_made_of[@]}")
    mkdir -p "${decoded}/split${inference_nj}"
    split -d -n "r/${inference_nj}" "${data}/${inputs%%,*}" "${decoded}/split${inference_nj}/keys."
    for keys in "${decoded}/split${inference_nj}"/keys.*; do
        part=${keys%/*}/${keys##*.}
        [ -s "${keys}" ] || { rm -rf "${part}"; continue; }  # fewer utterances than parts
        outdated "${part}/decode.log" "${part}/1best_recog/text" "${made_of[@]}"
        job "${part}/decode.log" "$(wc -l < "${keys}")" - "${decode_cmd} ${python} -m ${inference} \
--config ${inference_config} --ngpu $((ngpu > 0)) --key_file ${keys} \
$(data_options '' "${data}" ${inputs}) ${files}${more} --output_dir ${part} ${inference_args}"
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

decode_systems() {  # stage 6
    local list
    list=$(for_systems_and_sets decode_jobs)
    run_jobs decoding "${list}"
    for_systems_and_sets join_decoded
}

score_systems() {  # stage 7
    python3 "${template}/pyscripts/score.py" --expdir "${expdir}" --datadir "${datadir}" \
        --test_sets ${test_sets} --reference "${outputs%%,*}" --tag "${tag}" --table "${table}" \
        --scorer "${scorer}" --cleaner ${score_cleaner} --systems $(for_systems model_name) \
        ${score_options}
}
