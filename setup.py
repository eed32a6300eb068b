"""Packaging of espnet_rand."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

setup(
    name="espnet_rand",
    version=re.search('__version__ = "(.+)"', (here / "espnet_rand/__init__.py").read_text(encoding="utf-8"))[1],
    description="ESPnet plugin: train, pack and decode speech models with 2- to 8-bit weights, by RAND",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_rand", "espnet_rand.*"]),
    package_data={"espnet_rand": ["conf/*.yaml", "export/examples/*.py"]},
    python_requires=">=3.10",
    install_requires=["numpy", "psutil", "pyyaml", "rich", "safetensors>=0.8", "scipy", "torch>=2.6"],
    extras_require={
        # the toolkit, what its trainer imports, and what the recipes need
        "train": [
            "espnet>=202511",
            "av",
            "editdistance",
            "espeakng-loader",
            "jiwer",
            "kaldiio",
            "matplotlib",
            "openai-whisper==20250625",
            "requests",
            "sacrebleu>=2.4",
            "sentencepiece",
            "soxr",
            "tensorboard",
        ],
        # dask: ESPnet3 decodes with it
        "test": [
            "dask[distributed]",
            "dask_jobqueue",
            "hypothesis",
            "lightning",
            "loralib",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
            "types-psutil",
        ],
        "bench": ["brevitas", "torchao"],
        # writers of other runtimes' files, and the runtimes, which tests and `espnet_rand.bin.ship` decode with
        "export": [
            "ctranslate2>=4.6",
            "faster-whisper>=1.2",
            "onnx>=1.19",
            "onnxruntime>=1.23",
            "onnxscript>=0.5",
            "openai-whisper==20250625",
            "pywhispercpp>=1.4",
            "sherpa-onnx>=1.12",
            "tokenizers",
        ],
        # `make docs`
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=1"],
        # long recordings, --mode vad
        "vad": ["silero-vad"],
    },
    entry_points={"console_scripts": ["espnet-rand=espnet_rand.bin.launch:main"]},
)
