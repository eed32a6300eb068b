# Puts the environment that `make demo` builds first, unless one is active.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -d "${root}/.venv/bin" ]; then
    export PATH=${root}/.venv/bin:${PATH}
fi
