"""An export of some rows holds the rows for which a condition is true, and their sentences."""

import pytest

from ctxbatch import InputError, StoreError
from ctxbatch.tables import where as conditions
from ctxbatch.tables.export import export
from ctxbatch.tables.export_plan import ExportOptions
from tests.helpers.exports import table_of
from tests.helpers.stores import rows_of


def test_the_rows_that_a_condition_selects_and_their_sentences(kept, tmp_path):
    where = "lower(word) = 'want' AND year > 1950"
    wanted = [
        row
        for row in rows_of(kept)
        if row["word"].lower() == "want" and (row["sentence"]["year"] or 0) > 1950
    ]
    assert 3 < len(wanted) < kept.n_rows / 2
    report = export(kept, tmp_path / "to", ExportOptions(where=where, file_bytes=4_000))
    words, sentences = table_of(tmp_path / "to"), table_of(tmp_path / "to", "sentences")
    assert words["row_id"].to_pylist() == [row["row_id"] for row in wanted]
    of_rows = {row["sentence_id"]: row["sentence"] for row in wanted}
    assert sentences.to_pylist() == [of_rows[each] for each in sorted(of_rows)]
    assert (report.rows, report.sentences) == (len(wanted), len(of_rows))


def test_joined_rows_that_a_condition_selects(kept, tmp_path):
    options = ExportOptions(where="word = 'apple'", join=True, columns=("word", "text", "contextual_3"))
    export(kept, tmp_path / "to", options)
    rows = [row for row in rows_of(kept) if row["word"] == "apple"]
    assert table_of(tmp_path / "to")["text"].to_pylist() == [row["sentence"]["text"] for row in rows]
    assert "WHERE word = 'apple'\n```" in (tmp_path / "to" / "README.md").read_text()


def test_a_condition_that_selects_nothing_is_refused(kept, tmp_path, cli):
    with pytest.raises(InputError, match=r"--where .* selects no row of .*: nothing is exported"):
        export(kept, tmp_path / "to", ExportOptions(where="word = 'xyzzy'"))
    result = cli("export", kept.path, tmp_path / "to", "--where", "word = 'xyzzy'")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "to").exists()


def test_another_condition_is_another_export(kept, tmp_path):
    export(kept, tmp_path / "to", ExportOptions(where="word = 'apple'"))
    with pytest.raises(StoreError, match=r"with --where word = 'apple', not with --where word = 'orange'"):
        export(kept, tmp_path / "to", ExportOptions(where="word = 'orange'"))


def test_a_condition_that_selects_other_rows_each_time_does_not_go_on(kept, tmp_path, monkeypatch):
    export(kept, tmp_path / "to", ExportOptions(where="word = 'apple'"))
    found = conditions.matching_rows(kept, "word = 'orange'")
    monkeypatch.setattr("ctxbatch.tables.export.matching_rows", lambda *_: found)
    with pytest.raises(StoreError, match="--where selects other rows than when the export was begun"):
        export(kept, tmp_path / "to", ExportOptions(where="word = 'apple'"))
