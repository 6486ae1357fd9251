"""The questions of the guide are answered as they stand there."""

import re
from collections import Counter
from pathlib import Path

import pytest

import ctxbatch
from tests.helpers.stores import rows_of

PAGE = (Path(ctxbatch.__file__).parent / "guide" / "analytics.md").read_text()
QUESTIONS = re.findall(r"\n([A-Z][^\n]*)\n\n```sql\n(.*?)```", PAGE, re.DOTALL)


def test_the_guide_asks_ten_questions():
    assert len(QUESTIONS) == PAGE.count("```sql") == 10


@pytest.mark.parametrize(("question", "query"), QUESTIONS)
def test_a_question_of_the_guide_has_an_answer(question, query, dated, cli):
    found = cli("sql", dated.path, query, "--json")
    assert found.returncode == 0, f"{question} {found.stderr}"
    assert len(found.stdout.splitlines()) >= 2


def test_frequencies_by_decade_are_those_of_a_slow_loop(dated, cli):
    query = next(query for question, query in QUESTIONS if "decade" in question)
    rows = [(row["sentence"]["year"], row["word"].lower()) for row in rows_of(dated)]
    decades = [None if year is None else year // 10 * 10 for year, _ in rows]
    all_words, banks = (
        Counter(decades),
        Counter(decade for decade, (_, word) in zip(decades, rows, strict=True) if word == "bank"),
    )
    found = cli("sql", dated.path, query, "--csv").stdout.split()[1:]
    right = {str(decade or ""): banks[decade] * 1e6 / all_words[decade] for decade in all_words}
    assert {line.split(",")[0]: float(line.split(",")[1]) for line in found} == pytest.approx(right)
