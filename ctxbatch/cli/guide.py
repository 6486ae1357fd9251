"""Runs the guide command: lists the topics of the guide, or shows a page.

Owns the order of the topics and how Markdown looks on a terminal. The pages are ``ctxbatch/guide/*.md``.
"""

import difflib
import re
from collections.abc import Iterator
from importlib import resources
from typing import Annotated

from cyclopts import Parameter

from ctxbatch import terminal
from ctxbatch.errors import InputError

TOPICS = (
    "inputs",
    "vectors",
    "selection",
    "resuming",
    "clusters",
    "object-storage",
    "searching",
    "layers",
    "senses",
    "speed",
    "store-format",
    "python",
    "analytics",
    "export",
    "evaluation",
    "troubleshooting",
    "changelog",
)
_LINK_TO_PAGE = re.compile(r"\[([^]]+)\]\(([a-z-]+)\.md\)")


def guide(
    topic: Annotated[str | None, Parameter(help="The page to show. Without it, list all topics.")] = None, /
) -> None:
    """Show a page of the guide, or list its topics."""
    if topic is None:
        terminal.show(_contents())
        terminal.tell("`ctxbatch guide TOPIC` shows a page")
        return
    page = read_page(topic)
    if terminal.has_terminal():
        terminal.show_paged(_rendered(page, terminal.columns()))
    else:
        terminal.show(page.splitlines())


def read_page(topic: str) -> str:
    """Return a page of the guide as Markdown.

    Raises:
        InputError: The guide has no such topic.
    """
    if topic not in TOPICS:
        close = difflib.get_close_matches(topic.lower(), TOPICS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"the guide has no topic {topic!r}{hint}: choose one of {', '.join(TOPICS)}")
    return (resources.files("ctxbatch") / "guide" / f"{topic}.md").read_text(encoding="utf-8")


def first_sentence(page: str) -> str:
    """Return the sentence after a page's title, which says what the page tells."""
    paragraph = page.split("\n\n")[1].replace("\n", " ")
    return re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]


def _contents() -> Iterator[str]:
    width = max(map(len, TOPICS))
    for topic in TOPICS:
        yield f"{topic:<{width}}  {first_sentence(read_page(topic))}"


def _rendered(page: str, width: int) -> list[terminal.Styled]:
    from rich.markdown import Markdown

    text = _LINK_TO_PAGE.sub(r"\1 (`ctxbatch guide \2`)", page)
    shown = Markdown(text, hyperlinks=False, code_theme="ansi_light")
    return terminal.drawn(lambda console: console.print(shown), width)
