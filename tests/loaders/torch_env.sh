#!/usr/bin/env bash
# Makes .venv-torch, the environment of the torch tests: torch brings gigabytes along, so it stays out of .venv.
# Where pip is given an index that has wheels of torch for the CPU alone (PIP_EXTRA_INDEX_URL), it takes those.
set -eu
cd "$(dirname "$0")/../.."

venv=.venv-torch
ready=$venv/.ready
[ -e "$ready" ] && [ "$ready" -nt pyproject.toml ] && exit 0
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --editable . --group torch
touch "$ready"
