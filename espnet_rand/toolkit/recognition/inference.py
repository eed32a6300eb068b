"""Takes the options of espnet2.bin.<task>_inference, and builds the model and the search that they ask for."""

import argparse
import importlib
import inspect
import logging
import re

from espnet_rand.options import OptionError
from espnet_rand.toolkit.context import checking_task, device
from espnet_rand.toolkit.recognition.recognizer import Recognizer

#: Tasks whose Speech2Text (of espnet2.bin.<task>_inference) a Recognizer takes.
TASKS = ("asr", "asr_transducer")


def get_parser(task: str) -> argparse.ArgumentParser:
    """Make a parser of the options of espnet2.bin.<task>_inference, `--ctc_greedy` and `--guard`."""
    from espnet2.utils.types import str2bool

    parser = importlib.import_module(f"espnet2.bin.{task}_inference").get_parser()
    for action in parser._actions:  # ESPnet 202611 has a "%" in a help, which ends --help with an error
        action.help = re.sub(r"%(?![(%])", "%%", action.help or "")
    parser.add_argument(
        "--ctc_greedy",
        type=str2bool,
        default=False,
        help="the best token of each frame by the model's CTC; no search, which takes longer",
    )
    parser.add_argument(
        "--guard",
        type=str2bool,
        default=True,
        help="keep once what an attention decoder says over and over, leave out its words where Whisper itself hears "
        "no speech and nothing is as loud, and hear again in parts where it went astray; report.jsonl notes it",
    )
    return parser


def build(task: str, args: argparse.Namespace) -> Recognizer:
    """Build the model and the search that the options ask for.

    Raises:
        OptionError: an option is not possible with long recordings, or another leaves it unused; see also
            context.checking_task
    """
    from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

    module = importlib.import_module(f"espnet2.bin.{task}_inference")
    for name in ("multi_asr", "enh_s2t_task", "word_lm_train_config"):
        if getattr(args, name, None):
            raise OptionError(f"--{name} is not possible with long recordings")
    for name in ("lm_file", "lm_train_config", "ngram_file"):
        if args.ctc_greedy and getattr(args, name, None):
            raise OptionError(
                f"--{name} is of the search, which --ctc_greedy true leaves out. Fix: one without the other"
            )
    if args.ngpu > 1:
        raise OptionError("--ngpu: one GPU at most")
    on = device(args.ngpu)
    given = args.asr_train_config or args.asr_model_file or args.model_tag
    if given is None:
        raise OptionError("no model is given. Fix: --asr_train_config and --asr_model_file, or --model_tag")
    if args.batch_size > 1:
        logging.info(f"espnet_rand: --batch_size {args.batch_size}: windows are decoded one by one")
    set_all_random_seed(args.seed)
    names = inspect.signature(module.Speech2Text.__init__).parameters
    options = {name: value for name, value in vars(args).items() if name in names}
    options.update(device=on, nbest=1)
    if "batch_size" in names:
        options["batch_size"] = 1
    with checking_task(task, given):
        speech2text = module.Speech2Text.from_pretrained(model_tag=args.model_tag, **options)
    return Recognizer(speech2text, args.ctc_greedy, args.guard)
