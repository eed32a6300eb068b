# Shared by stages.sh and asr_long.sh: reading options, jobs, systems, the files of trained systems. Sourced with the
# variables template, task, modules (Python packages of its scripts), stage, stop_stage, nj, python, systems, expdir and
# inference_model; --help has the options between `set` and `template` of the script, and those of the files in
# shared_options.

help_message=$(
    sed -n '2,/^$/s/^#* \?//p' "$0"
    cat ${shared_options:-/dev/null}
    sed -n '/^set -/,/^template/p' "$0" | sed '1,2d; /^template/d'
    sed '1d; /^"""$/,$d' "${template}/pyscripts/systems.py" | sed '1,2d'
)
. "${template}/utils/parse_options.sh"
. ./path.sh
. ./cmd.sh

die() {
    echo "$0: $*" >&2
    exit 1
}

job() {  # <log> <steps> <after> <command>: prints one line of a list of jobs
    printf '%s\t%s\t%s\t%s\n' "$@"
}

run_jobs() {  # <title> <list of jobs> [how many at a time]
    python3 "${template}/pyscripts/jobs.py" --nj "${3:-${nj}}" --title "stage ${current}, $1" \
        --step "${decoding_step:-}" <<< "$2"
}

for_systems() {  # <function> ...: calls it with ... and the fields of each system, <name> <mode> <config> <init> ...
    local name mode config init teacher after options
    while IFS=$'\t' read -r name mode config init teacher after options; do
        "$@" "${name}" "${mode}" "${config}" "${init}" "${teacher}" "${after}" "${options}"
    done <<< "${system_list}"
}

model_name() {  # <name> <mode> ...: prints the name of a system, unless it is plans, which are no model
    [ "$2" = plan ] || echo "$1"
}

selected() {  # <n>: is this stage to be run?
    current=$1
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

config_and_model() {  # <option> <name>: prints the options for the files of a system that was trained, or built dry
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

outdated() {  # <log> <output> <input> ...: unmarks a finished job if its output is missing, or older than an input
    local input
    for input in "${@:3}"; do
        [ "$2" -nt "${input}" ] || rm -f "${1%.log}.done"
    done
}

model_files() {  # <name> <mode> <init>: prints a decoder's options for a system; quantized ones have a packed file
    local dir=${expdir}/$1 system=$1 files
    case $2 in round|calibrate|pack) system=$3 ;; esac
    files=$(config_and_model "${task}_" "${system}") || exit 1
    if [ "${system}" != "$1" ] || [ -e "${dir}/quantization.yaml" ]; then
        [ -e "${dir}/packed.safetensors" ] || die "${dir} is not packed: run stage 5 first"
        files="--${task}_train_config ${expdir}/${system}/config.yaml --${task}_model_file ${dir}/packed.safetensors"
    fi
    echo "${files}"
}

python3 - "$0" espnet2 rich ${modules} <<'EOF' || exit 1
import importlib.util, sys
script, *modules = sys.argv[1:]
missing = [m for m in modules if not importlib.util.find_spec(m)]
if missing:
    sys.exit(f"{script}: {sys.executable} lacks {' '.join(missing)}. "
             "Fix: run `make demo` in the repository, or pip install -e '.[train]' there")
EOF
command -v "${python%% *}" > /dev/null \
    || die "${python%% *} is not there. Fix: run \`make demo\` in the repository, or give --python"
system_list=$(python3 "${template}/pyscripts/systems.py" <<< "${systems}") || exit 1
