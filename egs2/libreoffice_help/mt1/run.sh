#!/usr/bin/env bash
# English into German on LibreOffice's help (README.md says more): a float model, trained; it rounded, with clip search,
# and calibrated; it trained on, in float and with few bits. All of them begin with the one float model.
#
#   --target fr                another language than German: de, es, fr
#   --corpus multi30k          other translations: multi30k, or a folder with train, dev and test, each with text.en and
#                              text.de (or text.src and text), Kaldi-style
#   --multi30k DIR             where multi30k's texts are: train.en, train.de ..., or gzipped
#   --source_dir DIR           LibreOffice's pages and Wesnoth's catalogues, where there is no apt-get (README.md)
#   --bits "4 2"               what weights are quantized to
#   --granularity "channel tensor"  which of them share a scale; g32: groups of 32
#   --presets "rand_w4 ..."    what is trained, by files of conf/ here or by the presets of the repository; their bits
#                              and granularity are those of the two options above
#   --taught "..."             likewise, what the float model teaches (names end in _taught); default: none
#   --seeds "1 2 3"            one training of each for every seed; default: 1
#   --datadir DIR, --expdir DIR  default: data and exp here; of another corpus or language with its name behind
#
# Further options are those of mt.sh:

set -euo pipefail

target=de
corpus=libreoffice
multi30k=
source_dir=
bits="4 2"
granularity="channel tensor"
presets="ste_w4 pqn_w4 lsc_w4 rand_m1_ste_w4 rand_m1_w4 rand_ste_w4 rand_w4 rand_m3_ste_w4 rand_m3_w4"
taught=
seeds=1
test_sets=
datadir=
expdir=
own="target corpus bits granularity presets taught seeds test_sets"
paths="multi30k source_dir datadir expdir"
script=mt1/mt.sh
. "$(dirname "$0")/../../TEMPLATE/mt1/utils/own_options.sh"

fail() {
    echo "$0: $*" >&2
    exit 1
}

for path in multi30k source_dir; do
    [ -z "${!path}" ] || [ -e "${!path}" ] || fail "--${path}: there is no ${!path}"
done
for path in corpus ${paths}; do
    [[ ${!path} != *[[:space:]]* ]] || fail "--${path}: ${!path} has a space, which these scripts cannot have in a name"
done
# what would be noticed after the float model's training
for b in ${bits}; do
    [[ ${b} =~ ^[2-8]$ ]] || fail "--bits must be numbers from 2 to 8: ${b}"
done
for kind in ${granularity}; do
    [[ ${kind} =~ ^(tensor|channel|column|g[1-9][0-9]*)$ ]] \
        || fail "--granularity must be of tensor, channel, column, g32 (or another size of group): ${kind}"
done
for seed in ${seeds}; do
    [[ ${seed} =~ ^[0-9]+$ ]] || fail "--seeds must be whole numbers: ${seed}"
done
case ${corpus} in
    libreoffice)
        test_sets=${test_sets:-test test_wesnoth} ;;
    multi30k)
        [ -n "${multi30k}" ] || fail "--corpus multi30k needs --multi30k DIR, the folder that has its texts" ;;
    *)
        [ -d "${corpus}" ] || fail "--corpus must be libreoffice, multi30k or a folder with train, dev and test: ${corpus}"
        corpus=$(realpath "${corpus}") ;;
esac
test_sets=${test_sets:-test}
tag=
[ "${corpus}" = libreoffice ] || tag+=_$(basename "${corpus}")
[ "${target}" = de ] || tag+=_${target}
data_opts="--corpus ${corpus} --target ${target}"
[ -z "${source_dir}" ] || data_opts+=" --source_dir ${source_dir}"
[ -z "${multi30k}" ] || data_opts+=" --multi30k ${multi30k}"
[[ " ${test_sets} " == *" test_wesnoth "* ]] || data_opts+=" --wesnoth false"

cd "$(dirname "$0")"
. ./path.sh
for preset in ${presets} ${taught}; do
    [ -e "conf/${preset}.yaml" ] || [ -e "../../../conf/${preset}.yaml" ] \
        || fail "${preset}: there is no ${preset}.yaml in conf/ of this recipe or of the repository"
done
datadir=${datadir:-data${tag}}
expdir=${expdir:-exp${tag}}

options_of() {  # <preset> <bits> <granularity>: the options of a preset, or of a file of conf/, with these bits and scales
    local file=conf/$1.yaml kind="--quantizer_conf granularity=$3"
    [ -e "${file}" ] || file=$1
    [[ $3 != g[0-9]* ]] || kind="--quantizer_conf granularity=group --quantizer_conf group_size=${3#g}"
    echo "--quantizer_config ${file} --quantizer_conf bits=$2 ${kind}"
}

train=conf/train_mt.yaml
tune="--max_epoch 1 --optim_conf lr=3.0e-4 --scheduler_conf max_steps=550"  # an epoch
systems="float: {train: ${train}}"
add() {  # <name> <mode: what> <options> [<further field>]
    systems+=$'\n'"$1:"$'\n'"    $2"$'\n'"    options: $3${4:+$'\n'    $4}"
}
for b in ${bits}; do
    for kind in ${granularity}; do
        add "rounded_${kind}_w${b}" "round: float" "$(options_of ste_w4 "${b}" "${kind}")"
        add "clip_${kind}_w${b}" "round: float" "$(options_of clip_w4 "${b}" "${kind}")"
        add "calibrated_${kind}_w${b}" "calibrate: float" "$(options_of rand_m3_ste_w4 "${b}" "${kind}")"
    done
done
for seed in ${seeds}; do
    add "float_tuned.${seed}" "train: ${train}" "${tune} --seed ${seed}" "from: float"
    for b in ${bits}; do
        for kind in ${granularity}; do
            for preset in ${presets}; do
                add "${preset%_w*}_${kind}_w${b}.${seed}" "train: ${train}" \
                    "${tune} --seed ${seed} $(options_of "${preset}" "${b}" "${kind}")" "from: float"
            done
            for preset in ${taught}; do
                add "${preset%_w*}_taught_${kind}_w${b}.${seed}" "train: ${train}" \
                    "${tune} --seed ${seed} $(options_of "${preset}" "${b}" "${kind}")" $'from: float\n    teacher: float'
            done
        done
    done
done

../../TEMPLATE/mt1/mt.sh --systems "${systems}" \
    --python "espnet-rand --import small_embeddings" \
    --local_data_opts "--datadir ${datadir} ${data_opts}" \
    --datadir "${datadir}" \
    --expdir "${expdir}" \
    --test_sets "${test_sets}" \
    "${options[@]}"
