"""Plots of words through the layers, and the tables beside them, show what a store holds."""

import os
import subprocess

import pytest

from ctxbatch import InputError
from ctxbatch.analysis import layer_plot, layers
from ctxbatch.cli import layers as layers_command
from tests.helpers.layered import TEXT, assert_fits
from tests.helpers.running import command


@pytest.fixture(scope="module")
def store(make):
    return make()


@pytest.mark.parametrize("options", [{"top_salient": 1}, {"sample": 0.7}])
def test_tables_and_plots_show_what_there_is(options, make, tmp_path, capsys):
    store = make(TEXT * 8, **options)
    layers_command.layers(str(store.path), plot=str(tmp_path / "a.svg"))
    shown = capsys.readouterr().out
    assert_fits(shown)
    assert ("baseline: " in shown) == ("sample" in options)
    assert " 0 of " not in shown
    titles = [text for text in ("self-similarity", "intra-sentence") if text in plotted(store)]
    assert titles == ["self-similarity"]
    assert ("random pairs (baseline)" in plotted(store)) == ("sample" in options)
    assert (tmp_path / "a.svg").stat().st_size > 5000


def plotted(store):
    """All texts of a plot of a store."""
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_plot.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        layer_plot.draw(layers.measure(store), store.path)
    texts = [text.get_text() for text in figures[0].findobj(lambda each: hasattr(each, "get_text"))]
    return " ".join(texts)


@pytest.mark.parametrize(
    ("suffix", "beginning"), [(".png", b"\x89PNG\r\n\x1a\n"), (".PDF", b"%PDF"), (".svg", b"<?xml")]
)
def test_a_plot_is_a_file_of_the_kind_that_its_suffix_says(suffix, beginning, store, tmp_path, capsys):
    path = tmp_path / f"plot{suffix}"
    layers_command.layers(str(store.path), "bank", "the", "nobody", plot=str(path))
    assert capsys.readouterr().out.startswith(f"{store.n_rows:,} rows, ")
    assert path.read_bytes().startswith(beginning)
    assert path.stat().st_size > 5000


def test_letters_that_the_font_lacks_are_told_in_one_line(make, cli, tmp_path):
    store = make("The bank of 漢.\nA bank, 漢.\n")
    found = cli("layers", store.path, "漢", "bank", "--plot", tmp_path / "a.png")
    assert found.returncode == 0
    assert (tmp_path / "a.png").exists()
    assert found.stderr == f"ctxbatch: {tmp_path}/a.png: the font of the plot cannot show some letters\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plot.jpg", "must end in .png, .svg or .pdf"),
        ("plot", "must end in .png, .svg or .pdf"),
        ("missing/plot.png", "there is no folder"),
    ],
)
def test_a_plot_that_cannot_be_made_is_told_before_anything_is_computed(
    name, message, store, tmp_path, capsys
):
    with pytest.raises(InputError, match=message):
        layers_command.layers(str(store.path), "bank", plot=str(tmp_path / name))
    assert capsys.readouterr().out == ""


def test_a_missing_matplotlib_is_told_in_one_line(store, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('gone', name='matplotlib')\n")
    paths = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    found = subprocess.run(
        command("layers", store.path, "bank", "--plot", tmp_path / "a.png"),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "ctxbatch: --plot needs matplotlib, which is not installed: pip install 'ctxbatch[plot]'\n"
    )
