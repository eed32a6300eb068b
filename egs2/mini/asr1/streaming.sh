#!/usr/bin/env bash
# A streaming transducer whose tokens are the digits: in float, with RAND at 4 bits from it, packed, and shipped to
# sherpa-onnx, whose online recognizer says words while one speaks. README.md ("In sherpa-onnx") makes data/kaldi first.

set -euo pipefail
cd "$(dirname "$0")"
. ./path.sh

data=data/kaldi
exp=exp/kaldi
list=${data}/token_list/word/tokens.txt
stats=${data}/stats_char
[ -s "${stats}/train/feats_stats.npz" ] || { echo "$0: ${stats} is not there. Fix: README.md, In sherpa-onnx" >&2; exit 1; }

mkdir -p "${list%/*}"
python -m espnet2.bin.tokenize_text --token_type word --field 2- --input "${data}/train/text" --output "${list}" \
    --write_vocabulary true --add_symbol '<blank>:0' --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1'
options=()
for part in train valid; do
    folder=${data}/${part/valid/dev}
    awk '{ print $1, NF - 1 }' "${folder}/text" > "${list%/*}/${part}.shape"
    options+=(--${part}_data_path_and_name_and_type "${folder}/wav.scp,speech,sound"
        --${part}_data_path_and_name_and_type "${folder}/text,text,text"
        --${part}_shape_file "${stats}/${part}/speech_shape" --${part}_shape_file "${list%/*}/${part}.shape")
done
train() {  # <name> <options> ...
    espnet-rand -m espnet2.bin.asr_transducer_train --config conf/train_transducer_streaming.yaml --resume true \
        --token_type word --token_list "${list}" --normalize global_mvn \
        --normalize_conf "stats_file=${stats}/train/feats_stats.npz" "${options[@]}" --output_dir "${exp}/$1" "${@:2}"
}
train streaming --max_epoch 16
train streaming_w4 --max_epoch 4 --optim_conf lr=0.001 --scheduler_conf warmup_steps=50 \
    --init_param "${exp}/streaming/valid.loss.ave.pth" --quantizer_config rand_onnx_w4
model=${exp}/streaming_w4
python -m espnet_rand.bin.pack_weights --task asr_transducer --train_config "${model}/config.yaml" \
    --model_file "${model}/valid.loss.ave.pth" --output "${model}/packed.safetensors"
espnet-rand ship "${model}/packed.safetensors" --task asr_transducer --train_config "${model}/config.yaml" \
    --target sherpa_onnx --data "${data}/test/wav.scp,${data}/test/text" --output "${model}/sherpa_onnx" \
    --num_check 400 --min_agreement 0
