"""Search finds what brute force over the stored vectors finds, and shows it as keyword in context."""

import json

import faiss
import numpy as np
import pytest
from models import TEXT
from stores import make_store
from wcwidth import wcswidth

from ctxbatch import InputError, RunConfig, StoreError, index
from ctxbatch.search import Searcher, SearchHit, keyword_in_context, parse_query

QUERIES = [
    "I want an [apple].",
    "The [bank] by the river",
    "the bank by the [river] was locked",
    "[Things] happen here",
    "Twenty-one, twenty-[two].",
    "nobody wanted what lay [inside]",
    "One two [three] four",
    "a [line] with emoji",
    "the middle of the [bank]",
    "[The] old door",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "many.txt"
    lines = [line for line in TEXT.splitlines() if line.strip()]
    path.write_text("".join(f"{lines[n % len(lines)]} {n}\n" for n in range(120)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def store(corpus, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "out"
    return make_store(out, [corpus], RunConfig(model=str(tiny()), shard_size=2000, layers=(3, 1)))


def cosines(store, column, query):
    """Cosine of one vector with every stored vector, in float64."""
    vectors = np.concatenate(list(store.vectors(column))).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return vectors @ query / np.where(norms > 0, norms, 1)


def query_vector(searcher, query):
    vectors, _ = searcher._encode(parse_query(query))
    return vectors[0].astype(np.float64)


@pytest.mark.parametrize("on", ["shift", "contextual", "static"])
def test_hits_are_those_of_brute_force_in_order_of_cosine(store, on):
    searcher = store.searcher(on)
    for query in QUERIES:
        hits = searcher.search(query, 10)
        every = cosines(store, searcher.column, query_vector(searcher, query))
        tenth = np.sort(every)[-10]
        by_row = dict(zip(store.row_ids().tolist(), every, strict=True))
        assert len(hits) == len({hit.row_id for hit in hits}) == 10
        assert all(by_row[hit.row_id] >= tenth - 1e-6 for hit in hits)
        assert all(abs(by_row[hit.row_id] - hit.score) < 1e-3 for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_query_is_encoded_as_the_store_was(store, corpus):
    """A sentence of the corpus, searched as it stands there, finds itself first with cosine 1."""
    lines = corpus.read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if n > 40 and "bank" in line)
    text = lines[number]
    start = text.index("bank")
    query = f"{text[:start]}[bank]{text[start + 4 :]}"
    hit = store.searcher("contextual", 1).search(query, 1)[0]
    assert text.startswith(hit.text)
    assert hit.word == "bank"
    assert hit.score > 0.999
    assert hit.text[hit.char_start : hit.char_end] == "bank"


def test_filters_agree_with_brute_force(store):
    searcher = store.searcher()
    words = np.array([word.casefold() for word in store.words.to_table(columns=["word"])["word"].to_pylist()])
    for query, word in (("The [bank] by the river", "bank"), ("[The] old door", "the")):
        every = cosines(store, searcher.column, query_vector(searcher, query))
        for options, mask in (
            ({"words": "same"}, words == word),
            ({"words": "other"}, words != word),
            ({"word": "DOOR"}, words == "door"),
        ):
            hits = searcher.search(query, 15, **options)
            expected = np.sort(every[mask])[::-1][:15]
            assert len(hits) == len(expected)
            np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-3)
            assert all(
                words[np.searchsorted(store.row_ids(), hit.row_id)] in set(words[mask]) for hit in hits
            )


def test_fewer_hits_only_where_there_are_fewer_rows(store):
    assert len(store.searcher().search("I want an [apple].", 10**6)) == store.n_rows
    assert store.searcher().search("I want an [apple].", 5, word="no such word") == []
    with pytest.raises(InputError, match="the filter 'some' is not one of any, same, other"):
        store.searcher().search("I want an [apple].", words="some")


def test_a_word_of_several_pieces_queries_with_each_where_rows_are_pieces(corpus, tiny, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), pool="none"))
    searcher = store.searcher()
    query = "an [unbelievableness] of things"
    vectors, surface = searcher._encode(parse_query(query))
    assert surface == "unbelievableness"
    assert len(vectors) > 1
    best = np.max([cosines(store, searcher.column, vector.astype(float)) for vector in vectors], axis=0)
    hits = searcher.search(query, 20)
    assert len({hit.row_id for hit in hits}) == 20
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(best)[::-1][:20], atol=1e-3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("no mark at all", "no word is marked in 'no mark at all'"),
        ("[two] marked [words]", "one word must be marked"),
        ("not [closed", "one word must be marked"),
        ("empty [ ] mark", "are empty"),
        ("just [...] points", r"\[...\] is no word of the sentence"),
        ("too [many words] at once", r"hold several words of the model \('many', 'words'\)"),
    ],
)
def test_a_query_that_marks_no_single_word_is_refused(store, query, message):
    with pytest.raises(InputError, match=message):
        store.searcher().search(query)


def test_literal_brackets_are_text():
    query = parse_query(r"as in \[1\], a [card] is")
    assert (query.text, query.text[query.start : query.end]) == ("as in [1], a card is", "card")


def test_zero_vectors_score_zero_and_a_zero_query_is_an_error(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("one two three\n")
    # A floor above everything: no ratio is defined, every shift is zero.
    store = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny()), floor=1e6))
    with pytest.raises(InputError, match="vector of 'two' is zero"):
        store.searcher().search("one [two]")
    rows = [(0, np.array([[0, 0], [1, 0], [-1, 0]], np.float16))]
    ids, scores = index.scan(iter(rows), np.array([[1, 0]], np.float32), 3)
    assert ids.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[1.0, 0.0, -1.0]]


def test_an_unfinished_store_is_not_searched(store, tmp_path):
    import shutil

    from ctxbatch.store import Store

    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    shutil.rmtree(out / "shards" / "000001")
    with pytest.raises(StoreError, match=r"is not finished \(\d+ of \d+ shards\)"):
        Store(out).searcher()
    with pytest.raises(StoreError, match="lacks 1 of its shards"):
        index.build(Store(out), "shift_3")


# --- the index ------------------------------------------------------------------------------------


@pytest.fixture
def indexed(store, tmp_path, monkeypatch):
    """A copy of the store with an index, made although its rows are few."""
    import shutil

    from ctxbatch.store import Store

    monkeypatch.setattr(index, "SCAN_ROWS", 100)
    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    report = index.build(Store(out), "shift_3")
    assert report.path == out / "index" / "shift_3.faiss"
    return Store(out)


def test_the_index_proposes_and_the_exact_cosine_decides(indexed):
    searcher = Searcher([indexed])
    assert searcher.indexed
    found = []
    for query in QUERIES:
        every = cosines(indexed, "shift_3", query_vector(searcher, query))
        tenth = np.sort(every)[-10]
        hits = searcher.search(query, 10)
        by_row = dict(zip(indexed.row_ids().tolist(), every, strict=True))
        assert all(abs(by_row[hit.row_id] - hit.score) < 1e-3 for hit in hits)
        found += [by_row[hit.row_id] >= tenth - 1e-6 for hit in hits]
    assert np.mean(found) >= 0.95


def test_as_many_hits_as_there_are_rows_come_back_from_an_index_too(indexed):
    assert len(Searcher([indexed]).search(QUERIES[0], indexed.n_rows)) == indexed.n_rows


def test_a_changed_model_is_refused(tiny, tmp_path):
    import shutil

    from ctxbatch.encoder import Encoder

    folder = tmp_path / "model"
    shutil.copytree(tiny(), folder)
    (tmp_path / "a.txt").write_text("one two three\n")
    small = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(folder)))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(StoreError, match="the model config is not that which the store was made with"):
        Encoder(small.config, "cpu")


def test_an_index_names_what_it_was_built_from(indexed):
    facts = json.loads((indexed.path / "index" / "shift_3.json").read_text())
    assert facts["rows"] == indexed.n_rows
    assert len(facts["built_from"]) == len(indexed.commits)
    assert 0 < facts["recall_at_10"] <= 1
    assert faiss.read_index(str(indexed.path / "index" / "shift_3.faiss")).ntotal == indexed.n_rows


def test_a_damaged_or_stale_index_is_refused_with_the_command_that_rebuilds_it(indexed):
    from ctxbatch.verify import find_damage

    path = indexed.path / "index" / "shift_3.faiss"
    whole = path.read_bytes()
    command = f"rebuild it with `ctxbatch index {indexed.path} --on shift --layer 3`"
    for content in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        path.write_bytes(content)
        with pytest.raises(StoreError) as error:
            Searcher([indexed])
        assert command in str(error.value)
        assert command in "".join(damage.text for damage in find_damage(indexed.path))
    path.write_bytes(whole)
    assert list(find_damage(indexed.path)) == []
    from ctxbatch.layout import read_json, write_json

    facts = read_json(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), {**facts, "built_from": {**facts["built_from"], "0": "another"}})
    with pytest.raises(StoreError, match="was built from other shards than those that are there"):
        Searcher([indexed])


def test_an_interrupted_build_leaves_no_index(indexed, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        index.build(indexed, "shift_3")
    searcher = Searcher([indexed])
    assert not searcher.indexed
    assert len(searcher.search(QUERIES[0])) == 10


def test_hits_that_tie_are_the_first_rows():
    ids, scores = np.full((1, 3), -1, np.int64), np.full((1, 3), -np.inf, np.float32)
    for first in (500, 0):  # in blocks, in any order
        block = np.arange(first, first + 500)
        ids, scores = index.merge(ids, scores, block, np.full((1, 500), 0.5, np.float32))
    assert ids.tolist() == [[0, 1, 2]]


def test_few_rows_are_scanned_without_an_index(store):
    report = index.build(store, "shift_3")
    assert report.path is None
    assert "searched exactly, no index needed" in str(report)
    assert not (store.path / "index").exists()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_json_objects_or_aligned_lines(store, cli):
    result = cli("search", store.path, "I want an [apple].", "-k", "5", "--json")
    assert result.returncode == 0, result.stderr
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(hits) == 5
    fields = "score row_id word char_start char_end text source record doc_id sentence_id store"
    assert list(hits[0]) == fields.split()
    shown = cli("search", store.path, "--other-words", "--", "- I want an [apple].").stdout.splitlines()
    assert len(shown) == 10
    assert all(line.rpartition(":")[2].isdigit() and "many.txt:" in line for line in shown)
    assert max(map(wcswidth, shown)) <= 100


def hit(before, word, after, source="/a/b/one.txt", record=6):
    text = before + word + after
    return SearchHit(0.5, 0, word, len(before), len(before) + len(word), text, source, record, None, 0, "out")


def test_keyword_in_context_is_aligned_on_the_word_whatever_its_width():
    hits = [
        hit("A short ", "word", " here."),
        hit("漢字を含むとても長い文章がここにあります", "単語", "そのあともまだまだ続きますので切られます"),
        hit("line\nbroken\t\x07 in ", "the", "\r\nmiddle " * 9, record=12345),
        hit("emoji 😀 and e\u0301 ", "é", ""),
    ]
    lines = list(keyword_in_context(hits, 80))
    columns = {wcswidth(line[: line.index(h.word)]) for line, h in zip(lines, hits, strict=True)}
    assert len(columns) == 1
    assert len({wcswidth(line) - len(line.rpartition(":")[2]) for line in lines}) == 1
    assert all(wcswidth(line) <= 80 for line in lines)
    assert lines[0].endswith("one.txt:7")


@pytest.mark.parametrize("width", [40, 60, 200])
def test_lines_fit_narrow_and_wide_terminals(width):
    hits = [
        hit("A rather long beginning of a ", "word", " and as long an end of it", "a-file-of-some-name.txt")
    ]
    (line,) = keyword_in_context(hits, width)
    assert wcswidth(line) <= width
    assert "word" in line
    assert line.endswith("txt:7")


def test_places_of_hits_drop_only_the_folders_that_all_share():
    lines = list(keyword_in_context([hit("", "a", "", "x/y/1.txt"), hit("", "b", "", "x/z/1.txt")], 60))
    assert lines[0].endswith("y/1.txt:7")
    assert lines[1].endswith("z/1.txt:7")
    assert list(keyword_in_context([], 60)) == []
