#!/usr/bin/env bash
# The stages of recipes with long recordings, after those of asr.sh: 8 long test sets, 9 decoding, 10 scoring by
# duration. A recipe's run.sh calls this script in its own directory, with the list of systems that asr.sh trained.
#
# Finished jobs are skipped; a decoding that was interrupted goes on after its last window.

set -euo pipefail

# General
stage=8              # first stage to run
stop_stage=10        # last stage to run
nj=2                 # decodings at a time
ngpu=0               # decoding takes one, if there are any
python=espnet-rand   # python, or a launcher that behaves like it
datadir=data         # data directories
expdir=exp           # models and results
systems=             # the list: see below

# Test sets
test_sets=test       # data directories whose utterances are joined
by=chapter           # what is joined: recording, speaker, chapter, all
pause=0.5            # seconds between two utterances; natural: as in their recording
durations="30 60 120 300 600 whole" # lengths of the recordings, in seconds; whole: a chapter, speaker ...; utterance
pipes=false          # true: run the commands ("COMMAND |") in wav.scp
further_sets=        # long test sets that exist already: directories in datadir with a manifest.jsonl
baseline=            # the system, without the number of a run, that the others are compared with

# Decoding
modes="windows whole" # and vad
whole_durations="utterance 30 60 120 300" # lengths that are decoded whole, too: memory grows with the square
window=              # seconds; default: that of asr_inference_long
overlap=             # seconds, likewise
inference_config=conf/decode_asr.yaml
inference_model=valid.loss.ave.pth
inference_args=      # more options for decoding

# Scoring
score_cleaner=none   # text cleaner for reference and hypothesis, e.g. whisper_en

template=$(cd "$(dirname "$0")" && pwd)
task=asr
modules=jiwer
. "${template}/utils/jobs.sh"

length() {  # <duration>: prints the directory of a long test set
    case $1 in whole | utterance) echo "$1" ;; *) echo "$1s" ;; esac
}

lengths() {  # <mode>: prints the directories of a long test set that are decoded in a mode
    local duration
    for duration in ${durations}; do
        [ "$1" != whole ] || [[ " ${whole_durations} " == *" ${duration} "* ]] || continue
        length "${duration}"
    done
}

for_sets() {  # <function> ...: calls it with ... and each mode, long test set, and its directories
    local mode name
    for mode in ${modes}; do
        for name in ${test_sets}; do
            [ -z "$(lengths "${mode}")" ] || "$@" "${mode}" "long_${name}" $(lengths "${mode}")
        done
        for name in ${further_sets}; do
            [ "${mode}" = whole ] || "$@" "${mode}" "${name}" .
        done
    done
}

if selected 8; then
    list=$(for name in ${test_sets}; do
        for duration in ${durations}; do
            log=${datadir}/long_${name}/join_${duration}.log
            outdated "${log}" "${datadir}/long_${name}/$(length "${duration}")/manifest.jsonl" \
                "${datadir}/${name}/"{wav.scp,text}
            job "${log}" 0 - "python3 -m espnet_rand.bin.join_utterances \
--data_dir ${datadir}/${name} --output_dir ${datadir}/long_${name} --durations ${duration} --by ${by} --pause ${pause}\
$([ "${pipes}" = false ] || echo " --pipes")"
        done
    done)
    run_jobs "long test sets" "${list}"
fi

decode_job() {  # <name> <mode> <init> <decoding mode> <set> <length> ...: decodes these lengths in one process
    local dir=${expdir}/$1/$4_$5 lengths=("${@:6}") type=sound files length lists= log windows=
    log=${dir}/decode_$(IFS=_; echo "${lengths[*]}").log
    files=$(model_files "$1" "$2" "$3") || exit 1
    [ -z "${window}" ] || windows+=" --window ${window}"
    [ -z "${overlap}" ] || windows+=" --overlap ${overlap}"
    [ "${pipes}" = false ] || type=kaldi_ark  # which may have commands
    for length in "${lengths[@]}"; do
        [ -s "${datadir}/$5/${length}/wav.scp" ] || die "${datadir}/$5/${length} is not there: run stage 8 first"
        outdated "${log}" "${dir}/${length}/1best_recog/text" "${datadir}/$5/${length}/wav.scp" "${inference_config}" \
            "${files##* }"
        lists+=" --data_path_and_name_and_type ${datadir}/$5/${length}/wav.scp,speech,${type}"
    done
    job "${log}" 0 - "${decode_cmd} ${python} -m espnet_rand.bin.asr_inference_long --config ${inference_config} \
--ngpu $((ngpu > 0)) --mode $4${windows} ${lists} ${files} \
--output_dir ${dir}$([ ${#lengths[@]} -gt 1 ] || echo "/${lengths[0]}") ${inference_args}"
}

decode_jobs() {  # <name> <mode> <config> <init> ...
    [ "$2" = plan ] || for_sets decode_job "$1" "$2" "$4"
}

if selected 9; then
    list=$(for_systems decode_jobs)
    run_jobs "decoding long recordings" "${list}"
fi

decoded() {  # <mode> <set> <length> ...
    printf "$1:$2/%s\n" "${@:3}"
}

if selected 10; then
    python3 "${template}/score_long.py" --expdir "${expdir}" --datadir "${datadir}" \
        --systems $(for_systems model_name) --decoded $(for_sets decoded) --baseline "${baseline}" \
        --cleaner "${score_cleaner}"
fi
