# Source this after setting the defaults: `--some-option value` (or
# --some_option) then sets the variable some_option, which must exist.
. "$(dirname "${BASH_SOURCE[0]}")/set_option.sh"
while [ $# -gt 0 ]; do
    case $1 in
        --help|-h)
            echo "$0: ${help_message:-options are the variables at its top}"
            exit 0 ;;
        --*)
            name=${1#--}
            name=${name//-/_}
            if [ -z "${!name+set}" ]; then
                echo "$0: unknown option $1 (see $0 --help)" >&2
                exit 1
            fi
            if [ $# -lt 2 ]; then
                echo "$0: option $1 needs a value" >&2
                exit 1
            fi
            set_option "${name}" "$2"
            shift 2 ;;
        *)
            echo "$0: $1 is no option: quote a value that has spaces (see $0 --help)" >&2
            exit 1 ;;
    esac
done
