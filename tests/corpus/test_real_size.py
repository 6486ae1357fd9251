"""Inputs of a size that buffers do not hide; `scripts/checks/real_size.py` makes them larger."""

import pytest

from scripts.checks import real_size


@pytest.mark.parametrize(("name", "scale"), [("compressed", 0.2), ("parquet", 0.05)])
def test_every_record_is_planned_and_read(name, scale, tmp_path, monkeypatch):
    monkeypatch.setattr(real_size, "COMPRESSED", {".gz": real_size.COMPRESSED[".gz"]})
    monkeypatch.setattr(real_size, "PLAIN", ())
    cases = list(real_size.check(tmp_path, [name], scale, timed=False))
    assert cases
    assert [f"{case.name}: {wrong}" for case in cases for wrong in case.wrong] == []
