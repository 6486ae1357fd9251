"""Shows the answers of a search as lines, and says what is to know about them."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ctxbatch import terminal
from ctxbatch.errors import quoted, shortened
from ctxbatch.search.filters import Filters

if TYPE_CHECKING:
    from ctxbatch.search.hits import Answer

log = logging.getLogger("ctxbatch")
_SHOWN_WORDS = 3


def lines(answers: "Sequence[Answer]", first_store: str, *, headings: bool) -> Iterator[str]:
    """Yield the lines of answers; only hits of the first store show their row ids, as --row takes these."""
    from ctxbatch.search.concordance import heading, keyword_in_context

    width, color = terminal.columns(), terminal.has_colors()
    for number, answer in enumerate(answers):
        if headings:
            if number:
                yield ""
            yield heading(answer, width, color=color)
        yield from keyword_in_context(answer.hits, width, color=color, numbered=first_store)


def json_lines(answers: "Sequence[Answer]") -> Iterator[str]:
    """Yield the hits of answers as JSON."""
    return (terminal.json_line(row) for answer in answers for row in answer.rows())


def tell_salient(answer: "Answer") -> None:
    """Say which word was chosen if none was marked."""
    if answer.salient:
        log.info("no word is marked: searching for %s, the most salient of the sentence", quoted(answer.word))


def tell_word(answer: "Answer", place: str = "") -> None:
    """Say if the word is more than was marked, or unknown to the model; ``place`` is that of the query."""
    if answer.widened:
        log.info("%sthe mark is a part of %s: searching for the whole word", place, quoted(answer.word))
    if not answer.known:
        what = "the model does not know %s: its vector is that of any unknown text"
        log.warning(f"%s{what}", place, quoted(answer.word))


def tell_standing(answer: "Answer") -> None:
    """Say how near the best hit is, compared with those of the store's own rows, if that is known."""
    if answer.share_below is None:
        return
    if answer.nothing_like_this:
        log.warning(
            "nothing like this in the corpus: the best hit is farther than those of %.0f %% of its own words",
            100 - 100 * answer.share_below,
        )
    else:
        log.info(
            "the best hit is nearer than those of %.0f %% of the corpus's own words", 100 * answer.share_below
        )


def tell_no_hit(answers: "Sequence[Answer]", filters: Filters, place: str = "") -> None:
    """Say why answers have no hit, if none has."""
    if not answers or any(answer.hits for answer in answers):
        return
    scores = [answer.best_score for answer in answers if answer.best_score is not None]
    if scores and filters.min_score is not None:
        why = f"the best score is {max(scores)}, below --min-score {filters.min_score}"
    elif filters.same_word:
        words = shortened(dict.fromkeys(quoted(answer.word) for answer in answers), _SHOWN_WORDS)
        why = f"no occurrence of {words} passes the filters: leave out --same-word or other filters"
    else:
        unknown = "" if filters.unknown else ", add --unknown if the model may not know the words"
        why = f"relax the filters{unknown}, or mark another word"
    log.warning("%sno hit: %s", place, why)
