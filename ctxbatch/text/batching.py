"""Makes token batches of sentences: tokenises them, fills buffers, and fills batches with their windows.

Owns which sentences share a buffer. Knows nothing of models, devices or files.

Array names end in the letters of their shape: S sentences, P wordpieces, N rows (words, or wordpieces
with pooling ``none``), R rows that are kept, W windows; of a batch: V windows, B sequences of T tokens, S all
its tokens, M wordpieces of its rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Encoding

from ctxbatch.arrays import Ints, Mask
from ctxbatch.config import ResolvedConfig
from ctxbatch.corpus.records import Record, Reject
from ctxbatch.corpus.units import Tokens
from ctxbatch.errors import InputError
from ctxbatch.text.buffers import Buffer, Rows, split
from ctxbatch.text.fit import measure
from ctxbatch.text.placement import Placement, place, place_equally
from ctxbatch.text.sampling import leading, sampled
from ctxbatch.text.sentences import Sentence
from ctxbatch.text.targets import Phrases, Targets
from ctxbatch.text.text_tokenizer import TextTokenizer
from ctxbatch.text.tokenizer_words import TokenizerTargets, TokenizerWords
from ctxbatch.text.unicode_words import UnicodeWords, check_rule
from ctxbatch.text.windows import Windows, cut_windows
from ctxbatch.text.word_key import word_key
from ctxbatch.text.words import LongEncoding, Pieces, Words, WordTexts, ranges

# A worker holds one buffer at a time and sorts its windows by length. It closes a buffer before this many
# wordpieces, and tokenises sentences in groups, so that the tokenizer's threads and calls pay off.
BUFFER_PIECES = 65_536
_BUFFER_CHARACTERS = 1 << 20
_GROUP_CHARACTERS = 16_384


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Windows in padded sequences of tokens, and the rows to take from them.

    A sequence holds one window, or several where the configuration has ``shared_sequences``. Window i has
    ``lengths_V[i]`` tokens, from ``starts_V[i]`` on in the flattened (B * T) tokens.

    ``rows_N`` indexes into the buffer's rows. The ``n_pieces_N[i]`` wordpieces of row i stand one after
    another in ``positions_M``, which indexes into the flattened tokens. If only the most salient rows
    of each sentence are kept, ``places_R`` are their places among rows ordered by ``sentence_N`` and falling
    salience, and ``n_slots`` is the most tokens that they pool. If a sentence is in several batches, each
    keeps its most salient rows, and they are compared afterwards.
    """

    input_ids_BT: Ints
    lengths_V: Ints
    starts_V: Ints
    rows_N: Ints
    positions_M: Ints
    n_pieces_N: Ints
    sentence_N: Ints
    places_R: Ints | None = None
    n_slots: int = 0

    @property
    def first_N(self) -> Ints:
        """Where in ``positions_M`` each row begins."""
        begin_N: Ints = np.cumsum(self.n_pieces_N) - self.n_pieces_N
        return begin_N

    @property
    def n_tokens(self) -> int:
        """The tokens of all windows, without padding."""
        return int(self.lengths_V.sum())

    @property
    def window_BT(self) -> Ints:
        """The window of each token, -1 for padding."""
        window_S = np.full(self.input_ids_BT.size, -1)
        window_S[ranges(self.starts_V, self.lengths_V)] = np.repeat(
            np.arange(len(self.lengths_V)), self.lengths_V
        )
        return window_S.reshape(self.input_ids_BT.shape)

    @property
    def place_BT(self) -> Ints:
        """Each token's place in its window, from 0; 0 for padding."""
        place_S = np.zeros(self.input_ids_BT.size, np.int64)
        place_S[ranges(self.starts_V, self.lengths_V)] = ranges(np.zeros_like(self.lengths_V), self.lengths_V)
        return place_S.reshape(self.input_ids_BT.shape)

    def separated(self, pad_id: int) -> "TokenBatch":
        """Return the batch with each window in a sequence of its own, the longest first."""
        order_V = np.argsort(-self.lengths_V, kind="stable")
        lengths_V, width = self.lengths_V[order_V], int(self.lengths_V.max())
        starts_V = np.arange(len(lengths_V)) * width
        taken_S, put_S = ranges(self.starts_V[order_V], lengths_V), ranges(starts_V, lengths_V)
        ids_S = np.full(len(lengths_V) * width, pad_id, np.int64)
        ids_S[put_S] = self.input_ids_BT.ravel()[taken_S]
        moved_S = np.zeros(self.input_ids_BT.size, np.int64)
        moved_S[taken_S] = put_S
        ids_BT, positions_M = ids_S.reshape(-1, width), moved_S[self.positions_M]
        return replace(
            self, input_ids_BT=ids_BT, lengths_V=lengths_V, starts_V=starts_V, positions_M=positions_M
        )


class BatchMaker:
    """Tokenises sentences into buffers and buffers into batches, for one tokenizer and configuration.

    Args:
        tokenizer_json: The serialised fast tokenizer. Truncation and padding stored in it are cleared.
        config: The resolved configuration.
        phrases: Keys of words that are one word also where they span several, beside those that ``config``
            asks for.

    Raises:
        InputError: The tokenizer's special tokens leave no room for text.
        StoreError: The words of the configuration are those of a newer version.
    """

    def __init__(self, tokenizer_json: str, config: ResolvedConfig, phrases: Sequence[str] = ()) -> None:
        self._tokenizer = TextTokenizer(tokenizer_json, reads_controls=config.word_rule is None)
        self._rule, self._targets = _rule_and_targets(config, self._tokenizer)
        self._phrases = Phrases(() if config.word_rule is None else config.words or phrases)
        self._prefix, self._suffix = self._tokenizer.prefix, self._tokenizer.suffix
        self._window = config.max_tokens - self.n_specials
        if self._window < 1:
            raise InputError(
                f"--model {config.model}: a window of {config.max_tokens} tokens has no room for text beside "
                "the special tokens"
            )
        self._config = config

    def try_words(self, keys: Sequence[str]) -> tuple[Mask, Mask]:
        """Try keys as sentences of their own.

        Returns:
            Marks of those that are one word that would be stored, and of those that the model knows: two
            arrays of shape (len(keys),).
        """
        found, known = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
        before = 0
        for buffer in self.buffers(Sentence(Record(0, n, None, None, t), 0, t) for n, t in enumerate(keys)):
            for row, number in enumerate((buffer.rows.sentence_N + before).tolist()):
                if word_key(buffer.words[row]) == keys[number]:
                    found[number], known[number] = True, buffer.rows.known_N[row]
            before += len(buffer.sentences)
        return found, known

    @property
    def n_specials(self) -> int:
        """The number of special tokens in every window."""
        return len(self._prefix) + len(self._suffix)

    def buffers(self, sentences: Iterable[Sentence]) -> Iterator[Buffer]:
        """Yield buffers of at most about `BUFFER_PIECES` wordpieces, with the sentences in order."""
        pending: list[tuple[Sentence, Encoding | LongEncoding]] = []
        n_pieces = n_characters = 0
        for group in _groups(sentences):
            for sentence, encoding in zip(group, self._encode_group(group), strict=True):
                full = n_pieces + len(encoding) > BUFFER_PIECES or n_characters > _BUFFER_CHARACTERS
                if pending and full:
                    yield from self._flatten(pending)
                    pending, n_pieces, n_characters = [], 0, 0
                pending.append((sentence, encoding))
                n_pieces += len(encoding)
                # Text can have few pieces or none, and each sentence has a cost of its own.
                n_characters += len(sentence.text) + 64
        if pending:
            yield from self._flatten(pending)

    def batches(self, buffer: Buffer, budget: int | None = None) -> Iterator[TokenBatch]:
        """Yield a buffer's windows as batches within the token budget, longest first.

        ``budget`` replaces that of the configuration where a device's memory is too small for it. It counts
        padding, unless windows are packed; then a batch can be larger by less than a window. Windows that no
        row comes from are skipped. A window longer than the budget is a batch alone.
        """
        bounds_W = np.searchsorted(buffer.rows.window_N, np.arange(len(buffer.window_start_W) + 1))
        budget = budget or self._config.tokens_per_batch
        used_W = np.flatnonzero(np.diff(bounds_W))
        length_W = buffer.window_length_W[used_W] + self.n_specials
        if self._config.packed:
            placed = place_equally(length_W, budget)
        else:
            placed = place(length_W, budget, shared=self._config.shared_sequences)
        for placement in placed:
            yield self._batch(buffer, used_W[placement.windows_V], bounds_W, placement)

    def _batch(self, buffer: Buffer, windows_V: Ints, bounds_W: Ints, placement: Placement) -> TokenBatch:
        n_before, n_pieces_V = len(self._prefix), buffer.window_length_W[windows_V]
        starts_V, shape = placement.starts_V, (placement.n_sequences, placement.longest)
        ids_S = np.full(shape[0] * shape[1], self._config.pad_id, np.int64)
        for offset, token in enumerate(self._prefix):
            ids_S[starts_V + offset] = token
        ids_S[ranges(starts_V + n_before, n_pieces_V)] = buffer.ids_P[
            ranges(buffer.window_start_W[windows_V], n_pieces_V)
        ]
        for offset, token in enumerate(self._suffix):
            ids_S[starts_V + n_before + n_pieces_V + offset] = token
        counts_V = bounds_W[windows_V + 1] - bounds_W[windows_V]
        rows_N = ranges(bounds_W[windows_V], counts_V)
        n_pieces_N, sentence_N = buffer.rows.n_pieces_N[rows_N], buffer.rows.sentence_N[rows_N]
        start_N = np.repeat(starts_V, counts_V) + n_before + buffer.rows.piece_N[rows_N]
        batch = TokenBatch(
            input_ids_BT=ids_S.reshape(shape),
            lengths_V=n_pieces_V + self.n_specials,
            starts_V=starts_V,
            rows_N=rows_N,
            positions_M=ranges(start_N, n_pieces_N),
            n_pieces_N=n_pieces_N,
            sentence_N=sentence_N,
        )
        n_kept = self._config.kept_by_model
        if n_kept is None:
            return batch
        pooled_N = np.ones_like(n_pieces_N) if self._config.pool == "first" else n_pieces_N
        places_R, n_slots = leading(sentence_N, pooled_N, n_kept)
        return replace(batch, places_R=places_R, n_slots=n_slots)

    def _encode_group(self, group: Sequence[Sentence]) -> list[Encoding | LongEncoding]:
        """Return the encodings of sentences, empty for those that cannot hold a wanted word."""
        texts = [sentence.text for sentence in group]
        if self._targets is None:
            return self._tokenizer.encode(texts)
        read = [self._targets.may_be_in(sentence.text, sentence.tokens) for sentence in group]
        encodings = iter(
            self._tokenizer.encode([text for text, is_read in zip(texts, read, strict=True) if is_read])
        )
        return [next(encodings) if is_read else _NOT_READ for is_read in read]

    def _flatten(self, pending: Sequence[tuple[Sentence, Encoding | LongEncoding]]) -> Iterator[Buffer]:
        sentences, encodings = [each for each, _ in pending], [each for _, each in pending]
        pieces = Pieces.of([sentence.text for sentence in sentences], encodings)
        read_S = np.array([encoding is not _NOT_READ for encoding in encodings], np.bool_)
        given = {n: tokens for n, each in enumerate(sentences) if (tokens := each.tokens) and read_S[n]}
        words = self._rule.words(pieces, encodings)
        if given:
            words = words.replaced([*given], self._given_words(pieces, given))
        bare, words = words.take(words.n_pieces_N == 0), words.take(words.n_pieces_N > 0)
        needed, wanted_N = self._select(sentences, pieces, words, given)
        cut = cut_windows(pieces, needed, self._window)
        lost = np.flatnonzero((cut.window_N < 0) & wanted_N)
        rows, texts = self._rows(pieces, needed, wanted_N, cut)
        unknown_P = pieces.ids_P == self._tokenizer.unknown
        buffer = Buffer(
            sentences=sentences,
            read_S=read_S,
            n_words_S=np.bincount(words.sentence_N, minlength=len(sentences)),
            n_pieces_S=np.diff(pieces.bounds_S),
            ids_P=pieces.ids_P,
            window_start_W=cut.start_W,
            window_length_W=cut.length_W,
            rows=rows,
            words=texts,
            fit=measure(pieces, words, read_S, unknown_P, pieces.count(self._tokenizer.control_tokens)),
            rejects=[
                self._reject(sentences, its, int(number))
                for its, numbers in ((bare, range(len(bare))), (needed, lost))
                for number in numbers
            ],
        )
        # The most salient words of a sentence are known only when all of it has been seen.
        yield from [buffer] if self._config.top_salient is not None else split(buffer, BUFFER_PIECES)

    def _given_words(self, pieces: Pieces, given: Mapping[int, Tokens]) -> Words:
        """Return the given words of sentences; of marked ones also those without a letter or digit."""
        words = pieces.given({number: tokens.places for number, tokens in given.items()})
        if self._config.keep_punctuation:
            return words
        marked = [number for number, tokens in given.items() if tokens.marked]
        return words.without_punctuation(pieces).replaced(
            marked, words.take(np.isin(words.sentence_N, marked))
        )

    def _select(
        self, sentences: Sequence[Sentence], pieces: Pieces, words: Words, given: Mapping[int, Tokens]
    ) -> tuple[Words, Mask]:
        """Return the needed words and mark the wanted ones; the rest are needed for their salience."""
        wanted_N = np.ones(len(words), np.bool_)
        if self._config.sample is not None:
            wanted_N &= sampled(sentences, words, self._config.sample)
        words, of_N = self._phrases.join(words, pieces, given)
        wanted_N = wanted_N[of_N]
        if self._targets is not None:
            texts = pieces.texts(words.sentence_N, words.char_start_N, words.char_end_N)
            wanted_N &= self._targets.among(texts)
        needed_N = wanted_N
        if self._config.top_salient is not None:
            has_wanted_S = np.bincount(words.sentence_N, wanted_N, len(sentences)) > 0
            needed_N = has_wanted_S[words.sentence_N]
        return (words, wanted_N) if needed_N.all() else (words.take(needed_N), wanted_N[needed_N])

    def _reject(self, sentences: Sequence[Sentence], words: Words, number: int) -> Reject:
        sentence = sentences[int(words.sentence_N[number])]
        text = sentence.text[int(words.char_start_N[number]) : int(words.char_end_N[number])]
        shown = text if len(text) <= 80 else f"{text[:40]}…{text[-20:]}"
        size = int(words.n_pieces_N[number])
        reason = f"word of {size} wordpieces lies across the edges of all windows of {self._window}"
        if not size:
            reason = "word has no wordpiece"
        elif size > self._window:
            reason = f"word of {size} wordpieces is longer than a window of {self._window}"
        record = sentence.record
        return Reject(record.source, record.record, record.byte_start, reason, shown)

    def _rows(self, pieces: Pieces, words: Words, wanted_N: Mask, cut: Windows) -> tuple[Rows, WordTexts]:
        """Return the rows of words that have a window, and the text of each row's whole word."""
        held_N, start_W = cut.window_N >= 0, cut.start_W
        words, window_N = words.take(held_N), cut.window_N[held_N]
        texts = pieces.texts(words.sentence_N, words.char_start_N, words.char_end_N)
        unknown_P = pieces.ids_P == self._tokenizer.unknown
        rows = Rows(
            words.sentence_N,
            words.index_N,
            words.char_start_N,
            words.char_end_N,
            words.n_pieces_N,
            window_N,
            words.first_N - start_W[window_N],
            wanted_N[held_N],
            words.count_pieces(unknown_P) == 0,
            words.token_N,
        )
        if self._config.pool != "none":
            return rows, texts
        word_M = np.repeat(np.arange(len(rows)), rows.n_pieces_N)
        piece_M = ranges(words.first_N, words.n_pieces_N)
        solid_M = pieces.char_end_P[piece_M] > pieces.char_start_P[piece_M]
        word_M, piece_M = word_M[solid_M], piece_M[solid_M]
        return replace(
            rows.take(word_M),
            char_start_N=pieces.char_start_P[piece_M],
            char_end_N=pieces.char_end_P[piece_M],
            n_pieces_N=np.ones_like(piece_M),
            known_N=~unknown_P[piece_M],
            piece_N=piece_M - start_W[window_N[word_M]],
        ), texts.take(word_M)


_NOT_READ = LongEncoding(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


def _groups(sentences: Iterable[Sentence]) -> Iterator[list[Sentence]]:
    group: list[Sentence] = []
    size = 0
    for sentence in sentences:
        group.append(sentence)
        size += len(sentence.text)
        if size >= _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _rule_and_targets(
    config: ResolvedConfig, tokenizer: TextTokenizer
) -> tuple[UnicodeWords | TokenizerWords, Targets | TokenizerTargets | None]:
    """Return what finds words, and what tells the wanted ones from others if not all are wanted."""
    if config.word_rule is None:
        rule = TokenizerWords(tokenizer.cuts_at_spaces, with_punctuation=config.keep_punctuation)
        return rule, None if config.words is None else rule.targets(config.words)
    check_rule(config.word_rule)
    unicode_words = UnicodeWords(with_punctuation=config.keep_punctuation)
    return unicode_words, None if config.words is None else Targets(config.words)
