#!/usr/bin/env bash
# Installs ctxbatch into .venv, turns a book into a store of word vectors and searches it.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
ctxbatch() {
  printf '\n$ ctxbatch'
  for word; do case $word in *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac; done
  printf '\n'
  .venv/bin/ctxbatch "$@"
}
ctxbatch run scripts/demo/devils-dictionary.txt -o demo-out --model all-MiniLM-L6-v2
ctxbatch stats demo-out
ctxbatch search demo-out "She gave him her [hand] in marriage." -k 8
ctxbatch search demo-out "The [judge] took a bribe." -k 8 --other-words
