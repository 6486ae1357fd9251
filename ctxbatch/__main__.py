"""Runs the command line for ``python -m ctxbatch``."""

from ctxbatch.cli.main import main

main()
