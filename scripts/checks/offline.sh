#!/usr/bin/env bash
# Gathers a folder with scripts/offline.sh, then types the commands of its README where there is no network, and
# searches. Arguments go to scripts/offline.sh; what that machine should --have is installed before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bash scripts/offline.sh "$work/gathered" "$@"
python3 -m venv "$work/env"
have=$(sed -n 's/.*--have \([^ ]*\).*/\1/p' <<< "$*")
if [ -n "$have" ]; then
  "$work/env/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
  "$work/env/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --constraint scripts/constraints.txt ${have//,/ }
fi
cd "$work/gathered"
cp "$root/scripts/demo/devils-dictionary.txt" YOUR_TEXT.txt
{
  echo 'set -euo pipefail; ! python -c "import socket; socket.create_connection((\"192.0.2.1\", 443), 5)" 2> "$HOME/network"'
  echo 'grep -q "Network is unreachable" "$HOME/network"'
  sed -n '/^python -m pip\|^ctxbatch run/p' README
  echo "ctxbatch search out 'A [marriage] of two minds' -k 3 --json | grep -q '\"word\"'"
} > commands
mkdir "$work/home"
env -i HOME="$work/home" PATH="$work/env/bin:/usr/bin:/bin" LANG=C.UTF-8 unshare --map-root-user --net bash commands
echo "installed, run and searched without network"
