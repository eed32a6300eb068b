"""The model card: README.md of a published folder, with the head that the hub reads."""

import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import yaml

import espnet_rand
from espnet_rand.layers.report import QuantizedEntry
from espnet_rand.packing import PackedModel, report
from espnet_rand.publishing.account import Account
from espnet_rand.publishing.exported import Exported
from espnet_rand.reporting import markdown
from espnet_rand.toolkit.zoo import Loader

#: what the hub calls tasks
_PIPELINES = {
    "asr": "automatic-speech-recognition",
    "asr_transducer": "automatic-speech-recognition",
    "enh": "audio-to-audio",
    "mt": "translation",
    "s2t": "automatic-speech-recognition",
    "tts": "text-to-speech",
}
_HEARS, _OF_TEXT = ("asr", "asr_transducer"), ("lm", "mt")


@dataclass(frozen=True)
class Card:
    """README.md of a folder.

    Attributes:
        tag: the name that it is published by
        packed: what the packed file, `model_file`, holds
        exported: what is there for other runtimes
        float_file: the checkpoint with decoded weights; None: there is none
        search: options of `loader`
        packages: what pip installs for this kind of model, beside ESPnet
    """

    tag: str
    task: str
    loader: Loader
    packed: PackedModel
    model_file: str
    account: Account
    exported: Sequence[Exported]
    float_file: Optional[str]
    search: Mapping[str, Any]
    packages: Sequence[str] = ()

    def text(self) -> str:
        """The whole page."""
        parts = [self._head(), self._first(), self._use(), self._origin(), self._quantization()]
        if self.account.results:
            parts.append(f"## Results\n\n{self.account.results.strip()}\n")
        if self.exported:
            parts.append(self._exports())
        if self.float_file is not None:
            parts.append(self._without_plugin())
        return "\n".join(parts)

    def programs(self) -> Dict[str, str]:
        """The programs of the page, by what they show."""
        # a process that has registered does so for good
        stock = {} if self.float_file is None else {"ESPnet alone": self.stock_code()}
        return {**stock, "ESPnet with espnet_rand": self.code()}

    def code(self) -> str:
        """A program that loads the model, and decodes recording.wav where the task is recognition."""
        loader = self.loader
        lines = [
            "import espnet_rand\n",
            "espnet_rand.register()",
            f"from {loader.module} import {loader.name}",
            *["from espnet_rand.longform import LongForm"] * (self.task in _HEARS),
            f'\nmodel = {loader.name}.from_pretrained("{self.tag}"{self._options()})',
            *['print(LongForm(model)("recording.wav").text)'] * (self.task in _HEARS),
        ]
        return "\n".join(lines) + "\n"

    def stock_code(self) -> str:
        """A program of ESPnet alone that loads the checkpoint with decoded weights."""
        loader = self.loader
        return (
            f"from {loader.module} import {loader.name}\nfrom espnet_model_zoo.downloader import ModelDownloader\n\n"
            f'files = ModelDownloader().download_and_unpack("{self.tag}")\n'
            f'files["{loader.model}"] = files["{loader.model}"].replace("{self.model_file}", '
            f'"{self.float_file}")\nmodel = {loader.name}(**files{self._options()})\n'
        )

    def _options(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.search.items())

    def _head(self) -> str:
        told = {
            "language": [*self.account.languages],
            "license": self.account.license,
            "library_name": "espnet",
            "pipeline_tag": _PIPELINES.get(self.task, ""),
            "datasets": [*self.account.datasets],
            "tags": ["espnet", *["audio"] * (self.task not in _OF_TEXT), "espnet_rand", "quantized"],
        }
        head = yaml.safe_dump({key: value for key, value in told.items() if value}, allow_unicode=True, sort_keys=False)
        return f"---\n{head}---\n"

    def _first(self) -> str:
        bits = ", ".join(map(str, sorted({weight.bits for weight in self.packed.weights.values()})))
        return (
            f"# {self.tag.partition('/')[2]}\n\nA model of [ESPnet](https://github.com/espnet/espnet), task "
            f"`{self.task}`, with weights of {bits} bits, packed in one file.\n"
        )

    def _use(self) -> str:
        packages = " ".join(["espnet", "espnet_model_zoo", *self.packages])
        return (
            '## Use\n\nThe model needs the plugin espnet_rand. ESPnet alone ends with "size mismatch".\n\n'
            f'```sh\npip install {packages} "{self.account.plugin}"\n```\n\n'
            f"```python\n{self.code()}```\n"
        )

    def _origin(self) -> str:
        given = self.account
        rows = [["weights", given.origin, given.license], ["data", ", ".join(given.datasets), given.data_license]]
        return "## Origin\n\n" + markdown(["", "from", "license"], [[*map(_cell, row)] for row in rows])

    def _quantization(self) -> str:
        held = report(self.packed)
        kinds: Dict[Tuple[int, str], List[QuantizedEntry]] = {}
        for entry in held.quantized:
            kinds.setdefault((entry.bits, entry.quantizer), []).append(entry)
        rows = [
            [
                f"{bits} bits",
                rounding,
                str(len(entries)),
                *_sums([(math.prod(e.shape), e.bytes_after) for e in entries]),
            ]
            for (bits, rounding), entries in sorted(kinds.items())
        ]
        kept = held.left_in_float
        rows.append(["not quantized", "", str(len(kept)), *_sums([(e.parameters, e.bytes) for e in kept])])
        before, after, ratio = (held.totals[name] for name in ("bytes_before", "bytes_after", "ratio"))
        return (
            f"## Weights\n\n{markdown(['', 'rounded by', 'tensors', 'numbers', 'bytes'], rows)}\n"
            f"The quantizer is `{self.packed.info.get('quantizer', 'unknown')}`; report.json has its options. "
            f"In float32 the weights take {before:,} bytes, packed {after:,}: 1/{ratio:.1f} of it. "
            f"Written by espnet_rand {espnet_rand.__version__}.\n"
        )

    def _exports(self) -> str:
        rows = [[f"`{e.folder}`", _cell(e.runtime), f"{e.bytes / 1e6:.1f}", _cell(e.agreement)] for e in self.exported]
        return "## For other runtimes\n\n" + markdown(["folder", "runtime", "MB", "checked"], rows)

    def _without_plugin(self) -> str:
        return (
            f"## Without espnet_rand\n\n`{self.float_file}` has the same weights as float numbers. ESPnet alone loads "
            f"it:\n\n```python\n{self.stock_code()}```\n"
        )


def _sums(pairs: Iterable[Tuple[int, int]]) -> List[str]:
    """The sums of numbers and of bytes, for cells of a table."""
    return [f"{sum(column):,}" for column in zip(*pairs)] or ["0", "0"]


def _cell(text: str) -> str:
    """A text for a cell of a table."""
    return " ".join(text.replace("|", "\\|").split()) or "-"
