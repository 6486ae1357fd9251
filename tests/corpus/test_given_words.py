"""Words that the user has cut and spans that the user has marked go in as they are."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ctxbatch import RunConfig
from ctxbatch.corpus.records import Reject
from ctxbatch.errors import InputError
from tests.helpers.corpora import read_all, texts_of, write_arrow_file, write_parquet
from tests.helpers.oracle import Oracle
from tests.helpers.stores import make_store, rows_of

CONLLU = """\
# newdoc id = d
# sent_id = s-1
# genre = news
# text = Don't go zum New York, ok?
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\t_\t_\t0\t_\t_\t_
2\tn't\tnot\tPART\t_\t_\t0\t_\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\t_\t_\t_
4-5\tzum\t_\t_\t_\t_\t_\t_\t_\t_
4\tzu\tzu\tADP\t_\t_\t0\t_\t_\t_
5\tdem\tder\tDET\t_\t_\t0\t_\t_\t_
5.1\tnull\tnull\tNOUN\t_\t_\t_\t_\t0:x\t_
6\tNew York\tNew York\tPROPN\t_\t_\t0\t_\t_\tSpaceAfter=No
7\t,\t,\tPUNCT\t_\t_\t0\t_\t_\t_
8\tok\tok\tINTJ\t_\t_\t0\t_\t_\tSpaceAfter=No
9\t?\t_\t_\t_\t_\t0\t_\t_\t_

# sent_id = s-2
# text = another text
1\tOther\tother\tADJ\t_\t_\t0\t_\t_\tSpaceAfter=No
2\t!\t!\tPUNCT\t_\t_\t0\t_\t_\t_
"""
WORDS = ["Don't", "go", "zum", "New York", ",", "ok", "?"]


def store_of(tmp_path, tiny, path, **options):
    return make_store(tmp_path / "out", [path], RunConfig(model=str(tiny()), dtype="float32", **options))


def assert_equals_oracle(rows, folder, keep_punctuation=False, given=None):
    """Compare rows with the oracle's, which knows the words of each sentence by ``given(sentence)``."""
    oracle, n_seen = Oracle(folder), 0
    for sentence in {row["sentence_id"]: row["sentence"] for row in rows}.values():
        mine = [row for row in rows if row["sentence_id"] == sentence["sentence_id"]]
        expected, _ = oracle.rows(sentence["text"], keep_punctuation=keep_punctuation, given=given(sentence))
        assert [(row["word"], row["char_start"], row["char_end"]) for row in mine] == [
            (each.word, each.char_start, each.char_end) for each in expected
        ]
        for row, each in zip(mine, expected, strict=True):
            np.testing.assert_allclose(row["static"], each.static, atol=1e-4)
            np.testing.assert_allclose(row["contextual_2"], each.contextual[2], atol=2e-4)
            n_seen += 1
    assert n_seen == len(rows)


# --- treebanks ------------------------------------------------------------------------------------


def test_the_forms_of_a_treebank_are_the_words_with_lemma_and_part_of_speech(tmp_path, tiny):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    store = store_of(tmp_path, tiny, path, keep_punctuation=True, precision="fp32")
    rows = rows_of(store)
    assert [row["word"] for row in rows] == [*WORDS, "Other", "!"]
    assert [(row["lemma"], row["upos"]) for row in rows][:4] == [
        ("do+not", "AUX+PART"),
        ("go", "VERB"),
        ("zu+der", "ADP+DET"),
        ("New York", "PROPN"),
    ]
    assert rows[6]["lemma"] is None
    assert [s["doc_id"] for s in store.sentences.to_table().to_pylist()] == ["s-1", "s-2"]
    assert [s["text"] for s in store.sentences.to_table().to_pylist()] == [
        "Don't go zum New York, ok?",
        "Other!",
    ]
    for row in rows:
        assert row["sentence"]["text"][row["char_start"] : row["char_end"]] == row["word"]
    places = {
        "s-1": [(0, 5), (6, 8), (9, 12), (13, 21), (21, 22), (23, 25), (25, 26)],
        "s-2": [(0, 5), (5, 6)],
    }
    assert_equals_oracle(rows, tiny(), True, lambda sentence: places[sentence["doc_id"]])


def test_punctuation_of_a_treebank_is_left_out_as_elsewhere(tmp_path, tiny):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    rows = rows_of(store_of(tmp_path, tiny, path))
    assert [(row["word"], row["word_index"]) for row in rows] == [
        *((word, n) for n, word in enumerate(w for w in WORDS if w not in ",?")),
        ("Other", 0),
    ]
    assert [row["upos"] for row in rows] == ["AUX+PART", "VERB", "ADP+DET", "PROPN", "INTJ", "ADJ"]


@pytest.mark.parametrize("size", [1, 10**6])
def test_sentences_of_a_treebank_are_cut_into_shards_at_any_of_them(tmp_path, size):
    path = tmp_path / "a.conllu"
    path.write_text("\n\n" + f"{CONLLU}\n".replace("\n", "\r\n") * 3)
    _, shards, items = read_all([path], shard_size=size)
    assert texts_of(items) == ["Don't go zum New York, ok?", "Other!"] * 3
    assert [item.record for item in items] == list(range(6))
    assert len(shards) == (7 if size == 1 else 1)  # one holds the blank lines at the start


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_line_ends_of_every_kind_part_the_tokens(tmp_path, end):
    (tmp_path / "a.conllu").write_text(CONLLU.replace("\n", end), newline="")
    (tmp_path / "b.vrt").write_text("<s>\nDogs\tdog\nbark\tbark\n</s>\n".replace("\n", end), newline="")
    assert texts_of(read_all([tmp_path])[2]) == ["Don't go zum New York, ok?", "Other!", "Dogs bark"]


def test_a_vertical_file_without_ends_of_sentences_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxbatch.corpus.formats.treebank._MOST_TOKENS", 10)
    (tmp_path / "a.vrt").write_text("".join(f"word{n}\tNN\n" for n in range(25)))
    for size in (1, 10**6):
        texts = texts_of(read_all([tmp_path], shard_size=size)[2])
        assert [len(text.split()) for text in texts] == [10, 10, 5]


def test_lines_that_are_no_conllu_reject_their_sentence_by_name(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text("1\tone\n\nx" + "\t_" * 9 + "\n\n" + CONLLU + "\n1-2\tzum" + "\t_" * 8 + "\n")
    _, _, items = read_all([path])
    assert [item.reason for item in items if isinstance(item, Reject)] == [
        "a line has 2 columns, not the ten of CoNLL-U",
        "a line begins with 'x', not with the number of a word",
        "the words of 1-2 are missing",
    ]


def test_vertical_files_are_read_by_sentence_with_the_attributes_of_their_text(tmp_path, tiny):
    path = tmp_path / "a.vrt"
    path.write_text(
        '<?xml version="1.0"?>\n<text id="t1" year="1900">\n<p>\n'
        "<s>\nShe\tPRP\tshe\nwent\tVBD\tgo\n<g/>\n.\tSENT\t.\n</s>\n<s>\nNice\tJJ\tnice\n</s>\n</p>\n</text>\n"
        '<text id="t2" year="1901">\n<s>\nDogs\tNNS\tdog\n</s>\n</text>\n'
    )
    for size in (1, 10**6):
        _, shards, items = read_all([path], shard_size=size, keep_field=("year:integer",))
        assert [(i.record, i.doc_id, i.text, i.kept) for i in items] == [
            (0, "t1", "She went.", (1900,)),
            (1, "t1", "Nice", (1900,)),
            (2, "t2", "Dogs", (1901,)),
        ]
        assert len(shards) == (3 if size == 1 else 1)  # at each text, not within one
    rows = rows_of(store_of(tmp_path, tiny, path))
    assert [(row["word"], row["lemma"], row["upos"]) for row in rows] == [
        ("She", "she", "PRP"),
        ("went", "go", "VBD"),
        ("Nice", "nice", "JJ"),
        ("Dogs", "dog", "NNS"),
    ]


def test_columns_of_vertical_files_are_told_apart_by_what_they_hold(tmp_path):
    tokens = [("Dogs", "dog", "NNS", "O"), ("barked", "bark", "VBD", "O"), ("Rome", "Rome", "NNP", "B-LOC")]
    for name, order, expected in (
        ("a.vrt", (0, 1, 2), ("lemma", "upos")),
        ("b.vrt", (0, 2, 1), ("upos", "lemma")),
        ("c.conll", (0, 3), ("", "")),
        ("d.conll", (0, 2, 3), ("upos", "")),
    ):
        path = tmp_path / name
        path.write_text("".join("\t".join(token[n] for n in order) + "\n" for token in tokens * 20) + "\n")
        sources, _, items = read_all([path])
        assert sources[0].columns == expected
        assert items[0].text == " ".join(token[0] for token in tokens * 20)


# --- lists of words -------------------------------------------------------------------------------


def test_a_list_of_words_is_a_text_of_these_words(tmp_path, tiny):
    documents = [["I", "do", "n't", "know", ".", "She", "left", "U.S.", "troops"], ["well-known"]]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": n, "words": words}) + "\n" for n, words in enumerate(documents))
    )
    write_parquet(pa.table({"id": [0, 1], "words": documents}), tmp_path / "b.parquet")
    write_arrow_file(pa.table({"id": [0, 1], "words": documents}), tmp_path / "c.arrow")
    store = make_store(
        tmp_path / "out",
        [tmp_path / name for name in ("a.jsonl", "b.parquet", "c.arrow")],
        RunConfig(
            model=str(tiny()), tokens_field="words", keep_punctuation=True, dtype="float32", precision="fp32"
        ),
    )
    rows = rows_of(store)
    assert [row["word"] for row in rows] == [word for words in documents for word in words] * 3
    assert "lemma" not in rows[0]

    def places(sentence):
        start, found = 0, []
        for word in sentence["text"].split(" "):
            found.append((start, start + len(word)))
            start += len(word) + 1
        return found

    assert_equals_oracle(rows, tiny(), True, places)


def test_what_is_no_list_of_words_is_rejected_by_name(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"w": ["a"]}\n{"w": "a b"}\n{"w": ["a", 1]}\n{"w": ["a", " "]}\n{"v": 1}\n')
    _, _, items = read_all([path], tokens_field="w")
    assert [item.reason for item in items[1:]] == [
        "field 'w' is not a list of strings",
        "field 'w' is not a list of strings",
        "field 'w' holds an empty word",
        "field 'w' is not a list of strings",
    ]
    (tmp_path / "b.csv").write_text("w\na b\n")
    with pytest.raises(InputError, match=r"--tokens-field w cannot be used: csv files have no lists"):
        read_all([tmp_path / "b.csv"], tokens_field="w")


def test_wanted_words_can_be_several_given_words_and_have_no_lemma(tmp_path, tiny):
    forms = ["I", "do", "n't", "want", "New", "York", "."]
    lines = [f"{n}\t{form}\tlemma{n}\tX\t_\t_\t_\t_\t_\t_" for n, form in enumerate(forms, 1)]
    lines[1] = lines[1][:-1] + "SpaceAfter=No"
    (tmp_path / "a.conllu").write_text("\n".join(lines) + "\n\n")
    config = RunConfig(model=str(tiny()), words=("don't", "new york", "n't", "want"), precision="fp32")
    for pool in ("mean", "none"):
        store = make_store(tmp_path / pool, [tmp_path / "a.conllu"], replace(config, pool=pool))
        columns = ["word", "lemma", "upos", "word_index"]
        rows = store.words.to_table(columns=columns).to_pylist()
        found = dict.fromkeys(tuple(row.values()) for row in rows)
        assert [*found] == [("don't", None, None, 1), ("want", "lemma4", "X", 3), ("New York", None, None, 4)]
    (tmp_path / "b.conllu").write_text("1\tWe\twe\tPRON\t_\t_\t_\t_\t_\t_\n\n" * 3)
    both = make_store(tmp_path / "both", [tmp_path / "a.conllu", tmp_path / "b.conllu"], config)
    assert [commit.counts.rejected_words for commit in both.commits.values()] == [0] * len(both.commits)
    alone = make_store(tmp_path / "alone", [tmp_path / "a.conllu"], replace(config, words=("n't",)))
    assert alone.words.to_table()["lemma"].to_pylist() == ["lemma3"]


# --- marked spans ---------------------------------------------------------------------------------

USES = "identifier\tcontext\tindexes\n" + "\n".join(
    [
        'u1\tHe said "attack at dawn. Or later" and left.\t9:23',
        "u2\tThe New York office. 😀 Another sentence about New York.\t4:12",
        "u3\tAn émigré from New York. It was new york again!\t32:40",
    ]
)


def test_only_marked_spans_are_stored_one_row_each_with_the_id_of_their_record(tmp_path, tiny):
    path = tmp_path / "uses.csv"
    path.write_text(USES, encoding="utf-8")
    store = store_of(
        tmp_path,
        tiny,
        path,
        delimiter="\t",
        text_field="context",
        id_field="identifier",
        span_field=("indexes",),
        precision="fp32",
    )
    rows = rows_of(store)
    assert [(row["sentence"]["doc_id"], row["word"]) for row in rows] == [
        ("u1", "attack at dawn"),
        ("u2", "New York"),
        ("u3", "new york"),
    ]
    for row in rows:
        sentence = row["sentence"]
        assert sentence["text"][row["char_start"] : row["char_end"]] == row["word"]
    assert_equals_oracle(
        rows, tiny(), True, lambda s: [(r["char_start"], r["char_end"]) for r in rows if r["sentence"] == s]
    )


@pytest.mark.parametrize(
    ("fields", "spans"),
    [
        ({"at": "3:5"}, ("at",)),
        ({"at": [3, 5]}, ("at",)),
        ({"at": [[3, 5]]}, ("at",)),
        ({"at": ["3:5"]}, ("at",)),
        ({"from": 3, "to": 5}, ("from", "to")),
        ({"from": "3", "to": "5"}, ("from", "to")),
        ({"from": [3], "to": [5]}, ("from", "to")),
        ({"meta": {"from": 3.0, "to": 5}}, ("meta.from", "meta.to")),
        ({"at": "2:6"}, ("at",)),
    ],
)
def test_spans_are_written_in_many_ways(tmp_path, fields, spans):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "an ox there", **fields}))
    write_parquet(pa.Table.from_pylist([{"text": "an ox there", **fields}]), tmp_path / "b.parquet")
    _, _, items = read_all([tmp_path], span_field=spans)
    assert [item.tokens.places for item in items] == [((3, 5),)] * 2


def test_spans_in_rows_of_csv_and_several_in_a_record(tmp_path, tiny):
    (tmp_path / "a.csv").write_text("text,from,to\nan ox there,3,5\n")
    (tmp_path / "b.csv").write_text('text,from,to\n"one, two. Three! four.",0,3\n')
    assert [i.tokens.places for i in read_all([tmp_path], span_field=("from", "to"))[2]] == [
        ((3, 5),),
        ((0, 3),),
    ]
    path = tmp_path / "c.jsonl"
    path.write_text(
        json.dumps({"text": "One two. Three four. Five!", "at": [[21, 26], [4, 14], [0, 3], [9, 14]]})
    )
    rows = rows_of(store_of(tmp_path, tiny, path, span_field=("at",)))
    assert [(row["word"], row["sentence"]["text"]) for row in rows] == [
        ("One", "One two. Three four."),
        ("two. Three", "One two. Three four."),
        ("Three", "One two. Three four."),
        ("Five!", "Five!"),
    ]


def test_spans_that_do_not_fit_the_text_are_rejected_by_name(tmp_path):
    values = ["5:99", "5:5", "x", None, 3, "2:3", [[1, 2, 3]], []]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "an ox there", "at": value}) + "\n" for value in values))
    _, _, items = read_all([path], span_field=("at",))
    assert [getattr(item, "reason", "stored") for item in items] == [
        "field 'at' marks 5:99, which is not in the 11 characters of the text",
        "field 'at' marks 5:5, which is not in the 11 characters of the text",
        "field 'at' holds no span such as 12:17: 'x'",
        "field 'at' holds no span such as 12:17: None",
        "field 'at' holds no span such as 12:17: 3",
        "field 'at' marks only white space",
        "field 'at' holds no span such as 12:17: [[1, 2, 3]]",
        "stored",
    ]
    with pytest.raises(
        InputError, match=r"a.jsonl has no field 'att'; its fields are text, at: name one with"
    ):
        read_all([path], span_field=("att",))
