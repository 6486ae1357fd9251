"""Every script says in one sentence what it is for, and in one line what is wrong with its arguments."""

import importlib
import sys

import pytest

from tests.helpers.running import ROOT

SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("scripts/*/*.py"))
    if "\ndef main()" in path.read_text()
]


def test_all_folders_have_scripts():
    assert {name.split(".")[1] for name in SCRIPTS} == {"benchmarks", "checks", "evaluation"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_help_and_refuses_an_unknown_option(name, monkeypatch, capsys):
    if name.endswith("ray_cluster"):
        pytest.importorskip("ray")
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    usage, sentence, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: python -m {name} ")
    assert sentence == script.__doc__.split("\n\n")[0]
    assert sentence.endswith(".")
    assert "\n" not in sentence
    monkeypatch.setattr(sys, "argv", [name, "--no-such-option"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{name.rpartition('.')[2]}: ")
    assert said.err.count("\n") == 1
