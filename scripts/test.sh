#!/usr/bin/env bash
# Installs what the tests need into .venv, then runs ruff, mypy, lint-imports and the tests. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" "[test,lint]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# Three for two cores: one of them often waits for a process, a network or a clock.
.venv/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"
