.PHONY: demo test docs notebook bench bench-packages venv

venv:
	./make_venv.sh

# Trains float and RAND models, rounds and packs, decodes, and prints their error rates.
demo: venv
	VIRTUAL_ENV= CONDA_PREFIX= egs2/mini/asr1/run.sh

test: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile

# Makes site/ of the Markdown pages; a link that leads nowhere is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

# Runs docs/notebook.ipynb, and puts the new outputs in it; a minute.
notebook: venv
	.venv/bin/python -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/notebook.ipynb
	.venv/bin/python -m nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True docs/notebook.ipynb

bench-packages: venv
	VIRTUAL_ENV=$(CURDIR)/.venv .venv-uv/bin/uv pip install --quiet --editable '.[bench]'

bench: bench-packages
	.venv/bin/python benchmarks/qat_step.py
