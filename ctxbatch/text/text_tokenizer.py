"""Tokenises texts of any length with a model's tokenizer, and knows its special tokens."""

import itertools
import re
from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Regex, Tokenizer, pre_tokenizers
from tokenizers.models import Unigram

from ctxbatch.text.words import LongEncoding

_PART_CHARACTERS = 65_536


class TextTokenizer:
    """A model's tokenizer, for texts without special tokens around them.

    ``prefix`` and ``suffix`` are the ids of the special tokens that a model wants before and after a text,
    ``unknown`` the id of its token for unknown text, -1 if it has none. ``control_tokens`` are the spellings
    of special tokens that are read as text; ``cuts_at_spaces`` if words end only there, as with
    SentencePiece.

    Args:
        tokenizer_json: The serialised fast tokenizer. Truncation and padding stored in it are cleared.
        reads_controls: Whether text that spells a special token is that token, as in stores of before.
    """

    def __init__(self, tokenizer_json: str, *, reads_controls: bool) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.prefix, self.suffix = _special_tokens(self._tokenizer)
        self.unknown = _unknown_id(self._tokenizer)
        self.cuts_at_spaces = _cuts_at_spaces_only(self._tokenizer)
        self.control_tokens = [] if reads_controls else _control_tokens(self._tokenizer)
        # Text that spells "[SEP]" ends no sentence.
        self._tokenizer.encode_special_tokens = not reads_controls
        if self.control_tokens and isinstance(self._tokenizer.model, Unigram):
            _cut_apart(self._tokenizer, self.control_tokens)

    def encode(self, texts: Sequence[str]) -> list[Encoding | LongEncoding]:
        """Tokenise texts."""
        if max(map(len, texts), default=0) <= 2 * _PART_CHARACTERS:
            return list(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        return [self._encode_in_parts(text) for text in texts]

    def _encode_in_parts(self, text: str) -> LongEncoding:
        """Tokenise a text of any length in bounded memory: the tokenizer's own objects are large."""
        parts = (
            (start, self._tokenizer.encode(text[start:end], add_special_tokens=False))
            for start, end in itertools.pairwise([0, *_cuts(text), len(text)])
        )
        return LongEncoding.of(parts)


# No tokenizer joins the two sides of such a space.
_SAFE_CUT = re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")


def _cuts(text: str) -> Iterator[int]:
    """Yield where to cut a text into parts of `_PART_CHARACTERS` that are tokenised like the whole."""
    start = 0
    while (found := _SAFE_CUT.search(text, start + _PART_CHARACTERS)) is not None:
        start = found.start()
        yield start


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens that the tokenizer puts before and after a text."""
    with_specials = tokenizer.encode("a")
    special = list(with_specials.special_tokens_mask)
    if 0 not in special:  # a vocabulary without "a", not even as unknown
        return list(with_specials.ids), []
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return list(with_specials.ids[:first]), list(with_specials.ids[last:])


def _control_tokens(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]


def _cut_apart(tokenizer: Tokenizer, control_tokens: Sequence[str]) -> None:
    """Cut control tokens in texts behind their first character.

    A model that takes any piece of its vocabulary from a text would take them too.
    """
    firsts = (f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in control_tokens)
    cut = pre_tokenizers.Split(Regex("|".join(firsts)), "merged_with_previous")
    before = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = cut if before is None else pre_tokenizers.Sequence([before, cut])


def _unknown_id(tokenizer: Tokenizer) -> int:
    for token in ("[UNK]", "<unk>"):
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    return -1


def _cuts_at_spaces_only(tokenizer: Tokenizer) -> bool:
    """Return True if the tokenizer splits words only at spaces, as SentencePiece models do."""
    if tokenizer.pre_tokenizer is None:
        return True
    return len(tokenizer.pre_tokenizer.pre_tokenize_str("a,b")) == 1
