"""Runs the command line for ``python -m ctxbatch.cli``."""

from ctxbatch.cli.main import main

main()
