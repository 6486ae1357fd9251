"""All that a user imports comes from `ctxbatch` itself, resolves, and costs nothing before it is used."""

import subprocess
import sys
import typing

import pytest

import ctxbatch

COSTLY = ("torch", "transformers", "pyarrow", "faiss", "cyclopts", "rich")


@pytest.mark.parametrize("name", ctxbatch.__all__)
def test_public_names_and_their_type_hints_resolve(name):
    found = getattr(ctxbatch, name)
    assert found.__doc__
    assert name in dir(ctxbatch)
    typing.get_type_hints(found)
    for method in vars(found).values() if isinstance(found, type) else ():
        if callable(method):
            typing.get_type_hints(method)


def test_a_name_that_does_not_exist_is_said_as_python_says_it():
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        ctxbatch.serach  # noqa: B018 (to look it up is the test)


def test_importing_the_package_loads_no_library_that_takes_time():
    code = f"import sys, ctxbatch; print([name for name in {COSTLY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
