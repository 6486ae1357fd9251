"""The README shows what there is: its options exist, its recipes run; every option has help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ctxbatch import RunConfig
from ctxbatch.cli.main import app
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands
RECIPES = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "RunConfig" not in block]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"


def test_every_option_of_the_readme_exists():
    known = {
        option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts
    }
    known |= {"--help", "--version"} | {"--head", "--num-cpus"}  # the last two of `ray start`
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert shown <= known
    for line in re.findall(r"^\$ ctxbatch (.*)", README, re.M):
        name, *_ = line.split()
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", line.split(" | ")[0])) <= options, line


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b(?!\.)|TODO|TBD|XXX", re.sub(r"`[^`]*`", "", README))


def test_every_option_of_run_is_in_the_configuration():
    plain = {p.name for p in COMMANDS["run"].params} - {"inputs", "out", "quiet", "help", "no_index"}
    assert plain <= set(RunConfig.__slots__)


def test_the_tour_names_every_module():
    root = Path(__file__).parents[2]
    rooms = (root / ".github" / "CONTRIBUTING.md").read_text().split("\n**`")[1:]
    named = {
        f"{room.split('`')[0]}{name}.py" for room in rooms for name in re.findall(r"^\| `(\w+)` ", room, re.M)
    }
    modules = {str(path.relative_to(root)) for path in (root / "ctxbatch").rglob("[a-z]*.py")}
    assert modules == named


def test_the_tour_sends_nobody_to_a_module_that_does_not_exist():
    root = Path(__file__).parents[2]
    to_change = (root / ".github" / "CONTRIBUTING.md").read_text().split("## To add or change something")[1]
    looked_in = re.findall(r"`([a-z]+(?:/\w+)?)`", to_change.split("\n## ")[0])
    assert looked_in
    for name in set(looked_in) - {"name"}:
        assert any((root / place).exists() for place in (f"ctxbatch/{name}.py", f"ctxbatch/{name}", name)), (
            name
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """A folder with a store ``out``, as the README's recipes expect it."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "corpus.txt").write_text(TEXT * 5, encoding="utf-8")
    make_store(folder / "out", [folder / "corpus.txt"], RunConfig(model=str(tiny()), shard_size=2000))
    return folder


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipes_of_the_readme_run(number, folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    result = subprocess.run(
        [sys.executable, "-c", RECIPES[number]], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_python_example_of_the_readme_runs(tiny, tmp_path):
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "RunConfig" in block]
    (tmp_path / "corpus.txt").write_text("I sent her a card.\nThe card was a joker.\n")
    code = example.replace('"all-MiniLM-L6-v2"', repr(str(tiny())))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert " card corpus.txt 0 I sent her a card." in result.stdout
