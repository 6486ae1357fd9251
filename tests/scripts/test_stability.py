"""The evaluation of stability finds the nearest rows, and counts those that stay, as it says."""

import json
import sys

import numpy as np
import pytest

from ctxbatch.errors import InputError
from scripts.evaluation import stability
from tests.helpers.models import PLAIN_TEXT


def test_neighbours_are_the_nearest_of_all_rows_and_of_other_words():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    keys, queries = rng.integers(0, 4, 60), np.array([3, 17, 59])
    sizes = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors.T / np.outer(sizes, sizes)
    everywhere, others = stability.neighbours(vectors, keys, queries)
    for query, of_all, of_others in zip(queries, everywhere, others, strict=True):
        order = [row for row in np.argsort(-cosines[query]) if row != query]
        assert set(of_all) == set(order[:10])
        assert set(of_others) == set([row for row in order if keys[row] != keys[query]][:10])


def test_the_share_is_of_the_same_rows_in_any_order():
    assert stability.shared(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 5]])) == 0.75


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["stability", *map(str, arguments)])
    assert stability.main() == 0
    return capsys.readouterr().out


def test_the_whole_on_a_tiny_model(tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "some.txt"
    path.write_text(PLAIN_TEXT)
    arguments = (path, "--model", tiny(), "--limit", 3, "--workers", 1)
    *printed, last = run_script(monkeypatch, capsys, *arguments).splitlines()
    assert max(len(line) for line in printed if str(tiny()) not in line) <= 100
    found = json.loads(last)
    shares = {
        (row["precision"], row["stored"], row["kind"], row["layer"]): (row["all"], row["other_words"])
        for row in found["rows"]
    }
    assert {layer for *_, layer in shares} == {2, 3}
    types = ("float32", "float16", "int8")
    vectors = {(precision, stored) for precision in ("fp32", "bf16") for stored in types}
    vectors -= {("fp32", "float32")}
    columns = {(precision, f"{stored}*") for precision in ("fp32", "bf16") for stored in types[1:]}
    assert {key[:2] for key in shares} == vectors | columns
    assert len(shares) == 2 * (5 * 4 + 4 * 3)
    assert shares["fp32", "int8", "contextual", 3] > (0.9, 0.9)
    assert shares["fp32", "float16", "contextual", 3] > (0.95, 0.95)
    assert shares["bf16", "float32", "difference", 3][0] < 1
    assert json.loads(run_script(monkeypatch, capsys, *arguments, "--json"))["rows"] == found["rows"]


def test_too_few_words_are_refused(tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "some.txt"
    path.write_text("one two three\n")
    with pytest.raises(InputError, match="has 3 words, it needs more than 10"):
        run_script(monkeypatch, capsys, path, "--model", tiny(), "--workers", 1)
