"""Tiny models of ESPnet's tasks, as configurations."""

import sys
from pathlib import Path
from typing import Any, Tuple

import yaml

from espnet_rand.toolkit.commands.checkpoints import find_task

TOKENS = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]
FRONTEND = {"frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": 16}, "normalize": None}
FEATURES = {
    "feats_extract_conf": {"n_fft": 256, "hop_length": 128, "win_length": None, "n_mels": 8},
    "normalize": None,
}
SMALL = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "cnn_module_kernel": 3,
        "rel_pos_type": "latest",
        **SMALL,
    },
    "decoder": "transformer",
    "decoder_conf": SMALL,
}
MODELS = {
    "asr": {**FRONTEND, **CONFORMER},
    "asr_rnn": {
        "task": "asr",
        **FRONTEND,
        "encoder": "vgg_rnn",
        "encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 8},
        "decoder": "rnn",
        "decoder_conf": {"hidden_size": 8, "att_conf": {"adim": 8, "aconv_chans": 2, "aconv_filts": 2}},
    },
    "st": {
        **FRONTEND,
        **CONFORMER,
        "src_token_list": TOKENS,
        "src_token_type": "char",
        "model_conf": {"asr_weight": 0.3, "mtlalpha": 1.0},
    },
    "slu": {**FRONTEND, **CONFORMER},
    "tts": {
        "tts": "tacotron2",
        "tts_conf": {
            "embed_dim": 8,
            "elayers": 1,
            "eunits": 8,
            "econv_layers": 1,
            "econv_chans": 8,
            "dlayers": 1,
            "dunits": 8,
            "prenet_layers": 1,
            "prenet_units": 8,
            "postnet_layers": 1,
            "postnet_chans": 8,
            "adim": 8,
            "aconv_chans": 2,
        },
        **FEATURES,
    },
    "tts_transformer": {
        "task": "tts",
        "tts": "transformer",
        "tts_conf": {
            "embed_dim": 8,
            "eprenet_conv_layers": 0,
            "elayers": 1,
            "eunits": 8,
            "adim": 8,
            "aheads": 2,
            "dlayers": 1,
            "dunits": 8,
            "dprenet_layers": 1,
            "dprenet_units": 8,
            "postnet_layers": 1,
            "postnet_chans": 8,
        },
        **FEATURES,
    },
    "asr_transducer": {
        **FRONTEND,
        "encoder_conf": {
            "body_conf": [
                {"block_type": "conformer", "hidden_size": 16, "linear_size": 16, "heads": 2, "conv_mod_kernel_size": 3}
            ]
        },
        "decoder": "rnn",
        "decoder_conf": {"embed_size": 8, "hidden_size": 8},
        "joint_network_conf": {"joint_space_size": 8},
    },
    "mt": {
        "src_token_list": TOKENS,
        "src_token_type": "char",
        "encoder": "transformer",
        "encoder_conf": {"output_size": 16, "input_layer": None, **SMALL},
        "decoder": "transformer",
        "decoder_conf": SMALL,
        "model_conf": {},
    },
    "asr_streaming": {
        "task": "asr",
        **FRONTEND,
        "encoder": "contextual_block_conformer",
        "encoder_conf": {"output_size": 16, **SMALL, "block_size": 16, "hop_size": 8, "look_ahead": 4},
        "decoder": "transformer",
        "decoder_conf": SMALL,
        "model_conf": {"ctc_weight": 0.3},
    },
    "lm": {"lm": "seq_rnn", "lm_conf": {"unit": 8, "nlayers": 2, "rnn_type": "lstm"}},
}


def write_config(name: str, folder: Path, **more: Any) -> Tuple[type, Path]:
    """Make `folder` with the config.yaml of a model of MODELS, or of a task; returns the task and the folder."""
    options = dict(MODELS.get(name, {}))
    task = find_task(options.pop("task", name))
    argv, sys.argv = sys.argv, sys.argv[:1]
    defaults = task.get_default_config()
    sys.argv = argv
    tokens = {"token_list": TOKENS, "token_type": "char"}
    config = {**defaults, **{key: tokens[key] for key in tokens if key in defaults}, **options, **more}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return task, folder
