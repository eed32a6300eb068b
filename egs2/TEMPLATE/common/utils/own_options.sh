# A run.sh with options of its own sources this after setting their defaults, with their names in the
# variable own: it sets them, and leaves all others, which are asr.sh's, in the array options.
# Options for files and directories, whose names are in the variable paths instead, may be relative to where run.sh is
# started, and become absolute.
# --help prints the comment at the top of run.sh, and asr.sh's. Where the stages' script is another than asr1/asr.sh of
# TEMPLATE, its name is in the variable script.
. "$(dirname "${BASH_SOURCE[0]}")/set_option.sh"
options=()
while [ $# -gt 0 ]; do
    name=${1#--}
    name=${name//-/_}
    if [ "$1" = --help ] || [ "$1" = -h ]; then
        sed -n '2,/^$/s/^# \?//p' "$0"
        cd "$(dirname "$0")" && exec "../../TEMPLATE/${script:-asr1/asr.sh}" --help
    elif [[ $1 == --* && " ${own} ${paths:-} " == *" ${name} "* ]]; then
        set_option "${name}" "${2?"$1 needs a value"}"
        shift 2
    else
        options+=("$1")
        shift
    fi
done
for name in ${paths:-}; do
    [ -z "${!name}" ] || printf -v "${name}" '%s' "$(realpath -m "${!name}")"
done
