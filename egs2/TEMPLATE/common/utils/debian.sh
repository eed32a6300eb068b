# To be sourced. unpack_debian <folder> <option> <package> ...: downloads the packages and unpacks them into the folder,
# once, without root. Where that cannot be done, it says how else to do it, and with which option to give the folder.
# With a pattern of tar in the variable only, such as '*/LC_MESSAGES/*', it unpacks the files that match it, and no others.
unpack_debian() {
    local folder=$1 option=$2
    local packages=("${@:3}") tool package
    local help="Get ${packages[*]} from any Debian mirror,
unpack into one folder (dpkg -x FILE.deb FOLDER, or: ar x FILE.deb && tar xf data.tar.* -C FOLDER)
and run again with ${option} FOLDER."
    [ ! -e "${folder}/.complete" ] || return 0
    for tool in apt-get dpkg; do
        if ! command -v ${tool} > /dev/null; then
            echo "$0: there is no ${tool} on this machine. ${help}" >&2
            return 1
        fi
    done
    mkdir -p "${folder}"
    for package in "${packages[@]}"; do
        rm -f downloads/"${package}"_*.deb
    done
    if ! (cd downloads && apt-get -q download "${packages[@]}"); then
        echo "$0: apt-get could not download ${packages[*]}: bring its package lists up to date" \
            "('apt-get update' as root) and run again, or: ${help}" >&2
        return 1
    fi
    for package in "${packages[@]}"; do
        dpkg --fsys-tarfile downloads/"${package}"_*.deb | tar -x -C "${folder}" --wildcards "${only:-*}"
    done
    touch "${folder}/.complete"
}
