import json

import pytest

from ctxbatch import RunConfig
from tests.helpers.models import PLAIN_TEXT
from tests.helpers.stores import make_store

RECORDS = [
    {
        "id": f"d{n % 3}",
        "year": 1890 + n,
        "text": f"The bank {n} of the river 😀 e\u0301 wants the card.\nI play.",
    }
    for n in range(40)
] + [{"id": "d9", "text": "A bank\twithout a year."}]


@pytest.fixture(scope="session")
def dated(tiny, tmp_path_factory):
    """A store of two sources with a kept field, float16."""
    folder = tmp_path_factory.mktemp("dated")
    for name, records in (("old", RECORDS[:15]), ("new", RECORDS[15:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    config = RunConfig(model=str(tiny()), precision="fp32", keep_field=("year",), shard_size=900, index=False)
    return make_store(folder / "out", [folder / "old.jsonl", folder / "new.jsonl"], config)


LINES = [line for line in PLAIN_TEXT.splitlines() if line.strip()]


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
