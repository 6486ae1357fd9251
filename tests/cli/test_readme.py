"""README.md and the guide show what there is: all options and no others; links lead to files; recipes run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctxbatch import RunConfig
from ctxbatch.cli.main import app
from ctxbatch.run_config import OPTIONS
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "ctxbatch" / "guide").glob("*.md"))]
TEXT_OF = {page: page.read_text(encoding="utf-8") for page in PAGES}
ALL_TEXT = "\n".join(TEXT_OF.values())
COMMANDS = {
    name: [each for each in app[name].assemble_argument_collection(parse_docstring=True) if each.show]
    for name in app
    if name[0] != "-"
}
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page, text in TEXT_OF.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]
RECIPES = [block for block in BLOCKS if "RunConfig" not in block.values[0]]
EXAMPLES = [block for block in BLOCKS if "RunConfig" in block.values[0]]
OPTION = r"(?<![\w-])--[a-z][a-z-]*"
# Options of `ray start` and pip.
OF_OTHERS = {"--head", "--num-cpus", "--index-url"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    assert app[name].help
    for argument in COMMANDS[name]:
        assert argument.parameter.help, f"{name} {argument.name}"


def options_of(name):
    return {option for argument in COMMANDS[name] for option in argument.names if option[0] == "-"}


def test_the_readme_is_short():
    assert README.stat().st_size <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_that_is_shown_exists(page):
    known = {option for name in COMMANDS for option in options_of(name)}
    known |= {"--help", "--version"} | OF_OTHERS
    assert set(re.findall(OPTION, TEXT_OF[page])) <= known
    for line in re.findall(r"^\$ ctxbatch (.*)", TEXT_OF[page], re.M):
        name, *_ = line.split()
        shown = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", line.split(" | ")[0]))
        assert shown <= options_of(name), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_is_shown_exists_and_has_the_options_beside_it(page):
    blocks = re.findall(r"^```\w*\n(.*?)^```", TEXT_OF[page], re.M | re.S)
    lines = re.findall(r"^(?:\$ )?(ctxbatch .*)", "\n".join(blocks), re.M)
    lines += re.findall(r"`(ctxbatch [^`]*)`", re.sub(r"^```.*?^```", "", TEXT_OF[page], flags=re.M | re.S))
    for line in lines:
        name, *arguments = line.split(" | ")[0].split("  #")[0].split()[1:]
        if name in ("COMMAND", "--version"):
            continue
        assert name in COMMANDS, line
        shown = {argument for argument in arguments if re.fullmatch(OPTION, argument)}
        assert shown <= options_of(name), line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_shown(name):
    assert f"ctxbatch {name}" in ALL_TEXT
    for argument in COMMANDS[name]:
        shown = [re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", ALL_TEXT) for option in argument.names]
        assert argument.name[0] != "-" or any(shown), f"{name} {argument.names}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", TEXT_OF[page], flags=re.S))
    for link in links:
        if "://" not in link:
            assert (page.parent / link).is_file(), link


def test_every_page_is_linked_from_the_readme():
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT).as_posix()})" in TEXT_OF[README]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nothing_is_left_to_be_filled_in(page):
    text = re.sub(r"`[^`]*`", "", TEXT_OF[page])
    assert not re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b(?!\.)|TODO|TBD|XXX", text)


def test_every_option_of_run_is_in_the_configuration():
    names = {argument.field_info.name for argument in COMMANDS["run"]} - {"inputs", "out", "quiet"}
    assert names == {option.name for option in OPTIONS}


def test_the_tour_names_every_module():
    rooms = (ROOT / ".github" / "CONTRIBUTING.md").read_text().split("\n**`")[1:]
    named = {
        f"{room.split('`')[0]}{name}.py" for room in rooms for name in re.findall(r"^\| `(\w+)` ", room, re.M)
    }
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ctxbatch").rglob("[a-z]*.py")}
    assert modules == named


def test_the_tour_sends_nobody_to_a_module_that_does_not_exist():
    to_change = (ROOT / ".github" / "CONTRIBUTING.md").read_text().split("## To add or change something")[1]
    looked_in = re.findall(r"`([a-z]+(?:/\w+)?)`", to_change.split("\n## ")[0])
    assert looked_in
    for name in set(looked_in) - {"name"}:
        assert any((ROOT / place).exists() for place in (f"ctxbatch/{name}.py", f"ctxbatch/{name}", name)), (
            name
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """A folder with a store ``out``, as the recipes expect it."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "corpus.txt").write_text(TEXT * 5, encoding="utf-8")
    make_store(folder / "out", [folder / "corpus.txt"], RunConfig(model=str(tiny()), shard_size=2000))
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_run(recipe, folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    result = subprocess.run(
        [sys.executable, "-c", recipe], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_python_examples_run(example, tiny, tmp_path):
    (tmp_path / "corpus.txt").write_text("I sent her a card.\nThe card was a joker.\n")
    code = example.replace('"all-MiniLM-L6-v2"', repr(str(tiny())))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert " card corpus.txt 0 I sent her a card." in result.stdout


def test_recipes_and_examples_are_found():
    assert [block.id for block in EXAMPLES] == ["README-0", "python-0"]
    assert [block.id for block in RECIPES] == [*(f"analytics-{number}" for number in range(4)), "searching-0"]
