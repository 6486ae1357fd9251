#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml allows.
#
#     bash scripts/checks/lowest_versions.sh [--python 3.11] [--with torch==2.11.0,transformers==5.17.0] [PYTEST ARGUMENT ...]
#
# What is named --with is installed in that version, and everything else in the newest, instead of the lowest. The
# environment stays in $ENVIRONMENT, if that is set, and is used again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=3.11 with=""
while [ $# -gt 1 ]; do
  case $1 in
    --python) python=$2 ;;
    --with) with=${2//,/ } ;;
    *) break ;;
  esac
  shift 2
done
if [ -z "${ENVIRONMENT:-}" ]; then
  ENVIRONMENT=$(mktemp -d)
  trap 'rm -rf "$ENVIRONMENT"' EXIT
fi
if [ ! -x "$ENVIRONMENT/uv/bin/uv" ]; then
  python3 -m venv "$ENVIRONMENT/uv"
  "$ENVIRONMENT/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
fi
uv=$ENVIRONMENT/uv/bin/uv
[ -x "$ENVIRONMENT/env/bin/python" ] || "$uv" venv --quiet --python "$python" "$ENVIRONMENT/env"
resolution=lowest-direct
[ -z "$with" ] || resolution=highest
# shellcheck disable=SC2086
"$uv" pip install --quiet --upgrade --python "$ENVIRONMENT/env" --resolution "$resolution" --editable ".[test]" $with
"$uv" pip install --quiet --python "$ENVIRONMENT/env" --no-deps --require-hashes --requirement scripts/model.txt
"$uv" pip list --quiet --python "$ENVIRONMENT/env" | grep -i -E '^(torch|transformers|tokenizers|numpy|pyarrow|faiss-cpu|openvino|nncf|huggingface-hub) '
unset PYTHONDONTWRITEBYTECODE
"$ENVIRONMENT/env/bin/python" --version
"$ENVIRONMENT/env/bin/python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
