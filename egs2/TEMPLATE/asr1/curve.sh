#!/usr/bin/env bash
# The curve of size against word error rate: one model for all precisions (multi, and with the bits of each weight chosen
# for a budget: mixed), models trained at one precision each (rand, ste, lsc), and post-training quantization of the model
# fine-tuned in float (round, and round_mixed). A recipe's run.sh calls this script in its own directory.
# It trains and decodes by asr.sh, makes the table curve.md and the plot curve.png in expdir, and goes on where it was.
#
#   --float "MODE CONFIG"     the system that all start from: "train conf/train_asr.yaml", "dry ..."
#   --tune "CONFIG INIT ..."  how they are fine-tuned: configuration, INIT (float, or -: as built), options
#   --seeds "1 2 3"           one training of each for every seed
#   --bits "2 3 4 5 6 8"      precisions of the one model, and of rounding
#   --single_bits "2 3 4"     precisions of models of their own
#   --average_bits "2.5 ..."  budgets: bits in the mean over all weights
#   --multi_args "..."        options for the one model, e.g. "--quantizer_conf bits=[3,4,8]"
#   --quantizer_args "..."    options for all that is quantized, e.g. "--quantizer_conf granularity=tensor"
#   --plan_args "..."         options of allocate_bits, e.g. its data
#   --expdir exp
#
# Further options are those of asr.sh:

set -euo pipefail

float=
tune=
seeds="1 2 3"
bits="2 3 4 5 6 8"
single_bits="2 3 4"
average_bits="2.25 2.5 3 3.5 4.5"
multi_args=
quantizer_args=
plan_args=
expdir=exp
own="float tune seeds bits single_bits average_bits multi_args quantizer_args plan_args expdir"
template=$(cd "$(dirname "$0")" && pwd)
. "${template}/utils/own_options.sh"

round="--quantizer clip ${quantizer_args}"
systems="float ${float} -"
add() {
    systems+=$'\n'"$*"
}
for seed in ${seeds}; do
    add "tuned.${seed} train ${tune} --seed ${seed}"
    add "multi_w8.${seed} train ${tune} --seed ${seed} --quantizer_config rand_m3_ste_w2348 ${quantizer_args}" \
        "${multi_args}"
    add "round_plans.${seed} plan - tuned.${seed} ${round} --average_bits ${average_bits} ${plan_args}"
    add "plans.${seed} plan - multi_w8.${seed} --average_bits ${average_bits} ${plan_args}"
    for b in ${bits}; do
        [ "${b}" = 8 ] || add "multi_w${b}.${seed} pack - multi_w8.${seed} --eval_bits ${b}"
        add "round_w${b}.${seed} round - tuned.${seed} ${round} --eval_bits ${b}"
    done
    for b in ${average_bits}; do
        plan=$(LC_ALL=C printf 'average_%g.yaml' "${b}")
        name=${b/./p}.${seed}  # what follows the last dot is the run's number
        add "mixed_b${name} pack plans.${seed} multi_w8.${seed} --eval_bits ${expdir}/plans.${seed}/${plan}"
        add "round_mixed_b${name} round round_plans.${seed} tuned.${seed} ${round}" \
            "--eval_bits ${expdir}/round_plans.${seed}/${plan}"
    done
    for b in ${single_bits}; do
        for method in rand ste lsc; do
            add "${method}_w${b}.${seed} train ${tune} --seed ${seed}" \
                "--quantizer_config ${method/rand/rand_m3_ste}_w4 --quantizer_conf bits=${b} ${quantizer_args}"
        done
    done
done

. ./path.sh
"${template}/asr.sh" --expdir "${expdir}" --systems "${systems}" --table curve "${options[@]}"
for table in "${expdir}"/curve*.md; do  # more than one: with and without a language model
    [ ! -e "${table}" ] || "${template}/pyscripts/plot_curve.py" --table "${table}" --output "${table%.md}.png"
done
