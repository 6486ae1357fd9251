"""A word is whole and has exact offsets in every script, whatever the tokenizer does to the text."""

import unicodedata

import numpy as np
import pytest

import ctxbatch
from ctxbatch import RunConfig
from ctxbatch.text.word_key import word_key
from tests.helpers.models import TEXT
from tests.helpers.oracle import Oracle
from tests.helpers.stores import rows_of
from tests.helpers.tokenizers import BERTS, KINDS, ROBERTAS, maker_of, rows_in, sentences_of, train

FOUR = ("uncased", "cased", "roberta", "xlm-roberta")
# What the tokenizers have seen; no £, no € and no emoji.
SEEN = [
    *(line for line in TEXT.splitlines() if line.isascii()),
    "BREAKING news: the café and the family, 760 or 16bn, İstanbul Işık naïve schön",
    "भीड़ को लोगों के लिए है। मैं हिन्दी बोलता हूँ।",
    "في هذا الكتاب بِسْمِ اللَّهِ שלום עולם בְּרֵאשִׁית",
    "มหาวิทยาลัยเชียงใหม่อยู่ในภาคเหนือ 我喜欢学习中文。東京都に住んでいます。",
]


def nfd(text):
    return unicodedata.normalize("NFD", text)


# Each text with its words; everything else in it is none.
TABLE = {
    "Hindi": ("भीड़ को लोगों के लिए है।", "भीड़ को लोगों के लिए है"),
    "Hindi, decomposed": (nfd("मैं हिन्दी बोलता हूँ।"), nfd("मैं हिन्दी बोलता हूँ")),
    "café, decomposed": (nfd("at the café now"), nfd("at the café now")),
    "naïve, decomposed": (nfd("so naïve!"), nfd("so naïve")),
    "pointed Hebrew": ("בְּרֵאשִׁית, שָׁלוֹם עוֹלָם", "בְּרֵאשִׁית שָׁלוֹם עוֹלָם"),
    "pointed Arabic": ("بِسْمِ اللَّهِ، كِتَابٌ", "بِسْمِ اللَّهِ كِتَابٌ"),
    "soft hyphen": ("un\u00adbe\u00adliev\u00adable schön", "un\u00adbe\u00adliev\u00adable schön"),
    "ZWNJ": ("می\u200cخواهم کتاب", "می\u200cخواهم کتاب"),
    "ZWJ": ("അവന്\u200d വന്നു", "അവന്\u200d വന്നു"),
    "Thai": ("มหาวิทยาลัยเชียงใหม่อยู่ในภาคเหนือ", "มหาวิทยาลัย เชียงใหม่ อยู่ ใน ภาค เหนือ"),
    "Chinese": ("我喜欢学习中文。", "我 喜欢 学习 中文"),
    "Japanese": ("東京都に住んでいます。", "東京 都 に 住 んで い ます"),
    "Khmer": ("ខ្ញុំស្រឡាញ់ភាសាខ្មែរ", "ខ្ញុំ ស្រឡាញ់ ភាសាខ្មែរ"),
    "Lao": ("ຂ້ອຍຮັກພາສາລາວ", "ຂ້ອຍ ຮັກ ພາສາ ລາວ"),
    "Burmese": ("ကျွန်တော်မြန်မာစာဖတ်တယ်", "ကျွန်တော် မြန်မာ စာ ဖတ် တယ်"),
    "Korean": ("한국어를 배워요.", "한국어를 배워요"),
    "emoji before a word": ("🚨BREAKING 👩‍👩‍👧family 🇩🇪the 👍🏽one", "BREAKING family the one"),
    "currencies": ("£760 or €16bn", "760 or 16bn"),
    "apostrophes": ("don't isn’t rock'n'roll 'one' dogs'", "don't isn’t rock'n'roll one dogs"),
    "hyphens and full stops": ("well-known U.S. and 3.14, 1,000", "well known U.S and 3.14 1,000"),
    "controls": ("FF\x0cand fun\x97TOO next\x85line zero\u200bwidth", "FF and fun TOO next line zero width"),
    "Turkish": ("İstanbul Işık", "İstanbul Işık"),
    "control tokens": ("a [SEP] the[MASK]one <s>end</s>", "a SEP the MASK one s end s"),
}


@pytest.fixture(scope="module")
def trained():
    return {kind: train(kind, SEEN) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE)
def test_words_are_whole_and_at_their_places(name, kind, trained):
    text, words = TABLE[name]
    (rows,) = rows_in(maker_of(trained[kind]), [text])
    assert [row.word for row in rows] == words.split(" ")
    assert [text[row.start : row.end] for row in rows] == words.split(" ")
    assert all(row.n_pieces > 0 for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decomposed_word_has_its_mark_and_the_key_of_the_composed_one(kind, trained):
    text = nfd("I want a café") + " or a café"
    (rows,) = rows_in(maker_of(trained[kind]), [text])
    places = [(row.start, row.end) for row in rows if word_key(row.word) == "café"]
    assert places == [(9, 14), (20, 24)]
    wanted = maker_of(trained[kind], words=(word_key(nfd("CAFÉ")),))
    assert [(row.start, row.end) for row in rows_in(wanted, [text])[0]] == places


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_is_unknown_where_its_piece_is(kind, trained):
    """BERT takes an emoji or a currency together with the word behind it; its piece is unknown then."""
    (rows,) = rows_in(maker_of(trained[kind]), ["🚨BREAKING BREAKING £760 760 €16bn 16bn"])
    words = ["BREAKING", "BREAKING", "760", "760", "16bn", "16bn"]
    knows_all = kind not in ("uncased", "cased")
    assert [(row.word, row.known) for row in rows] == [
        (word, bool(number % 2) or knows_all) for number, word in enumerate(words)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_running_text_are_text_and_are_counted(kind, trained):
    tokenizer = trained[kind]
    text = "I [SEP] want [CLS]an[MASK] apple <s>or</s> <mask><pad> an [PAD] orange"
    controls = [token for token in (*BERTS, *ROBERTAS) if tokenizer.token_to_id(token) is not None]
    (buffer,) = maker_of(tokenizer).buffers(sentences_of([text, "nothing here"]))
    ids = {tokenizer.token_to_id(token) for token in controls if "unk" not in token.lower()}
    assert len(ids) == 4
    assert not ids & {*buffer.ids_P.tolist()}
    assert buffer.fit.control_tokens == sum(map(text.count, controls)) == 4
    (as_words,) = rows_in(maker_of(tokenizer), [text])
    expected = "I SEP want CLS an MASK apple s or s mask pad an PAD orange"
    assert [row.word for row in as_words] == expected.split()


@pytest.mark.parametrize("kind", FOUR)
def test_words_are_found_as_people_write_them(kind, trained):
    text = (
        "Don’t say it isn't well-known in the U.S. or New   York; İSTANBUL, IŞIK and co\u00adop, "
        "don't: İstanbul U.S"
    )
    written = ["don't", "isn’t", "Well-Known", "u.s.", "NEW YORK", "İstanbul", "Işık", "coop"]
    maker = maker_of(trained[kind], words=tuple(sorted(map(word_key, written))))
    (rows,) = rows_in(maker, [text])
    found = [
        "Don’t",
        "isn't",
        "well-known",
        "U.S.",
        "New   York",
        "İSTANBUL",
        "co\u00adop",
        "don't",
        "İstanbul",
    ]
    assert [row.word for row in rows] == found
    assert [text[row.start : row.end] for row in rows] == found


# --- a run ----------------------------------------------------------------------------------------

ASKED = ("don't", "isn't", "well-known", "U.S.", "New York", "café", nfd("naïve"), "İstanbul", "unbelievable")
RUN_TEXT = f"""\
I don't want what isn't well-known in New York or the U.S. but in {nfd("İstanbul")}.
One {nfd("café")}, two cafés, one CAFÉ, and Naïve or {nfd("naïve")} un\u00adbeliev\u00adable things.
NEW\tYORK and new-york, York New, don’t.
"""
RUN_ROWS = [
    ["don't", "isn't", "well-known", "New York", "U.S.", nfd("İstanbul")],
    [nfd("café"), "CAFÉ", "Naïve", nfd("naïve"), "un\u00adbeliev\u00adable"],
    ["NEW\tYORK", "don’t"],
]


@pytest.fixture(scope="module")
def asked(tiny, tmp_path_factory):
    """A store of the words that are asked for."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "text.txt").write_text(RUN_TEXT, encoding="utf-8")
    config = RunConfig(
        model=str(tiny()), words=ASKED, precision="fp32", dtype="float32", index=False, workers=1
    )
    ctxbatch.run(folder / "text.txt", folder / "out", config)
    return ctxbatch.open(folder / "out")


def test_a_run_stores_one_row_for_each_occurrence_of_what_is_asked_for(asked):
    rows = rows_of(asked)
    texts = RUN_TEXT.splitlines()
    for number, words in enumerate(RUN_ROWS):
        mine = [row for row in rows if row["sentence"]["record"] == number]
        assert [row["word"] for row in mine] == words
        assert [texts[number][row["char_start"] : row["char_end"]] for row in mine] == words
    assert {word_key(row["word"]) for row in rows} == {*map(word_key, ASKED)}


def test_the_vectors_of_a_row_are_pooled_over_all_its_pieces(asked, tiny):
    oracle = Oracle(tiny())
    rows = rows_of(asked)
    for number in {row["sentence_id"] for row in rows}:
        mine = [row for row in rows if row["sentence_id"] == number]
        spans = [(row["char_start"], row["char_end"]) for row in mine]
        expected, _ = oracle.rows(mine[0]["sentence"]["text"], given=spans)
        for row, each in zip(mine, expected, strict=True):
            np.testing.assert_allclose(row["static"], each.static, atol=1e-4)
            np.testing.assert_allclose(row["contextual_2"], each.contextual[2], atol=2e-4)
    pieces = {row["word"]: row["n_pieces"] for row in rows}
    assert pieces["New York"] > 2
    assert pieces["U.S."] == 4
