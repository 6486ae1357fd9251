import json

import pytest

from ctxbatch import RunConfig
from tests.helpers.models import PLAIN_TEXT
from tests.helpers.stores import make_store

LINES = [line for line in PLAIN_TEXT.splitlines() if line.strip()]
CONLLU = """\
# year = 1901
1\tWe\twe\tPRON\t_\t_\t_\t_\t_\t_
2\tsat\tsit\tVERB\t_\t_\t_\t_\t_\t_
3\tbanks\tbank\tNOUN\t_\t_\t_\t_\t_\t_

# year = 1950
1\tbanks\tbank\tNOUN\t_\t_\t_\t_\t_\t_
2\tsit\tsit\tVERB\t_\t_\t_\t_\t_\t_

1\tThe\tthe\tDET\t_\t_\t_\t_\t_\t_
2\triver\triver\tNOUN\t_\t_\t_\t_\t_\t_

"""


def records(n, **fields):
    """Records of text with fields, some of them null."""
    for number in range(n):
        text = f"{LINES[number % len(LINES)]} {number}"
        year = None if number % 7 == 3 else 1890 + number % 20
        yield {"text": text, "id": f"d{number % 5}", "year": year, "author": f"Author {number % 3}", **fields}


@pytest.fixture(scope="session")
def store_of(tiny, tmp_path_factory):
    """Make a store of records, in a folder of this name; its fields are kept."""

    def make(rows, name="out", **options):
        folder = tmp_path_factory.mktemp("tables")
        (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        keep = tuple(field for field in next(iter(rows)) if field not in ("text", "id"))
        config = RunConfig(model=str(tiny()), shard_size=3000, **{"keep_field": keep, **options})
        return make_store(folder / name, [folder / "a.jsonl"], config)

    return make


@pytest.fixture(scope="session")
def store(store_of):
    """A store of several shards, with a year and an author for each sentence."""
    return store_of([*records(80)])


@pytest.fixture(scope="session")
def treebank(tiny, tmp_path_factory):
    """A store of sentences with lemmas and parts of speech."""
    folder = tmp_path_factory.mktemp("treebank")
    (folder / "a.conllu").write_text(CONLLU)
    config = RunConfig(model=str(tiny()), keep_field=("year",))
    return make_store(folder / "trees", [folder / "a.conllu"], config)


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory):
    """A store of several shards and two layers with asinh, with fields kept; one has the name of a column."""
    folder = tmp_path_factory.mktemp("kept")
    rows = [
        {
            "text": f"{LINES[n % len(LINES)]} {n}.",
            "id": f"d{n}",
            "year": None if n % 5 == 0 else 1900 + n,
            "word": f"w{n % 3}",
            "weight": n / 7,
            "day": f"2026-01-{1 + n % 28:02d}",
            "at": f"2026-01-01T00:00:{n % 60:02d}.5Z",
            "good": n % 2 == 0,
        }
        for n in range(150)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = RunConfig(
        model=str(tiny()),
        shard_size=4_000,
        layers=(3, 1),
        shift="asinh",
        keep_field=("year:integer", "word", "weight", "day:date", "at:time", "good"),
    )
    return make_store(folder / "out", [folder / "rows.jsonl"], config)
