"""Defines and validates the conditions on hits, for the command line and Python.

Each field of `Filters` is an option of ``ctxbatch search``, and its docstring is the help text.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cyclopts import Group, Parameter

from ctxbatch.errors import InputError

Distinct = Literal["sentence", "text", "document", "word"]
_GROUP = Group("Filters", sort_key=2)


def _option(name: str, metavar: str | None = None) -> Parameter:
    return Parameter(name=name, metavar=metavar, group=_GROUP, show_default=False)


@dataclass(frozen=True, slots=True)
class Filters:
    """The conditions on hits; every hit must meet all of them.

    Raises:
        InputError: Conditions exclude each other, or a value is out of range.
    """

    same_word: Annotated[bool, _option("--same-word")] = False
    """Only occurrences of the query's word."""

    other_words: Annotated[bool, _option("--other-words")] = False
    """Only occurrences of words other than the query's."""

    words: Annotated[tuple[str, ...], _option("--word", "W")] = ()
    """Only occurrences of this word; may be repeated."""

    exclude_words: Annotated[tuple[str, ...], _option("--exclude-word", "W")] = ()
    """No occurrences of this word; may be repeated."""

    sources: Annotated[tuple[str, ...], _option("--source", "GLOB")] = ()
    """Only from sources whose path, or its end, matches, such as 'letters/*.txt'; may be repeated."""

    docs: Annotated[tuple[str, ...], _option("--doc", "ID")] = ()
    """Only from the document with this id; may be repeated."""

    where: Annotated[str | None, _option("--where", "SQL")] = None
    """Only rows for which this is true, such as "year >= 1900 AND upos = 'NOUN'"."""

    unknown: Annotated[bool, _option("--unknown")] = False
    """Also occurrences of words that the model does not know."""

    min_score: Annotated[float | None, _option("--min-score", "X")] = None
    """Only cosines of X or more."""

    distinct: Annotated[Distinct | None, _option("--distinct")] = None
    """Only the best hit of each sentence, text, document (or source, if documents have no ids) or word."""

    def __post_init__(self) -> None:
        for name in ("words", "exclude_words", "sources", "docs"):
            values = getattr(self, name)
            if isinstance(values, str):
                raise InputError(f"{name} {values!r} must be a sequence of strings: use a tuple")
            object.__setattr__(self, name, tuple(values))
        if self.same_word and self.other_words:
            raise InputError("--same-word and --other-words exclude each other: give one")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise InputError(f"--min-score {self.min_score} must be a cosine, from -1 to 1")
        if self.distinct is not None and self.distinct not in get_args(Distinct):
            raise InputError(f"--distinct {self.distinct!r} must be one of {', '.join(get_args(Distinct))}")

    @property
    def by_word(self) -> bool:
        """True if the allowed rows depend on the query's word."""
        return self.same_word or self.other_words
