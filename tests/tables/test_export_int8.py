"""An export of int8 vectors holds those of a store of int8, or what such a store would hold."""

import json

import numpy as np
import pytest

from ctxbatch import InputError, RunConfig
from ctxbatch.tables.export import export
from ctxbatch.tables.export_plan import ExportOptions
from tests.helpers.exports import table_of, vectors_of
from tests.helpers.stores import make_store


@pytest.mark.parametrize("of_store", ["float16", "float32", "int8"])
def test_int8_vectors_are_those_that_a_store_would_hold(of_store, tiny, corpus, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), dtype=of_store))
    names = (*store.config.columns, "difference_2")
    export(store, tmp_path / "to", ExportOptions(dtype="int8", columns=names, file_bytes=40_000))
    words = table_of(tmp_path / "to")
    assert words.column_names == ["sentence_id", *(f"{n}{end}" for n in names for end in ("", "_scale"))]
    in_store = store.words.to_table()
    for name in names:
        values_ND, scale_N = vectors_of(words, name), words[f"{name}_scale"].to_numpy()
        if of_store == "int8" and name in store.config.columns:
            assert words[name].combine_chunks().equals(in_store[name].combine_chunks())
            assert words[f"{name}_scale"].equals(in_store[f"{name}_scale"])
        else:
            vectors_ND = np.concatenate(list(store.vectors(name))).astype(np.float32)
            np.testing.assert_array_equal(scale_N, np.abs(vectors_ND).max(axis=1) / np.float32(127))
            np.testing.assert_array_equal(values_ND, np.rint(vectors_ND / scale_N[:, None]))
    card = (tmp_path / "to" / "README.md").read_text()
    assert "| `static` | list of 32 int8 |" in card
    assert "| `static_scale` | float | what the int8 values before it are multiplied by |" in card


def test_what_int8_cannot_hold_or_name_is_refused(kept, tiny, tmp_path, cli):
    refused = cli("export", kept.path, tmp_path / "to", "--dtype", "int8", "--columns", "word,log_ratio_3")
    assert refused.returncode == 2
    assert "log_ratio cannot be used with --dtype int8" in refused.stderr
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "I want an apple.", "static_scale": "x"}) + "\n")
    config = RunConfig(model=str(tiny()), keep_field=("static_scale",))
    store = make_store(tmp_path / "out", [tmp_path / "a.jsonl"], config)
    with pytest.raises(InputError, match="static_scale is a field, and the scales of static need this name"):
        export(store, tmp_path / "to", ExportOptions(dtype="int8", join=True))
    assert not (tmp_path / "to").exists()
