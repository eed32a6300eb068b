set_option() {  # <variable> <value>: sets it; what is true or false stays so
    if [[ ${!1} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
        echo "$0: --$1 must be true or false, not $2" >&2
        exit 1
    fi
    if [[ $1 =~ ^(stage|stop_stage)$ && ! $2 =~ ^(0|[1-9][0-9]*)$ ]]; then
        echo "$0: --$1 must be a number, not $2" >&2
        exit 1
    fi
    printf -v "$1" '%s' "$2"
}
