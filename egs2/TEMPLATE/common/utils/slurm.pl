#!/usr/bin/env bash
# Starts a command on Slurm's nodes and waits for it. It is shell; espnet2.bin.launch knows Slurm by
# this name, and calls it so:
#
#     slurm.pl [--num_threads N] [--option=of_salloc ...] --gpu N [--num_nodes N] LOG COMMAND
#
# --num_threads: CPU cores of each node. LOG must be -: what the command prints is printed.
set -euo pipefail

options=()
gpu=0 num_threads=1 num_nodes=1
while [ $# -gt 0 ] && [[ $1 == --* ]]; do
    case $1 in
        --gpu | --num_nodes)
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        --num_threads)  # the launcher gives one for each GPU; more are for reading data
            num_threads=$(($2 > num_threads ? $2 : num_threads))
            shift 2 ;;
        *)
            options+=("$1")
            shift ;;
    esac
done
if [ "${1:-}" != - ]; then
    echo "$0: the log must be -, not '${1:-}'" >&2
    exit 1
fi
shift
[ "$1" = srun ] || set -- srun "$@"
[ "${gpu}" -eq 0 ] || options+=("--gpus-per-node=${gpu}")
export SRUN_CPUS_PER_TASK=${num_threads}  # srun does not take it from salloc
exec salloc --nodes="${num_nodes}" --ntasks-per-node=1 --cpus-per-task="${num_threads}" "${options[@]}" "$@"
