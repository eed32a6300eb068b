# What asr.sh and asr_long.sh share: reading their options, jobs, systems, the files of trained systems. Sourced by
# them, with their variables template, stage, stop_stage, nj, python, systems, expdir and inference_model.

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

run_jobs() {  # <title> <list of jobs> [how many at a time]
    python3 "${template}/pyscripts/jobs.py" --nj "${3:-${nj}}" --title "stage ${current}, $1" <<< "$2"
}

for_systems() {  # <function> ...: calls it with ... and the fields of each system
    local name mode config init options
    while read -r name mode config init options; do
        [ -z "${name}" ] || "$@" "${name}" "${mode}" "${config}" "${init}" "${options}"
    done <<< "${systems}"
}

model_name() {  # <name> <mode> ...: of a system, unless it is plans, which are no model
    [ "$2" = plan ] || echo "$1"
}

selected() {  # <n>: is this stage to be run?
    current=$1
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

config_and_model() {  # <option> <name>: of a system that was trained, or built by a dry run
    local dir=${expdir}/$2 files
    files="--$1train_config ${dir}/config.yaml"
    [ -e "${dir}/train.done" ] || die "${dir} is not finished: run stage 4 first"
    if [ -e "${dir}/${inference_model}" ]; then
        files+=" --$1model_file ${dir}/${inference_model}"
    elif ! grep -qx 'dry_run: true' "${dir}/config.yaml"; then
        die "${dir}/${inference_model} is not there: --inference_model must name a checkpoint of ${dir}"
    fi
    echo "${files}"
}

outdated() {  # <log> <output> <input> ...: a job is not done if its output is not there, or older than an input
    local input
    for input in "${@:3}"; do
        [ "$2" -nt "${input}" ] || rm -f "${1%.log}.done"
    done
}

model_files() {  # <name> <mode> <init>: the options of a decoder for a system; the packed file of what is quantized
    local dir=${expdir}/$1 system=$1 files
    case $2 in round|calibrate|pack) system=$3 ;; esac
    files=$(config_and_model asr_ "${system}") || exit 1
    if [ "${system}" != "$1" ] || [ -e "${dir}/quantization.yaml" ]; then
        [ -e "${dir}/packed.safetensors" ] || die "${dir} is not packed: run stage 5 first"
        files="--asr_train_config ${expdir}/${system}/config.yaml --asr_model_file ${dir}/packed.safetensors"
    fi
    echo "${files}"
}

python3 - "$0" <<'EOF' || exit 1
import importlib.util, sys
missing = [m for m in ("espnet2", "jiwer", "rich") if not importlib.util.find_spec(m)]
if missing:
    sys.exit(f"{sys.argv[1]}: {sys.executable} lacks {' '.join(missing)}. "
             "Mend: run `make demo` in the repository, or pip install -e '.[train]' there")
EOF
command -v "${python%% *}" > /dev/null \
    || die "${python%% *} is not there. Mend: run \`make demo\` in the repository, or give --python"
[[ ${stage} =~ ^[0-9]+$ && ${stop_stage} =~ ^[0-9]+$ ]] \
    || die "--stage and --stop_stage must be numbers: ${stage}, ${stop_stage}"
[ -n "${systems}" ] || die "--systems is empty; see --help"
