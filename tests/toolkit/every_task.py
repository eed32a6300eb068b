"""ESPnet's tasks at the tiniest size: a model, a batch to train it with, and the programs that decode with it."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, NamedTuple, Optional

import soundfile
import torch
import yaml

from espnet_rand.toolkit.commands.checkpoints import find_task
from tests.toolkit.tasks import CONFORMER, FEATURES, FRONTEND, SMALL, TOKENS, write_config

RATE = 16000
#: Builds what decodes of config.yaml and a model file; called, it decodes.
Decoder = Callable[[Path, Path], Callable[[], Any]]


class Tiny(NamedTuple):
    """A task.

    Attributes:
        batch: what a step of training gets; None: ESPnet itself cannot train the task
        programs: what decodes, by the names of ESPnet's programs
        options: the model's, beside those of tasks.MODELS
        model: its name in tasks.MODELS, if it is another than the task's
        conf: options of quantizer_conf
        stand_ins: what stands in for packages that ESPnet wants for the task and that compute nothing here, by its name
    """

    batch: Optional[Dict[str, Any]]
    programs: Dict[str, Decoder] = {}
    options: Dict[str, Any] = {}
    model: str = ""
    conf: Dict[str, Any] = {}
    stand_ins: Dict[str, Any] = {}


def _program(name: str, kind: str, *given: Any, take: Callable = lambda found: found, **options: Any) -> Decoder:
    """A class of espnet2.bin, called with `given`; `take` gives what counts of its result."""

    def build(config, model):
        program = getattr(import_module(f"espnet2.bin.{name}"), kind)(config, model, **options)
        return lambda: take(program(*given))

    return build


def _search(name: str, kind: str, given: torch.Tensor, **options: Any) -> Dict[str, Decoder]:
    """A program that searches: its tokens and scores."""
    return {name: _program(name, kind, given, take=_tokens, beam_size=3, **options)}


def _tokens(found: Any) -> Any:
    return [(list(map(int, hypothesis[2])), float(hypothesis[-1].score)) for hypothesis in found]


def _padded(**tensors: torch.Tensor) -> Dict[str, torch.Tensor]:
    """A batch of tensors, (2, length, ...), with their lengths."""
    lengths = {f"{name}_lengths": torch.full((len(t),), t.shape[1]) for name, t in tensors.items()}
    return {**tensors, **lengths}


_RANDOM = torch.Generator().manual_seed(0)
SPEECH = 0.1 * torch.randn(2, 8000, generator=_RANDOM)
ONE = SPEECH[0]
TEXT = torch.tensor([[2, 3, 4], [3, 2, 2]])
UNITS = torch.randint(0, 6, (2, 49), generator=_RANDOM)
ENCODER = {"encoder": "transformer", "encoder_conf": {"output_size": 16, **SMALL}}
MELS = {"frontend": "default", "frontend_conf": FRONTEND["frontend_conf"]}

S2T_TOKENS = [
    *("<blank>", "<unk>", "<na>", "<nolang>", "<asr>", "<eng>", "<notimestamps>", "<0.00>", "<30.00>"),
    *("a", "b", "<sos>", "<eos>", "<sop>"),
]
S2T_TEXT = _padded(
    text=torch.tensor([[5, 4, 9, 10], [5, 4, 10, 9]]), text_prev=torch.full((2, 1), 2), text_ctc=TEXT + 7
)

VITS = {
    "hidden_channels": 8,
    "segment_size": 8,
    "text_encoder_blocks": 1,
    "text_encoder_ffn_expand": 2,
    "decoder_channels": 16,
    "decoder_upsample_scales": [8, 8],
    "decoder_upsample_kernel_sizes": [16, 16],
    "decoder_resblock_kernel_sizes": [3],
    "decoder_resblock_dilations": [[1]],
    "posterior_encoder_layers": 2,
    "flow_flows": 1,
    "flow_layers": 1,
}
SCALES = {"channels": 4, "max_downsample_channels": 8, "downsample_scales": [4], "kernel_sizes": [15, 5, 5, 3]}
DISCRIMINATOR = {
    "scales": 1,
    "scale_discriminator_params": {**SCALES, "max_groups": 2},
    "periods": [2],
    "period_discriminator_params": {"channels": 4, "max_downsample_channels": 8, "downsample_scales": [3, 3]},
}
MEL_LOSS = {"fs": RATE, "n_fft": 256, "hop_length": 64, "win_length": None, "n_mels": 8}
PITCH = {
    "pitch_extract": "dio",
    "pitch_extract_conf": {"fs": RATE, "n_fft": 256, "hop_length": 128, "reduction_factor": 1},
}
GENERATOR = {"weight_norm": True, "exclude": ["*.discriminator"]}
SPECTROGRAM = {"feats_extract_conf": {"n_fft": 256, "hop_length": 64}}


def _score(frames: int) -> Dict[str, torch.Tensor]:
    """Three notes of a song, of so many frames together."""
    notes = torch.full((2, 3), frames // 3)
    return {
        **_padded(text=TEXT, label=TEXT, midi=TEXT, duration_phn=notes, duration_ruled_phn=notes, duration_syb=notes),
        **_padded(slur=torch.zeros_like(notes)),
        "phn_cnt": torch.ones_like(notes),
    }


def _sing(hop: int, task: str) -> Dict[str, Decoder]:
    score = {name: notes[0] for name, notes in _score(8000 // hop).items() if not name.endswith("_lengths")}

    def build(config, model):
        sing = import_module("espnet2.bin.svs_inference").SingingGenerate(config, model, svs_task=task)
        return lambda: sing(**score)["feat_gen" if task == "svs" else "wav"]

    return {"svs_inference": build}


def _separator(wrapper: str) -> Dict[str, Any]:
    return {
        "encoder_conf": {"n_fft": 128, "hop_length": 64},
        "decoder_conf": {"n_fft": 128, "hop_length": 64},
        "separator_conf": {"num_spk": 2 if wrapper == "pit" else 1, "layer": 1, "unit": 8},
        "criterions": [{"name": "snr", "conf": {}, "wrapper": wrapper, "wrapper_conf": {}}],
    }


TDNN = {
    **MELS,
    "encoder": "ecapa_tdnn",
    "encoder_conf": {"ndim": 16, "output_size": 16, "model_scale": 2},
    "projector_conf": {"output_size": 8},
}
CONVOLUTIONS = [[8, 10, 5], [8, 8, 8], [8, 4, 4]]


def _identify(config: Path, model: Path) -> Callable[[], Any]:
    """What espnet2.bin.lid_inference writes of a recording."""
    data, output = config.parent / "data", config.parent / model.suffix
    for folder in (data, output):
        folder.mkdir(exist_ok=True)
    soundfile.write(data / "a.wav", ONE.numpy(), RATE)
    for name, value in (("wav.scp", data / "a.wav"), ("shape", len(ONE)), ("utt2lang", "a")):
        (data / name).write_text(f"a {value}\n")
    (data / "lang2utt").write_text("a a\nb b\nc c\nd d\n")
    languages = {**yaml.safe_load(config.read_text()), "lang2utt": str(data / "lang2utt")}
    (data / "config.yaml").write_text(yaml.safe_dump(languages))
    options = {
        "output_dir": output,
        "shape_file": data / "shape",
        "lid_train_config": data / "config.yaml",
        "lid_model_file": model,
        **{"valid_batch_size": 1, "num_workers": 0, "extract_embd": True, "save_embd_per_utt": True},
    }
    given = [
        *options.items(),
        *(
            ("data_path_and_name_and_type", f"{data}/{what}")
            for what in ("wav.scp,speech,sound", "utt2lang,lid_labels,text")
        ),
    ]
    words = [str(word) for name, value in given for word in (f"--{name}", value)]

    def decode():
        import_module("espnet2.bin.lid_inference").main(words)
        return {path.name: path.read_bytes() for path in sorted(output.rglob("*")) if path.suffix != ".done"}

    return decode


def _extract(config: Path, model: Path) -> Callable[[], Any]:
    """What espnet2.bin.enh_tse_inference separates."""
    extract = import_module("espnet2.bin.enh_tse_inference").SeparateSpeech(config, model)
    return lambda: extract(SPEECH[:1], RATE, enroll_ref1=SPEECH[:1])


def _rescore(config: Path, model: Path) -> Callable[[], Any]:
    """What espnet2.bin.asr_inference finds with this language model."""
    asr = config.parent / "asr"
    if not asr.exists():
        write_config("asr", asr)
    torch.manual_seed(0)
    return _program(
        "asr_inference", "Speech2Text", ONE, take=_tokens, lm_train_config=config, lm_file=model, beam_size=3,
        maxlenratio=-6.0,
    )(asr / "config.yaml", None)  # fmt: skip


def _encode(config: Path, model: Path) -> Callable[[], Any]:
    """What the encoder of an asvspoof model gives."""
    built, _ = find_task("asvspoof").build_model_from_file(config, model)
    return lambda: built.eval().encode(SPEECH, torch.tensor([8000, 8000]))[0]


def _generate(config: Path, model: Path) -> Callable[[], Any]:
    """What the generator of an uasr model gives."""
    built, _ = find_task("uasr").build_model_from_file(config, model)
    return lambda: built.eval().inference(torch.ones(1, 8, 80), torch.tensor([8]))[0]


def _stream(config: Path, model: Path) -> Callable[[], Any]:
    """What espnet2.bin.asr_inference_streaming finds."""
    kind = import_module("espnet2.bin.asr_inference_streaming").Speech2TextStreaming
    stream = kind(config, model, beam_size=3, ctc_weight=0.3)

    def decode():
        stream(ONE[:4000], is_final=False)
        return _tokens(stream(ONE[4000:], is_final=True))

    return decode


#: The tasks that are quantized from YAML, by their names.
TASKS: Dict[str, Tiny] = {
    "asr": Tiny(_padded(speech=SPEECH, text=TEXT), _search("asr_inference", "Speech2Text", ONE, maxlenratio=-6.0)),
    "asr, streaming": Tiny(
        _padded(speech=SPEECH, text=TEXT), {"asr_inference_streaming": _stream}, model="asr_streaming"
    ),
    "asr_transducer": Tiny(
        _padded(speech=SPEECH, text=TEXT),
        {
            "asr_transducer_inference": _program(
                "asr_transducer_inference",
                "Speech2Text",
                ONE,
                beam_size=3,
                take=lambda found: [(hypothesis.yseq, float(hypothesis.score)) for hypothesis in found],
            )
        },
    ),
    "s2t": Tiny(
        {**_padded(speech=SPEECH), **S2T_TEXT},
        _search("s2t_inference", "Speech2Text", ONE, maxlenratio=-6.0, lang_sym="<eng>", task_sym="<asr>"),
        {**FRONTEND, **CONFORMER, "token_list": S2T_TOKENS},
    ),
    "s2t_ctc": Tiny(
        {**_padded(speech=SPEECH, prefix=torch.tensor([[5, 4], [5, 4]])), **S2T_TEXT},
        _search("s2t_inference", "Speech2Text", ONE, lang_sym="<eng>", task_sym="<asr>"),
        {
            **FRONTEND,
            "token_list": S2T_TOKENS,
            "encoder_conf": {"output_size": 16, **SMALL, "cgmlp_linear_units": 16, "cgmlp_conv_kernel": 3},
            "promptencoder_conf": {"output_size": 16, **SMALL},
        },
    ),
    "slu": Tiny(
        _padded(speech=SPEECH, text=TEXT), _search("slu_inference", "Speech2Understand", ONE, maxlenratio=-6.0)
    ),
    "st": Tiny(
        _padded(speech=SPEECH, text=TEXT, src_text=TEXT),
        _search("st_inference", "Speech2Text", ONE, maxlenratio=-6.0),
    ),
    "mt": Tiny(
        _padded(text=TEXT, src_text=TEXT),
        _search("mt_inference", "Text2Text", TEXT[0], maxlenratio=-6.0),
    ),
    "lm": Tiny(_padded(text=TEXT), {"asr_inference": _rescore}),
    "tts": Tiny(
        _padded(text=TEXT, speech=SPEECH),
        {
            "tts_inference": _program(
                "tts_inference", "Text2Speech", TEXT[0], maxlenratio=2.0, take=lambda result: result["feat_gen"]
            )
        },
    ),
    "tts2": Tiny(
        {
            **_padded(text=TEXT, speech=SPEECH, discrete_speech=torch.randint(1, 5, (2, 63), generator=_RANDOM)),
            **_padded(durations=torch.full((2, 4), 16), pitch=torch.rand(2, 4, 1), energy=torch.rand(2, 4, 1)),
        },
        {"tts2_inference": _program("tts2_inference", "Text2Speech", TEXT[0], take=lambda result: result["feat_gen"])},
        {
            "src_token_list": TOKENS,
            "tgt_token_list": TOKENS,
            "tts_conf": {
                **dict.fromkeys(("adim", "eunits", "dunits", "duration_predictor_chans"), 8),
                **dict.fromkeys(("pitch_predictor_chans", "energy_predictor_chans"), 8),
                **dict.fromkeys(("elayers", "dlayers", "pitch_embed_kernel_size", "energy_embed_kernel_size"), 1),
                "postnet_layers": 0,
                "aheads": 2,
            },
            **PITCH,
            "energy_extract": "energy",
            "energy_extract_conf": {"fs": RATE, "n_fft": 256, "hop_length": 128},
        },
        stand_ins={"pyworld": None, "espnet2.tasks.tts2.TTS2Task.build_vocoder_from_file": lambda *_: None},
    ),
    "gan_tts": Tiny(
        _padded(text=TEXT, speech=SPEECH),
        {"tts_inference": _program("tts_inference", "Text2Speech", TEXT[0], take=lambda result: result["wav"])},
        {
            **SPECTROGRAM,
            "tts_conf": {
                "sampling_rate": RATE,
                "generator_params": VITS,
                "discriminator_params": DISCRIMINATOR,
                "mel_loss_params": MEL_LOSS,
            },
        },
        conf=GENERATOR,
    ),
    "svs": Tiny(
        {**_padded(singing=SPEECH), **_score(63)},
        _sing(128, "svs"),
        {
            **FEATURES,
            "score_feats_extract_conf": {"n_fft": 256, "win_length": 256, "hop_length": 128},
            "svs_conf": {
                **dict.fromkeys(("embed_dim", "eprenet_conv_chans", "eunits", "dunits", "postnet_chans"), 8),
                **dict.fromkeys(("eprenet_conv_layers", "elayers", "dlayers", "postnet_layers"), 1),
            },
        },
    ),
    "gan_svs": Tiny(
        {**_padded(singing=SPEECH, pitch=torch.rand(2, 126, 1)), **_score(126)},
        _sing(64, "gan_svs"),
        {
            **SPECTROGRAM,
            "score_feats_extract": "syllable_score_feats",
            "score_feats_extract_conf": {"fs": RATE, "n_fft": 256, "win_length": 256, "hop_length": 64},
            "svs_conf": {
                "sampling_rate": RATE,
                "generator_params": {
                    **VITS,
                    "projection_filters": [0, 1],
                    "projection_kernels": [0, 5],
                    "use_phoneme_predictor": False,
                },
                "discriminator_params": DISCRIMINATOR,
                "mel_loss_params": MEL_LOSS,
            },
            **PITCH,
        },
        stand_ins={"pyworld": None},
        conf=GENERATOR,
    ),
    "gan_codec": Tiny(
        {"audio": SPEECH[:, :2000]},
        {
            "gan_codec_inference": _program(
                "gan_codec_inference",
                "AudioCoding",
                ONE[:2000],
                take=lambda result: (result["codes"], result["resyn_audio"]),
            )
        },
        {
            "codec_conf": {
                "sampling_rate": RATE,
                "generator_params": {
                    "hidden_dim": 8,
                    "encdec_n_filters": 2,
                    "encdec_ratios": [4, 2],
                    "quantizer_n_q": 2,
                    "quantizer_bins": 8,
                    "quantizer_kmeans_iters": 2,
                    "quantizer_target_bandwidth": [12],
                },
                "discriminator_params": {
                    "scales": 1,
                    "scale_discriminator_params": {**SCALES, "max_groups": 2},
                    "complexstft_discriminator_params": {
                        **{"channels": 2, "strides": [[1, 2]], "chan_mults": [1]},
                        **{"n_fft": 64, "hop_length": 16, "win_length": 64},
                    },
                },
                "mel_loss_params": {"fs": RATE, "range_end": 8, "n_mels": 8},
            },
        },
        conf=GENERATOR,
    ),
    "enh": Tiny(
        _padded(speech_mix=SPEECH, speech_ref1=SPEECH, speech_ref2=-SPEECH),
        {"enh_inference": _program("enh_inference", "SeparateSpeech", SPEECH[:1], RATE)},
        _separator("pit"),
    ),
    "enh_s2t": Tiny(
        _padded(speech=SPEECH, speech_ref1=SPEECH, text_spk1=TEXT),
        {
            "asr_inference": _program(
                "asr_inference",
                "Speech2Text",
                ONE,
                take=lambda found: _tokens(found[0]),
                beam_size=3,
                maxlenratio=-6.0,
                enh_s2t_task=True,
            )
        },
        {
            **FRONTEND,
            **{f"enh_{name}": value for name, value in _separator("fixed_order").items()},
            **{f"asr_{name}": value for name, value in CONFORMER.items()},
        },
    ),
    "enh_tse": Tiny(
        _padded(speech_mix=SPEECH, speech_ref1=SPEECH, enroll_ref1=SPEECH),
        {"enh_tse_inference": _extract},
        {
            **dict.fromkeys(("encoder", "decoder"), "conv"),
            **{f"{name}_conf": {"channel": 8, "kernel_size": 16, "stride": 8} for name in ("encoder", "decoder")},
            "extractor_conf": {
                **dict.fromkeys(("bottleneck_dim", "hidden_dim", "skip_dim", "adapt_enroll_dim"), 8),
                **{"layer": 1, "stack": 1, "i_adapt_layer": 0},
            },
            "criterions": _separator("fixed_order")["criterions"],
        },
    ),
    "diar": Tiny(
        _padded(speech=SPEECH, spk_labels=(SPEECH[:, :, None] > torch.tensor([0.0, 0.1])).float()),
        {"diar_inference": _program("diar_inference", "DiarizeSpeech", SPEECH[:1], RATE, num_spk=2)},
        {
            **FRONTEND,
            "num_spk": 2,
            "encoder_conf": {**ENCODER["encoder_conf"], "input_layer": "linear"},
            "label_aggregator_conf": {"win_length": 256, "hop_length": 128},
        },
    ),
    "spk": Tiny(
        {"speech": SPEECH, "spk_labels": torch.tensor([[0], [1]])},
        {"spk_inference": _program("spk_inference", "Speech2Embedding", ONE)},
        {**TDNN, "spk_num": 4},
    ),
    "lid": Tiny(
        {**_padded(speech=SPEECH), "lid_labels": torch.tensor([0, 1])},
        {"lid_inference": _identify},
        {**TDNN, "lang_num": 4, "model_conf": {"extract_feats_in_collect_stats": False}},
    ),
    "cls": Tiny(
        _padded(speech=SPEECH, label=torch.tensor([[1], [2]])),
        {"cls_inference": _program("cls_inference", "Classification", ONE, take=lambda result: result[1])},
        {**FRONTEND, **ENCODER},
        stand_ins={
            "espnet2.cls.espnet_model.torcheval_import_error": None,
            "espnet2.cls.espnet_model.ESPnetClassificationModel.setup_metrics_": lambda _: {},
        },
    ),
    "aqa": Tiny(
        {**_padded(audio=SPEECH), "metrics": {name: torch.tensor([1.0, 2.0]) for name in ("mos", "pesq")}},
        {"aqa_inference": _program("aqa_inference", "AqaInference", SPEECH[:1], torch.tensor([8000]))},
        {
            "frontend_conf": FRONTEND["frontend_conf"],
            "metric2id": ["mos", "pesq"],
            "token_list": None,
            **{"use_ref_text": False, "use_ref_audio": False},
            "universa_conf": {"embedding_size": 16, "audio_encoder_params": {**SMALL, "input_layer": "linear"}},
        },
    ),
    "hubert": Tiny(
        _padded(speech=SPEECH, text=UNITS),
        options={
            **{"frontend": None, "input_size": 1, "normalize": None, "num_classes": 6},
            **{"model": "torchaudio", "encoder": "torchaudio_hubert"},
            "encoder_conf": {
                "extractor_conv_layer_config": CONVOLUTIONS,
                **{f"encoder_{name}": 16 for name in ("embed_dim", "ff_interm_features")},
                **{f"encoder_{name}": 2 for name in ("num_heads", "pos_conv_groups")},
                **{"encoder_pos_conv_kernel": 3, "encoder_num_layers": 1, "encoder_layer_drop": 0.0},
                **{"final_dim": 8, "mask_length": 2},
            },
        },
    ),
    "ssl": Tiny(
        _padded(speech=SPEECH, text=UNITS),
        options={
            "frontend_conf": {
                "norm_mode": "layer_norm",
                "conv_mode": "standard",
                "bias": False,
                "shapes": CONVOLUTIONS,
            },
            "preencoder_conf": {"output_size": 16},
            "encoder_conf": {"output_size": 16, "input_layer": None, **SMALL},
            "loss": [{"name": "hubert", "conf": {"num_classes": 6, "final_dim": 8}}],
            "util": [{"name": "mask", "conf": {"mask_length": 2}}],
            "normalize": None,
        },
    ),
    "beats": Tiny(
        _padded(speech=SPEECH, target=UNITS + 1),
        options={
            "encoder_conf": {
                "beats_config": {
                    **{"encoder_layers": 1, "decoder_layers": 1, "decoder_mlp_ratio": 1.0, "codebook_vocab_size": 8},
                    **dict.fromkeys(("encoder_embed_dim", "encoder_ffn_embed_dim", "decoder_embed_dim"), 16),
                    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "conv_pos_groups"), 2),
                    **{"embed_dim": 8, "conv_pos": 4},
                },
                "is_pretraining": True,
            },
            "model_conf": {"waveform_input": True},
        },
    ),
    "s2st": Tiny(
        _padded(src_speech=SPEECH, src_text=TEXT, tgt_speech=TEXT, tgt_text=TEXT),
        {
            "s2st_inference": _program(
                "s2st_inference", "Speech2Speech", SPEECH[:1], torch.tensor([8000]), minlenratio=0.2, maxlenratio=0.4
            )
        },
        {
            **MELS,
            **{"src_normalize": None, "tgt_normalize": None, "tgt_feats_extract": None},
            **dict.fromkeys(("unit_token_list", "src_token_list", "tgt_token_list"), TOKENS),
            **dict.fromkeys(("tgt_token_type", "src_token_type"), "char"),
            **ENCODER,
            "synthesizer_conf": SMALL,
            "losses": [{"name": "synthesis", "type": "attention", "conf": {}}],
            **{"aux_attention": None, "unit_encoder": None},
        },
    ),
    "uasr": Tiny(
        None,
        {"": _generate},
        {
            "token_list": ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "<SIL>"],
            "write_collected_feats": True,
            "discriminator_conf": {"conv_channels": 8, "conv_kernel": 3},
            "generator_conf": {"conv_stride": 1},
            "losses": [{"name": "discriminator_loss", "conf": {}}],
        },
        stand_ins={"espnet2.uasr.espnet_model.kenlm": ModuleType("kenlm")},
    ),
    "asvspoof": Tiny(
        None,
        {"": _encode},
        {**FRONTEND, **ENCODER, "losses": [{"name": "binary_loss", "conf": {}}]},
    ),
}

#: The codec task, whose `--quantizer` is its own. It wants `centroid_path` in quantizer_conf.
TOKENIZER = Tiny(
    {**_padded(speech=SPEECH, text=TEXT), "spembs": SPEECH[:, :8]},
    options={
        "asr_encoder_conf": {"num_layers": 1, "hidden_size": 8, "output_size": 8, "subsample": [1]},
        "asr_embedding_conf": {"embed_dim": 8},
        "asr_model_conf": {"ctc_weight": 1.0},
        "reconstruction_loss_conf": {
            **{"token_embed_dim": 8, "speaker_embed_dim": 8, "segment_size": 8},
            "generator_params": {
                **{"channels": 16, "upsample_scales": [8, 8], "upsample_kernel_sizes": [16, 16]},
                **{"resblock_kernel_sizes": [3], "resblock_dilations": [[1]]},
            },
            "discriminator_params": DISCRIMINATOR,
            "mel_loss_params": MEL_LOSS,
        },
        "frontend_conf": {**FRONTEND["frontend_conf"], "hop_length": 64},
    },
)
