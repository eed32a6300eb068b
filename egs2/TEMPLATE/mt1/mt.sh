#!/usr/bin/env bash
# The stages of translation recipes: 1 data, 2 tokens, 3 statistics, 4 training, 5 packing, 6 decoding, 7 scoring. A
# recipe's run.sh calls this script in its own directory, with its options and a list of systems.
#
# A data directory has text.src and its translation, text. Both have one list of tokens, so that models may have one
# embedding for both.
#
# Finished jobs are skipped, an interrupted training goes on where it was; to redo something, remove its directory.
# Packed and decoded files are renewed when a file that they are made of is.

set -euo pipefail

# Tokens
nbpe=5000            # number of tokens, by sentencepiece on both texts
bpemode=bpe          # bpe, unigram

# Training, decoding
mt_args=             # training options for all systems, e.g. "--max_epoch 1"
inference_config=conf/decode_mt.yaml

# Scoring
baseline=float       # the system that the others are compared with

template=$(cd "$(dirname "$0")" && pwd)
task=mt
inputs=text.src,src_text,text
outputs=text,text,text
scorer=${template}/bleu.py
modules="sacrebleu sentencepiece"
decoding_step="decoder input length: "
. "${template}/utils/stages.sh"

texts="${datadir}/${train_set}/text.src ${datadir}/${train_set}/text"
token_name=${bpemode}${nbpe}
token_dir=${datadir}/token_list/${token_name}
tokens=${token_dir}/tokens.txt
token_options="--token_type bpe --token_list ${tokens} --bpemodel ${token_dir}/bpe.model \
--src_token_type bpe --src_token_list ${tokens} --src_bpemodel ${token_dir}/bpe.model"
stats=${datadir}/stats_${token_name}
train_args=${mt_args}
score_options="--baseline ${baseline} --given nearest"

nearest_jobs() {  # for each test set, the translations of the training sentences that are nearest: what a model must beat
    local test_set data
    for test_set in ${test_sets}; do
        data=${datadir}/${test_set}
        outdated "${data}/nearest.log" "${data}/nearest" "${data}/text.src" "${datadir}/${train_set}/text"
        job "${data}/nearest.log" 0 - \
            "${python} ${template}/nearest.py --train ${datadir}/${train_set} --test ${data} --output ${data}/nearest"
    done
}

if selected 1; then
    prepare_data
fi
if selected 2; then
    list=$(token_job bpe "${texts}" "${token_dir}" "${nbpe}" "${bpemode}")
    run_jobs tokens "${list}"
fi
if selected 3; then
    [ -s "${tokens}" ] || die "${tokens} is not there: run stage 2 first"
    collect_data_stats 64
fi
if selected 4; then
    train_systems
fi
if selected 5; then
    pack_systems
fi
if selected 6; then
    decode_systems
fi
if selected 7; then
    list=$(nearest_jobs)
    run_jobs floor "${list}"
    score_systems
fi
