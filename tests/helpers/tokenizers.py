"""Trains the kinds of tokenizers that models have on a text, and finds words with them, without a model."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.records import Record
from ctxbatch.text.batching import BatchMaker
from ctxbatch.text.sentences import Sentence
from ctxbatch.text.unicode_words import RULE

# What normalises and cuts text in each: BERT, multilingual BERT, RoBERTa, ModernBERT, XLM-R.
KINDS = ("uncased", "cased", "roberta", "modernbert", "xlm-roberta")
BERTS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTAS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train(kind: str, texts: Sequence[str], size: int = 1500) -> Tokenizer:
    """Return a tokenizer of a kind, with a vocabulary of about ``size`` from some texts."""
    specials = ROBERTAS if "roberta" in kind else BERTS
    begin, end = (0, 2) if "roberta" in kind else (2, 3)
    tokenizer, trainer = _TRAINED[kind](size, list(specials))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{specials[begin]} $A {specials[end]}",
        special_tokens=[(specials[begin], begin), (specials[end], end)],
    )
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
        )
    return tokenizer


def _wordpiece(size: int, specials: list[str], *, lowercase: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials, show_progress=False)


def _byte_level(size: int, specials: list[str], *, nfc: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=not nfc)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )


def _sentencepiece(size: int, specials: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False
    )


_TRAINED = {
    "uncased": lambda size, specials: _wordpiece(size, specials, lowercase=True),
    "cased": lambda size, specials: _wordpiece(size, specials, lowercase=False),
    "roberta": lambda size, specials: _byte_level(size, specials, nfc=False),
    "modernbert": lambda size, specials: _byte_level(size, specials, nfc=True),
    "xlm-roberta": _sentencepiece,
}


def maker_of(tokenizer: Tokenizer, **options: object) -> BatchMaker:
    """Return what finds words with a tokenizer; ``options`` are fields of the resolved configuration."""
    fields = {
        "model": "trained",
        "revision": None,
        "model_type": "bert",
        "hidden_size": 8,
        "n_layers": 1,
        "max_tokens": 512,
        "pad_id": 0,
        "layers": (1,),
        "vectors": ("contextual",),
        "static": None,
        "shift": None,
        "floor": None,
        "delta": None,
        "pool": "mean",
        "keep_punctuation": False,
        "salience_layer": None,
        "salience_head": None,
        "top_salient": None,
        "words": None,
        "sample": None,
        "split": "none",
        "lang": None,
        "dtype": "float16",
        "precision": "fp32",
        "tokens_per_batch": 4096,
        "word_rule": RULE,
    }
    return BatchMaker(tokenizer.to_str(), ResolvedConfig(**{**fields, **options}))


class Row(NamedTuple):
    """A row that would be stored, and where in its sentence it is."""

    word: str
    start: int
    end: int
    n_pieces: int
    known: bool


def rows_in(maker: BatchMaker, texts: Iterable[str]) -> list[list[Row]]:
    """Return the rows of some texts, a sentence each."""
    sentences = sentences_of(texts)
    found, before = [[] for _ in sentences], 0
    for buffer in maker.buffers(sentences):
        rows = buffer.rows
        columns = (rows.sentence_N, rows.char_start_N, rows.char_end_N, rows.n_pieces_N, rows.known_N)
        for row, (number, *facts, known) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            found[before + number].append(Row(buffer.words[row], *facts, known))
        before += len(buffer.sentences)
    return found


def sentences_of(texts: Iterable[str]) -> list[Sentence]:
    """Return texts as sentences of a record each."""
    return [Sentence(Record(0, n, 0, None, text), 0, text) for n, text in enumerate(texts)]
