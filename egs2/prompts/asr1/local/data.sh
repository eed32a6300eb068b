#!/usr/bin/env bash
# Gets Debian's asterisk-core-sounds-en and makes ${datadir}/{train,dev,test} of it.
set -euo pipefail
cd "$(dirname "$0")/.."

datadir=data
prompts_dir=   # a folder that has the recordings already, at any depth (see the error below)
. ../../TEMPLATE/asr1/utils/parse_options.sh
. ./path.sh

packages="asterisk-core-sounds-en asterisk-core-sounds-en-g722"
help="Get ${packages// / and } from any Debian mirror (pool/main/a/asterisk-core-sounds),
unpack both into one folder (dpkg -x FILE.deb FOLDER, or: ar x FILE.deb && tar xf data.tar.* -C FOLDER)
and run again with --prompts_dir FOLDER."

if [ -z "${prompts_dir}" ]; then
    prompts_dir=downloads/prompts
    if [ ! -e "${prompts_dir}/.complete" ]; then
        for tool in apt-get dpkg; do
            if ! command -v ${tool} > /dev/null; then
                echo "$0: there is no ${tool} on this machine. ${help}" >&2
                exit 1
            fi
        done
        mkdir -p "${prompts_dir}"
        rm -f downloads/asterisk-core-sounds-en*.deb
        # shellcheck disable=SC2086
        if ! (cd downloads && apt-get -q download ${packages}); then
            echo "$0: apt-get could not download ${packages}: bring its package lists up to date" \
                "('apt-get update' as root) and run again, or: ${help}" >&2
            exit 1
        fi
        for package in ${packages}; do
            dpkg -x downloads/"${package}"_*.deb "${prompts_dir}"
        done
        touch "${prompts_dir}/.complete"
    fi
fi
python local/prepare_prompts.py "${prompts_dir}" "${datadir}"
