"""``python -m ctxbatch.cli``: the command line."""

from ctxbatch.cli.main import main

main()
