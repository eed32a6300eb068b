#!/usr/bin/env bash
# Makes .venv here, with espnet_rand (editable), ESPnet, and what recipes, tests and docs need.
# Wants python3 with venv, and PyPI. PYTHON=/path/to/python3.12 chooses the interpreter; otherwise
# the first of 3.12, 3.13 (ESPnet 202611), 3.11, 3.10 (ESPnet 202511) that is found, and if there
# is none, uv fetches one. Does nothing where .venv is newer than pyproject.toml.

set -euo pipefail
cd "$(dirname "$0")"

if [ .venv/.done -nt pyproject.toml ]; then
    exit 0
fi

version() {  # of an interpreter: 3.12; nothing if it does not run
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null
}

find_python() {
    local wanted candidate
    for wanted in 3.12 3.13 3.11 3.10; do
        for candidate in "python${wanted}" python3 "${PYENV_ROOT:-${HOME}/.pyenv}/versions/${wanted}".*/bin/python; do
            if [ "$(version "${candidate}")" = "${wanted}" ]; then
                "${candidate}" -c 'import sys; print(sys.executable)'
                return
            fi
        done
    done
    echo 3.12
}

python=${PYTHON:-$(find_python)}
echo "make_venv.sh: Python ${python}; some gigabytes of packages, a minute or more"
if ! python3 -m venv .venv-uv || ! .venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv; then
    echo "make_venv.sh: cannot install uv. Fix: install python3 with its venv module (Debian: apt-get install" \
        "python3-venv) and see that PyPI is reached" >&2
    exit 1
fi
rm -rf .venv
.venv-uv/bin/uv venv --quiet --python "${python}" .venv
VIRTUAL_ENV=${PWD}/.venv .venv-uv/bin/uv pip install --quiet --compile-bytecode --editable '.[train,test,export,docs]'
touch .venv/.done
