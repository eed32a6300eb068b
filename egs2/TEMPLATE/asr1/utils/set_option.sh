set_option() {  # <option> <value>: sets the variable of its name; what is true or false stays so
    local name=${1#--}
    name=${name//-/_}
    case ${!name}:$2 in
        true:true | true:false | false:true | false:false) ;;
        true:* | false:*)
            echo "$0: $1 must be true or false, not $2" >&2
            exit 1 ;;
    esac
    printf -v "${name}" '%s' "$2"
}
