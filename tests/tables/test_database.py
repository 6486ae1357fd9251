"""Stores are one database, whose views hold what the stores hold."""

import shutil
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctxbatch import InputError, RunConfig, StoreError
from ctxbatch.store.reader import Store
from ctxbatch.tables.database import opened, store_names
from ctxbatch.tables.engine import batches
from ctxbatch.tables.export import export
from ctxbatch.tables.where import matching_rows
from tests.helpers.models import TEXT
from tests.helpers.stores import make_store, rows_of
from tests.tables.conftest import records


def found(stores, query):
    with opened(stores) as connected, closing(batches(connected, query)) as rows:
        return pa.Table.from_batches(rows).to_pylist()


def test_views_hold_the_rows_and_sentences_of_a_store_in_order(store):
    rows, (name,) = rows_of(store), [store.path.name]
    words = found([store], "FROM words")
    vectors = set(store.config.columns)
    for word, row in zip(words, rows, strict=True):
        assert word["store"] == name
        for column, value in word.items():
            if column in vectors:
                assert np.array_equal(np.float32(value), row[column])
            elif column != "store":
                assert value == row[column]
    sentences = store.sentences.to_table().to_pylist()
    assert found([store], "FROM sentences") == [{"store": name, **sentence} for sentence in sentences]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_occurrence_has_its_sentence_and_the_text_on_both_sides_of_its_word(tmp_path, tiny, dtype):
    text = tmp_path / "text.txt"
    text.write_text(
        TEXT + "a\u0301e\u0301 \U0001f469\u200d\U0001f469\u200d\U0001f467 flags \U0001f1eb\U0001f1f7 here\n"
    )
    store = make_store(tmp_path / "out", [text], RunConfig(model=str(tiny()), dtype=dtype))
    rows = {row["row_id"]: row for row in rows_of(store)}
    occurrences = found([store], "FROM occurrences")
    assert len(occurrences) == len(rows)
    for each in occurrences:
        row, sentence = rows[each["row_id"]], rows[each["row_id"]]["sentence"]
        assert each["text"] == sentence["text"] == each["left_context"] + each["word"] + each["right_context"]
        assert each["left_context"] == sentence["text"][: row["char_start"]]
        assert (each["char_start"], each["source"]) == (row["char_start"], sentence["source"])
        assert np.array_equal(np.float32(each["contextual_2"]), row["contextual_2"])
    assert {"flags", "here"} <= {each["word"] for each in occurrences}


def test_several_stores_are_one_and_every_row_names_its_own(store, store_of):
    other = store_of([*records(30)], "other")
    stores = [store, other]
    counts = found(stores, "FROM words SELECT store, count(*) n, max(row_id) last GROUP BY store ORDER BY n")
    assert [(each["store"], each["n"]) for each in counts] == [("other", other.n_rows), ("out", store.n_rows)]
    joined = "FROM words JOIN sentences USING (store, sentence_id) SELECT count(*) n, count(DISTINCT store) s"
    assert found(stores, joined) == [{"n": store.n_rows + other.n_rows, "s": 2}]
    of_other = found(stores, "FROM occurrences SELECT row_id, word, text WHERE store = 'other'")
    expected = [(row["row_id"], row["word"], row["sentence"]["text"]) for row in rows_of(other)]
    assert [tuple(each.values()) for each in of_other] == expected


def test_fields_that_a_store_does_not_keep_are_null_there_and_other_types_are_told(store_of, caplog):
    rows = [{"text": "a bank", "year": 1900, "pages": 3}, {"text": "a river", "year": 1901, "pages": 4}]
    one = store_of(rows, "one")
    two = store_of([{"text": "the bank", "year": "about 1850", "pages": 2.5, "place": "Rome"}], "two")
    query = "FROM sentences SELECT text, year, pages, place ORDER BY text"
    assert [tuple(each.values()) for each in found([one, two], query)] == [
        ("a bank", "1900", 3.0, None),
        ("a river", "1901", 4.0, None),
        ("the bank", "about 1850", 2.5, "Rome"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "field year is BIGINT in one, VARCHAR in two: it is read as VARCHAR",
        "field pages is BIGINT in one, DOUBLE in two: it is read as DOUBLE",
    ]


def test_fields_with_the_names_of_columns_get_an_underscore(store_of):
    row = {"text": "a bank", "store": "s", "Word": "w", "static": "x", "left_context": "l", 'a"b': "q"}
    store = store_of([row], "o'ut")
    found_row, *_ = found([store], "FROM occurrences WHERE word = 'bank'")
    assert found_row["store"] == "o'ut"
    assert [found_row[name] for name in ("store_", "Word_", "static_", "left_context_", 'a"b')] == [*"swxlq"]
    (sentence,) = found([store], "FROM sentences")
    assert (sentence["store"], sentence["store_"], sentence["Word_"]) == ("o'ut", "s", "w")


def test_names_of_stores_are_distinct(tmp_path):
    places = ["a/out", "b/out", "c/b/out", "other"]
    assert store_names([tmp_path / place for place in places[1:]]) == [
        f"{tmp_path.name}/b/out",
        "c/b/out",
        "other",
    ]
    assert store_names([tmp_path / place for place in places[:2]]) == ["a/out", "b/out"]


def test_stores_that_are_not_of_one_kind_are_refused_by_name(store, store_of):
    with pytest.raises(InputError, match="is given twice"):
        found([store, Store(store.path)], "FROM words")
    other = store_of([*records(5)], "other", static="lookup")
    with pytest.raises(StoreError, match="cannot be read as one: static: embeddings and lookup"):
        found([store, other], "FROM words")


def test_a_damaged_file_is_found_before_it_is_read(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "out")
    path = tmp_path / "out" / "shards" / "000001" / "words.arrow"
    data = bytearray(path.read_bytes())
    at = data.index(b"bank")
    data[at : at + 4] = b"tank"
    path.write_bytes(data)
    with pytest.raises(StoreError, match="does not match its checksum"):
        found([Store(tmp_path / "out")], "FROM words")


def test_a_vector_query_finds_what_brute_force_finds(store):
    vectors = np.concatenate(list(store.vectors("contextual_2"))).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    row_ids = store.row_ids()
    for row in (3, 200):
        query = f"""
            WITH asked AS (SELECT contextual_2 AS vector FROM words WHERE row_id = {row_ids[row]})
            SELECT row_id, list_cosine_similarity(contextual_2, vector) AS list,
                array_cosine_similarity(contextual_2, vector) AS array
            FROM words, asked ORDER BY list DESC, row_id LIMIT 10"""
        best = found([store], query)
        cosine = unit @ unit[row]
        expected = np.sort(cosine)[::-1][:10]
        np.testing.assert_allclose([each["list"] for each in best], expected, atol=1e-5)
        np.testing.assert_allclose([each["array"] for each in best], expected, atol=1e-5)
        at = store.positions(np.array([each["row_id"] for each in best]))
        np.testing.assert_allclose(cosine[at], expected, atol=1e-5)


def test_only_the_vectors_that_a_query_names_are_read(store, monkeypatch):
    from ctxbatch.tables import mapped

    counted = []
    real = np.frombuffer
    monkeypatch.setattr(
        mapped.np, "frombuffer", lambda data, kind: counted.append(len(data)) or real(data, kind)
    )
    found([store], "FROM words SELECT word, count(*) GROUP BY word")
    assert not counted
    rows = found([store], "FROM occurrences SELECT static WHERE word = 'bank'")
    assert sum(counted) == 2 * store.config.hidden_size * len(rows) > 0


def test_show_tables_names_the_three_views(store):
    assert [row["name"] for row in found([store], "SHOW TABLES")] == ["occurrences", "sentences", "words"]


def test_fields_of_all_types_keep_them_and_names_that_differ_in_case_are_two(store_of):
    row = {"Year": 1, "year": 2, "a.b": True, "day": "1900-01-02", "at": "1900-01-02T03:04:05", "x": 0.5}
    keep = ("Year:integer", "year:integer", "a.b:boolean", "day:date", "at:time", "x:number")
    store = store_of([{"text": "a bank", **row}], keep_field=keep)
    types = {each["column_name"]: each["column_type"] for each in found([store], "DESCRIBE occurrences")}
    names = ["Year", "year_1", "a.b", "day", "at", "x"]
    assert [types[name] for name in names] == ["BIGINT", "BIGINT", "BOOLEAN", "DATE", "TIMESTAMP", "DOUBLE"]
    (sentence,) = found([store], "FROM sentences")
    assert [str(sentence[name]) for name in names] == [
        "1",
        "2",
        "True",
        "1900-01-02",
        "1900-01-02 03:04:05",
        "0.5",
    ]


def test_int8_vectors_are_multiplied_by_their_scales_in_sql_and_in_exports(store_of, tmp_path):
    store = store_of([*records(9)], dtype="int8", precision="fp32")
    words = found([store], "FROM words")
    assert not [name for name in words[0] if name.endswith("_scale")]
    export(store, tmp_path / "tables")
    exported = pq.read_table(tmp_path / "tables" / "words").to_pylist()
    assert exported[0].keys() == words[0].keys() - {"store"}
    for name in store.config.columns:
        right = np.concatenate([batch[:] for batch in store.vectors(name)])
        for rows in (words, exported):
            assert np.allclose([row[name] for row in rows], right, rtol=1e-6)
    assert matching_rows(store, "list_inner_product(static, static) > 0").all()
