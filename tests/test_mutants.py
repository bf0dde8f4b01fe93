"""The table of mutants fits the source: a row whose snippet is gone would be a test that is gone."""

from pathlib import Path

import pytest

from mutants.deletions import deletions
from mutants.mutant import ROOT, Change, StaleMutantError
from mutants.table import all_mutants


def test_every_mutant_has_its_place_and_its_tests() -> None:
    mutants = all_mutants()
    sources = {mutant.file: (ROOT / mutant.file).read_text() for mutant in mutants}
    assert all(mutant.applied(sources[mutant.file]) != sources[mutant.file] for mutant in mutants)
    missing = {test for mutant in mutants for test in mutant.tests if not (ROOT / test.partition("::")[0]).exists()}
    assert missing == set()
    assert len({str(mutant) for mutant in mutants}) == len(mutants) > 150


@pytest.mark.parametrize(("source", "count"), [("a = 1\n", 0), ("b = 1\nb = 1\n", 2)])
def test_a_snippet_that_is_not_there_once_is_an_error(source: str, count: int) -> None:
    with pytest.raises(StaleMutantError, match=f"has the snippet {count} times"):
        Change("file.py", (), "b = 1", "b = 2").applied(source)


def test_each_statement_goes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        'class A:\n    @cache\n    def f(self):\n        """Doc."""\n        if x:\n            y()\n        return 1\n'
    )
    (tmp_path / "a.py").write_text(source)
    monkeypatch.setattr("mutants.deletions.ROOT", tmp_path)
    found = {mutant.name: mutant.applied(source) for mutant in deletions("a.py", (), {})}
    body = source.splitlines()
    assert found == {
        "A.f: @cache": "\n".join([body[0], "", *body[2:]]) + "\n",
        "A.f: if x:": "\n".join([*body[:4], "        pass", body[6]]) + "\n",
        "A.f: only the header of if x:": source.replace("if x:", "if True:"),
        "A.f: y()": source.replace("y()", "pass"),
        "A.f: return 1": source.replace("return 1", "pass"),
    }
    with pytest.raises(StaleMutantError, match=r"a\.py has no statement 'A\.f: z\(\)'"):
        deletions("a.py", (), {"A.f: z()": "equivalent"})
