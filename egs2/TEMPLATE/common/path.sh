# Puts the environment that `make demo` builds first, unless one with the plugin is active.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
if [ -d "${root}/.venv/bin" ] \
    && { [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || ! command -v espnet-rand > /dev/null; }; then
    export PATH=${root}/.venv/bin:${PATH}
fi
