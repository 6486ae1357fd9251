"""Starts the command line, as ``ctxbatch`` and as ``python -m ctxbatch``."""

import signal


def main() -> None:
    """Run the command line; the entry point of the ``ctxbatch`` script."""
    # Until the command line listens: else Ctrl-C would show a traceback of imports.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ctxbatch.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
