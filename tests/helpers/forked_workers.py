"""Starts workers as forks of a process that has imported what they need.

A worker of a test works for a moment, and would import for longer. It is a process as for a user, with pipes,
signals and an environment of its own, and runs the same `main`.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import reduction
from unittest import mock

from ctxbatch.execution import local_pool

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.preloaded"])


class _Descriptor:
    """A file descriptor that a fork gets, too."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate):
    return duplicate.detach()


class ForkedWorker:
    """Stands in for ``subprocess.Popen`` of a worker."""

    def __init__(self, command, *, stderr, pass_fds, env, **_):
        self.args = command
        to_worker, from_worker = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to_worker[1], "w"), os.fdopen(from_worker[0])
        given = (to_worker[0], from_worker[1], stderr.fileno(), *pass_fds)
        arguments = command[command.index("ctxbatch.execution.worker") :]
        self._process = _CONTEXT.Process(
            target=_work, args=(arguments, env, *map(_Descriptor, given)), daemon=True
        )
        with mock.patch.dict(os.environ, local_pool.ENVIRONMENT):  # of the process that is forked
            self._process.start()
        os.close(to_worker[0])
        os.close(from_worker[1])
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _work(arguments, environment, *descriptors):
    from ctxbatch.execution import worker

    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, closefd=False),
        os.fdopen(1, "w", closefd=False),
        os.fdopen(2, "w", buffering=1, closefd=False),
    )
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    worker.main()


class _Subprocess:
    """The module ``subprocess`` as `local_pool` sees it."""

    Popen = ForkedWorker

    def __getattr__(self, name):
        return getattr(subprocess, name)


SUBPROCESS = _Subprocess()
