"""Inputs of a size that buffers do not hide; `scripts/checks/real_size.py` makes them larger."""

import pytest

from scripts.checks import real_size


@pytest.mark.parametrize("name", ["few-compressed", "parquet"])
def test_every_record_is_planned_and_read(name, tmp_path, monkeypatch):
    few = {suffix: real_size.COMPRESSED[suffix] for suffix in (".gz", ".zst")}
    monkeypatch.setattr(real_size, "COMPRESSED", few)
    cases = list(real_size.check(tmp_path, [name.removeprefix("few-")], scale=0.2, timed=False))
    assert cases
    assert [f"{case.name}: {wrong}" for case in cases for wrong in case.wrong] == []
