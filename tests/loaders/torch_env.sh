#!/usr/bin/env bash
# Makes .venv-torch, the environment of the torch tests: torch brings gigabytes along, so it stays out of .venv.
# Where pip is given an index that has wheels of torch for the CPU alone (PIP_EXTRA_INDEX_URL), it takes those.
# vLLM and SGLang come without their dependencies, which are for GPUs: their plugin search, registries and loaders are
# what the tests use. Where they cannot be had, those tests skip.
set -eu
cd "$(dirname "$0")/../.."

venv=.venv-torch
ready=$venv/.ready
servers="vllm==0.33.0 sglang==0.5.23"
[ -e "$ready" ] && [ "$ready" -nt pyproject.toml ] && [ "$ready" -nt "$0" ] && exit 0
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet "$@"; }
pip --upgrade 'pip>=25.1'
pip --editable . --group torch
# shellcheck disable=SC2086
if ! { pip --no-warn-conflicts --only-binary :all: --group servers && pip --only-binary :all: --no-deps $servers; }; then
  echo "vllm and sglang: skipped because they cannot be installed here"
fi
touch "$ready"
