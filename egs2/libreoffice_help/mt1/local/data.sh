#!/usr/bin/env bash
# Makes ${datadir}/{train,dev,test,test_wesnoth} of Debian's packages, of multi30k, or of data directories.
set -euo pipefail
cd "$(dirname "$0")/.."

datadir=data
corpus=libreoffice  # libreoffice, multi30k, or a folder with train, dev and test
target=de           # the language that English is translated into: de, es, fr
wesnoth=true        # make test_wesnoth, too
source_dir=         # a folder that has libreoffice's and wesnoth's files already, at any depth
multi30k=           # a folder that has multi30k's
. ../../TEMPLATE/mt1/utils/parse_options.sh
. ../../TEMPLATE/mt1/utils/debian.sh
. ./path.sh

campaigns=(did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs)
options=()
case ${corpus} in
    libreoffice)
        help=${source_dir} game=${source_dir}
        if [ -z "${source_dir}" ]; then
            help=downloads/libreoffice_${target} game=downloads/wesnoth
            unpack_debian "${help}" --source_dir libreoffice-help-en-us "libreoffice-help-${target}"
            [ "${wesnoth}" = false ] \
                || only='*/LC_MESSAGES/*' unpack_debian "${game}" --source_dir "${campaigns[@]/#/wesnoth-1.16-}" wesnoth-1.16-data
        fi
        options=(--libreoffice "${help}")
        [ "${wesnoth}" = false ] || options+=(--wesnoth "${game}") ;;
    multi30k)
        options=(--multi30k "${multi30k}") ;;
esac
python local/prepare_pairs.py "${datadir}" --corpus "${corpus}" --target "${target}" "${options[@]}"
