import json

import pytest

from ctxbatch import RunConfig
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
