"""What a search may be asked to leave out; light to import, like the configuration of a run."""

from dataclasses import dataclass
from typing import Literal, get_args

from ctxbatch.errors import InputError

Distinct = Literal["sentence", "document", "word"]


@dataclass(frozen=True, slots=True)
class Filters:
    """What hits have to be; every condition given has to hold.

    Args:
        same_word: Of the query's word.
        other_words: Of another word than the query's.
        words: Of one of these words.
        exclude_words: Of none of these words.
        sources: From a source that one of these globs matches, whole or from its end: ``*.txt``, ``b/*``.
        docs: From a document with one of these ids.
        min_score: Of this cosine at least.
        distinct: At most one hit of a sentence, of a document (a source, where documents have no ids), or
            of a word: the best.

    Raises:
        InputError: Conditions exclude each other, or a value is out of its range.
    """

    same_word: bool = False
    other_words: bool = False
    words: tuple[str, ...] = ()
    exclude_words: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    docs: tuple[str, ...] = ()
    min_score: float | None = None
    distinct: Distinct | None = None

    def __post_init__(self) -> None:
        for name in ("words", "exclude_words", "sources", "docs"):
            values = getattr(self, name)
            if isinstance(values, str):
                raise InputError(f"{name} {values!r} must be a sequence of strings: put one in a tuple")
            object.__setattr__(self, name, tuple(values))
        if self.same_word and self.other_words:
            raise InputError("--same-word and --other-words exclude each other: give one")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise InputError(f"--min-score {self.min_score} must be a cosine, from -1 to 1")
        if self.distinct is not None and self.distinct not in get_args(Distinct):
            raise InputError(f"--distinct {self.distinct!r} must be {', '.join(get_args(Distinct))}")

    @property
    def by_word(self) -> bool:
        """Whether rows depend on the query's word."""
        return self.same_word or self.other_words
