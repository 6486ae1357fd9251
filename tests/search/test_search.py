"""Search finds what brute force over the stored vectors finds, and shows it as keyword in context."""

import json
import os
import re
import subprocess

import numpy as np
import pytest
from wcwidth import wcswidth

import ctxbatch
from ctxbatch import Filters, InputError, RunConfig, StoreError
from ctxbatch.arrays import as_floats
from ctxbatch.search import exact, index_build
from ctxbatch.search.hits import hits_table
from ctxbatch.search.queries import parse_query
from ctxbatch.store.columns import StoredColumn
from tests.helpers.brute import QUERIES, cosines, known, query_vectors
from tests.helpers.running import command
from tests.helpers.stores import make_store


@pytest.mark.parametrize("on", ["shift", "contextual", "static"])
def test_hits_are_those_of_brute_force_in_order_of_cosine(store, on):
    searcher = ctxbatch.searcher(store, on)
    for query in QUERIES:
        hits = searcher.search(query, 10)
        every = cosines(store, searcher.column, query_vectors(searcher, query)[0])
        tenth = np.sort(every[known(store)])[-10]
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
    hit = ctxbatch.searcher(store, "contextual", 1).search(query, 1)[0]
    assert text.startswith(hit.text)
    assert hit.word == "bank"
    assert hit.score > 0.999
    assert hit.text[hit.char_start : hit.char_end] == "bank"


def test_fewer_hits_only_where_there_are_fewer_rows(store):
    every = ctxbatch.searcher(store).search("I want an [apple].", 10**6, Filters(unknown=True))
    assert len(every) == store.n_rows
    found = ctxbatch.searcher(store).search("I want an [apple].", 10**6)
    assert {hit.row_id for hit in found} == {*store.row_ids()[known(store)].tolist()}
    filters = Filters(words=("apple",), exclude_words=("apple",))
    none = ctxbatch.searcher(store).search("I want an [apple].", 5, filters)
    assert none == []


def test_a_word_of_several_pieces_queries_with_each_where_rows_are_pieces(corpus, tiny, tmp_path):
    store = make_store(tmp_path / "out", [corpus], RunConfig(model=str(tiny()), pool="none"))
    searcher = ctxbatch.searcher(store)
    query = "an [unbelievableness] of things"
    vectors = query_vectors(searcher, query)
    assert len(vectors) > 1
    best = np.max([cosines(store, searcher.column, vector) for vector in vectors], axis=0)
    (answer,) = searcher.ask([query], 20)
    assert (answer.word, answer.text[answer.char_start : answer.char_end]) == ("unbelievableness",) * 2
    hits = answer.hits
    assert len({hit.row_id for hit in hits}) == 20
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(best)[::-1][:20], atol=1e-3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("not [closed", "do not pair up"),
        ("not] opened", "do not pair up"),
        ("[nested [marks]]", "do not pair up"),
        ("empty [ ] mark", "are empty"),
        ("just [...] points", r"\[...\] contains no word that the store would keep"),
        ("[two] marked [words]", r"marks several words \('two', 'words'\): mark one, or use Searcher.ask"),
        (3 << 40, "has no row 3298534883328"),
        (-1, "has no row -1"),
    ],
)
def test_a_query_that_means_no_single_word_is_refused(store, query, message):
    with pytest.raises(InputError, match=message):
        ctxbatch.searcher(store).search(query)


@pytest.mark.parametrize(
    "query", ["[" + "long " * 10**5, "[" + "," * 10**5 + "]", "\ud800" * 10**5, "," * 10**5]
)
def test_a_message_quotes_no_more_than_the_beginning_of_a_long_query(store, query):
    with pytest.raises(InputError) as raised:
        ctxbatch.searcher(store).search(query)
    assert len(str(raised.value)) < 2000
    assert "…" in str(raised.value)


def test_literal_brackets_are_text():
    query = parse_query(r"as in \[1\], a [card] is")
    ((start, end),) = query.marks
    assert (query.text, query.text[start:end]) == ("as in [1], a card is", "card")


def test_many_queries_are_answered_as_each_alone_is(store):
    """Marked words, several in a sentence or in one pair of brackets, and rows; the bad ones by name."""
    searcher = ctxbatch.searcher(store)
    queries = [*QUERIES, "[two words] of [one]", 5, "no [?] word", "[open", (2 << 32) + 1]
    rejected = []
    answers = searcher.ask(queries, 5, on_reject=lambda number, error: rejected.append((number, str(error))))
    assert {number for number, _ in rejected} == {12, 13}
    assert [answer.query for answer in answers] == [*range(10), 10, 10, 10, 11, 14]
    assert [answer.word for answer in answers[10:13]] == ["two", "words", "one"]
    for answer in answers:
        before, after = answer.text[: answer.char_start], answer.text[answer.char_end :]
        alone = f"{before}[{answer.word}]{after}" if answer.query < 11 else queries[answer.query]
        assert [hit.row_id for hit in answer.hits] == [hit.row_id for hit in searcher.search(alone, 5)]
    with pytest.raises(InputError, match="do not pair up"):
        searcher.ask(queries)
    table = hits_table(answers)
    assert table.num_rows == 5 * len(answers)
    assert table["rank"].to_pylist()[:5] == [1, 2, 3, 4, 5]
    assert set(table["query"].to_pylist()) == {*range(12), 14}


def test_more_like_a_row_never_finds_the_row_itself(store):
    searcher = ctxbatch.searcher(store)
    row_ids = store.row_ids()
    for position in (0, 7, store.n_rows - 1):
        vector = store.take(searcher.column, row_ids[[position]])[0].astype(np.float64)
        every = cosines(store, searcher.column, vector)
        every[position] = -np.inf
        every[~known(store)] = -np.inf
        hits = searcher.search(int(row_ids[position]), 8)
        assert int(row_ids[position]) not in {hit.row_id for hit in hits}
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(every)[::-1][:8], atol=1e-3)


def test_an_explanation_adds_up_to_the_score(store):
    searcher = ctxbatch.searcher(store)
    query = QUERIES[0]
    vector = query_vectors(searcher, query)[0]
    for hit in searcher.search(query, 3, explain=True):
        row = store.take(searcher.column, np.array([hit.row_id]))[0].astype(np.float64)
        shares = vector * row / np.linalg.norm(row)
        assert abs(shares.sum() - hit.score) < 1e-3
        largest = hit.explanation.dimensions
        assert [number for number, _ in largest] == np.argsort(-shares)[:5].tolist()
        np.testing.assert_allclose([share for _, share in largest], np.sort(shares)[::-1][:5], atol=1e-3)
        assert hit.explanation.of == len(row)
        assert hit.explanation.shared == np.count_nonzero((row != 0) & (vector != 0))


def test_context_is_the_sentences_around_in_the_same_source(store):
    every = store.sentences.to_table(columns=["sentence_id", "text"]).to_pylist()
    place = {row["sentence_id"]: number for number, row in enumerate(every)}
    hits = ctxbatch.searcher(store).search("[Things] happen here", 30, context=2)
    assert any(not hit.before for hit in hits) or len(hits) == 30
    for hit in hits:
        at = place[hit.sentence_id]
        assert hit.before == tuple(row["text"] for row in every[max(0, at - 2) : at])
        assert hit.after == tuple(row["text"] for row in every[at + 1 : at + 3])


def test_a_query_may_be_longer_than_a_path(store, cli):
    result = cli("search", store.path, f"{'long ' * 2000}[word]", "-k", 1)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1), result.stderr


def test_queries_from_standard_input_are_utf_8_whatever_the_locale(store):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    for text, status, message in (("\ufeffa [café]", 0, ""), (b"a [caf\xe9]", 2, "it is not UTF-8")):
        result = subprocess.run(
            command("search", store.path, "--queries", "-", "-k", 1),
            input=text if isinstance(text, bytes) else text.encode(),
            env=environment,
            capture_output=True,
            check=False,
        )
        assert result.returncode == status, result.stderr
        assert message in result.stderr.decode()


@pytest.mark.parametrize(
    "call",
    [
        lambda searcher: searcher.ask("a [string]"),
        lambda searcher: searcher.search(0, 3, Filters(words="card")),
        lambda searcher: searcher.nearest(np.ones((2, 3), np.float32)),
        lambda searcher: searcher.nearest(np.ones((2, 32), np.float32), 0),
        lambda searcher: searcher.search("half a \ud800 [character]"),
        lambda _: ctxbatch.searcher([]),
    ],
)
def test_wrong_arguments_are_refused_in_python_too(store, call):
    with pytest.raises(InputError):
        call(ctxbatch.searcher(store))


def test_threads_share_a_searcher(store):
    from concurrent.futures import ThreadPoolExecutor

    searcher = ctxbatch.searcher(store)
    alone = [searcher.search(query, 5) for query in QUERIES]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda query: searcher.search(query, 5), QUERIES)) == alone


def test_vectors_are_searched_for_as_they_are(store):
    searcher = ctxbatch.searcher(store)
    row_ids = store.row_ids()[[3, 50]]
    found, scores = searcher.nearest(3 * store.take(searcher.column, row_ids).astype(np.float32), 4)
    assert found.shape == scores.shape == (2, 4)
    assert set(row_ids) <= set(found[:, 0]) | set(found[scores > 0.9999])


@pytest.mark.parametrize("bits", [np.uint16])
def test_half_floats_are_widened_exactly(bits):
    halves = np.arange(1 << 16, dtype=bits).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 8)
    widened = as_floats(halves)
    assert (widened.view(np.int32) == halves.astype(np.float32).view(np.int32)).all()


@pytest.mark.parametrize("k", [1, 7, 400, 3000])
def test_the_exact_scan_is_brute_force_over_any_blocks(k):
    chance = np.random.default_rng(3)
    rows = np.round(chance.standard_normal((2500, 6)), 1).astype(np.float16)  # with many ties
    column = StoredColumn([rows[:7], rows[7:7], rows[7:1900], rows[1900:]], 6, np.float16)
    queries = exact.normalised(chance.standard_normal((4, 6)).astype(np.float32))
    scores_QN = (queries @ exact.normalised(rows).T).round(6)
    some = np.sort(chance.choice(2500, 900, replace=False))
    for (positions, scores), among in (
        (exact.scan(column, queries, k), np.arange(2500)),
        (exact.scan_rows(column, queries, k, some), some),
    ):
        for query in range(4):
            order = np.lexsort((among, -scores_QN[query, among]))[:k]
            np.testing.assert_allclose(scores[query], scores_QN[query, among[order]], atol=2e-6)
            assert len(set(positions[query].tolist())) == len(order)


@pytest.mark.parametrize("k", [1, 30, 2500])
@pytest.mark.parametrize("n_queries", [1, 4, 5])
@pytest.mark.parametrize("share", [0.02, 0.6, 0.99])
def test_the_exact_scan_of_a_selection_is_brute_force(k, n_queries, share):
    chance = np.random.default_rng(5)
    rows = chance.standard_normal((2500, 6)).astype(np.float16)
    column = StoredColumn([rows[:700], rows[700:]], 6, np.float16)
    queries = exact.normalised(chance.standard_normal((n_queries, 6)).astype(np.float32))
    selection = exact.Selection(chance.random(2500) < share)
    some = np.flatnonzero(selection.mask_N)
    scores_QN = (queries @ exact.normalised(rows[some]).T).round(6)
    positions, scores = exact.exact(column, queries, k, selection)
    assert positions.shape == (n_queries, min(k, len(some)))
    for query in range(n_queries):
        np.testing.assert_allclose(scores[query], np.sort(scores_QN[query])[::-1][:k], atol=2e-6)
        place = np.searchsorted(some, positions[query])
        np.testing.assert_allclose(scores[query], scores_QN[query, place], atol=2e-6)
        assert len({*positions[query].tolist()} & {*some.tolist()}) == positions.shape[1]


def test_zero_vectors_score_zero_and_a_zero_query_is_an_error(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("one two three\n")
    # A floor above everything: no ratio is defined, every shift is zero.
    store = make_store(
        tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(tiny()), shift="log_ratio", floor=1e6)
    )
    with pytest.raises(InputError, match="vector of 'two' is zero"):
        ctxbatch.searcher(store).search("one [two]")
    column = StoredColumn([np.array([[0, 0], [1, 0], [-1, 0]], np.float16)], 2, np.float16)
    ids, scores = exact.scan(column, np.array([[1, 0]], np.float32), 3)
    assert ids.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[1.0, 0.0, -1.0]]


def test_a_changed_model_is_refused(tiny, tmp_path):
    import shutil

    from ctxbatch.model.encoder import Encoder

    folder = tmp_path / "model"
    shutil.copytree(tiny(), folder)
    (tmp_path / "a.txt").write_text("one two three\n")
    small = make_store(tmp_path / "out", [tmp_path / "a.txt"], RunConfig(model=str(folder)))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(StoreError, match="the checksum of its model config differs"):
        Encoder(small.config, "cpu")


def test_an_unfinished_store_is_not_searched(store, tmp_path):
    import shutil

    from ctxbatch.store.reader import Store

    out = tmp_path / "out"
    shutil.copytree(store.path, out)
    shutil.rmtree(out / "shards" / "000001")
    unfinished = r"is unfinished \(\d+ of \d+ shards\): run its `ctxbatch run` command again"
    with pytest.raises(StoreError, match=unfinished):
        ctxbatch.searcher(Store(out))
    with pytest.raises(StoreError, match=unfinished):
        index_build.build(Store(out), "shift_3")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_json_objects_or_aligned_lines(store, cli):
    result = cli("search", store.path, "I want an [apple].", "-k", "5", "--json")
    assert result.returncode == 0, result.stderr
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(hits) == 5
    assert list(hits[0]) == [
        n for n in hits_table([]).schema.names if n not in ("left_context", "right_context")
    ]
    shown = cli("search", store.path, "--other-words", "--", "- I want an [apple].").stdout.splitlines()
    assert len(shown) == 10
    assert all(re.search(r" many\.txt:\d+ +\d+$", line) for line in shown)
    assert max(map(wcswidth, shown)) <= 100


def test_the_command_answers_a_file_of_queries_and_names_those_it_cannot(store, cli, tmp_path):
    path = tmp_path / "queries.txt"
    path.write_text("I want an [apple].\n\nno [closing\nthe [bank] and the [river]\n")
    result = cli("search", store.path, "--queries", path, "-k", 2, "--json")
    assert result.returncode == 3
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["query"], row["query_word"]) for row in rows[::2]] == [
        (0, "apple"),
        (3, "bank"),
        (3, "river"),
    ]
    assert "queries.txt, line 3: the brackets in 'no [closing' do not pair up" in result.stderr
    assert "1 of 3 queries have errors" in result.stderr
    shown = cli("search", store.path, "--row", 0, "-k", 2, "--context", 1, "--explain").stdout
    assert "dimensions are nonzero in both" in shown
    assert max(map(wcswidth, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a query is missing"),
        (("--row", 1, "--queries", "x"), "--row and --queries exclude each other"),
        (("--queries", "/no/such/file"), "--queries /no/such/file cannot be read: No such file"),
        (("a [word]", "--same-word", "--other-words"), "--same-word and --other-words exclude each other"),
        (("a [word]", "--min-score", 2), "--min-score 2.0 must be a cosine"),
        (
            ("a [word]", "--distinct", "line"),
            'value "line" for --distinct. Choose from: "sentence", "text", "document", "word"',
        ),
        (("a [word]", "--source", "*.pdf"), "--source '*.pdf' matches no source of the store: its sources "),
        (("a [word]", "--word", "apple", "--word", "zzzz"), "--word 'zzzz' does not occur in "),
        (("a [word]", "--word", ""), "--word '' does not occur in "),
        (("a [word]", "--context", -1), "--context -1 must be 0 or more"),
        (("a [word]", "-k", 0), "-k 0 must be 1 or more"),
        (("a [word]", "--source", ""), "--source '' matches no source of the store"),
        (("a [word]", "--row", 5), "give either --row or the query 'a [word]', not both"),
        (("--row", 10**20), "has no row 100000000000000000000"),
        (("no-such-store",), "'no-such-store' is neither a store nor a sentence"),
        (
            ("",),
            "the query '' is empty: mark the word to search for with brackets: \"I will send her a [card].\"",
        ),
        ((" ",), "the query ' ' is empty: mark the word"),
        (("[]",), "the brackets in '[]' are empty: mark the word"),
        (("--queries", "/dev/null"), "--queries /dev/null holds no queries"),
    ],
)
def test_a_wrong_search_is_refused_in_one_line(store, cli, arguments, message):
    result = cli("search", store.path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
