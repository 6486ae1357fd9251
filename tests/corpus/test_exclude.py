"""What --exclude leaves out of inputs here and on object storage."""

from pathlib import Path

import pytest

from ctxbatch.corpus.inputs import find_sources
from ctxbatch.errors import InputError
from tests.helpers.corpora import as_json_lines, as_lines

TEXTS = ["A line of text.", "Ein Ärger, ça alors, 雪."]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["*.txt"], {"/b.jsonl"}),
        (["f", "*.jsonl"], {"/a.txt"}),
        (["deep/"], {"/a.txt", "/b.jsonl", "/f/a.txt", "/f/g/d.txt"}),
        (["deep/*", "./f/a.txt"], {"/a.txt", "/b.jsonl", "/f/g/d.txt"}),
        (["f*/d*/*/*", "b.*"], {"/a.txt", "/f/a.txt", "/f/deep/d.txt", "/f/g/d.txt"}),
        (["**/g", "**/*.jsonl"], {"/a.txt", "/f/a.txt", "/f/deep/er/c.txt", "/f/deep/d.txt"}),
        (["{root}/f/*"], {"/a.txt", "/b.jsonl"}),
        (["{root}/f/a*", "?.jsonl"], {"/a.txt", "/f/deep/er/c.txt", "/f/deep/d.txt", "/f/g/d.txt"}),
        (["{root}/[ab].*"], {"/f/a.txt", "/f/deep/er/c.txt", "/f/deep/d.txt", "/f/g/d.txt"}),
    ],
)
def test_files_and_folders_are_excluded_by_name_or_path_in_all_kinds_of_inputs(
    exclude, left, tmp_path, bucket
):
    names = ("a.txt", "b.jsonl", "f/a.txt", "f/deep/er/c.txt", "f/deep/d.txt", "f/g/d.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(as_json_lines(TEXTS))
    told = set()
    for root in (str(tmp_path), bucket(dict.fromkeys(names, as_json_lines(TEXTS)))):
        patterns = [pattern.format(root=root) for pattern in exclude]
        for given in ("", "/*", "/**"):
            sources, left_out = find_sources([f"{root}{given}"], Path("/nowhere"), exclude=patterns)
            assert {source.path.removeprefix(root) for source in sources} == left
            by_option = (str(each).replace(root, "") for each in left_out if "--exclude" in each.why)
            told.add(tuple(sorted(by_option)))
    assert len(told) == 1


def test_folders_that_a_pattern_finds_are_excluded_and_those_that_it_names_are_not(tmp_path, bucket):
    names = ("f/a.txt", "f/deep/er/c.txt", "f/deep/d.txt", "f/g/d.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(as_lines(TEXTS))
    for root in (str(tmp_path), bucket(dict.fromkeys(names, as_lines(TEXTS)))):
        for exclude, left in (
            (["deep"], {"/f/a.txt", "/f/g/d.txt"}),
            (["f/deep", "f", tmp_path.name], {"/f/a.txt", "/f/g/d.txt"}),
            (["er"], {"/f/a.txt", "/f/deep/d.txt", "/f/g/d.txt"}),
        ):
            sources, _ = find_sources([f"{root}/f/**/*.txt"], Path("/nowhere"), exclude=exclude)
            assert {source.path.removeprefix(root) for source in sources} == left


def test_names_with_brackets_and_absolute_paths_are_excluded_as_they_are(tmp_path, monkeypatch):
    for name in ("br[1].txt", "a.txt"):
        (tmp_path / name).write_bytes(as_lines(TEXTS))
    monkeypatch.chdir(tmp_path)
    for exclude in ("br[1].txt", f"{tmp_path}/br[1].txt", f"{tmp_path}/b*"):
        sources, _ = find_sources(["."], Path("/nowhere"), exclude=[exclude])
        assert [source.path for source in sources] == ["a.txt"]


def test_an_exclusion_that_matches_nothing_is_told_and_one_that_leaves_nothing_refused(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("x")
    assert find_sources([tmp_path], Path("/nowhere"), exclude=["*.tx"])[1] == []
    assert "--exclude *.tx leaves nothing out: no path in the inputs matches it" in caplog.text
    with pytest.raises(InputError, match="holds no file that can be read besides what --exclude leaves out"):
        find_sources([tmp_path / "a.txt"], Path("/nowhere"), exclude=["*.txt"])
