"""Commands on several ranks: the first one alone prints and writes."""

from __future__ import annotations

from tests.support import groups


def test_the_first_rank_alone_prints(tmp_path):
    for process in groups.start(2, tmp_path, f"commands={tmp_path}"):
        assert process.returncode == 0, process.stderr
    (first, files), (second, _) = groups.results(tmp_path, "commands", 2)
    assert {name: status for name, (status, _) in first.items()} == {name: 2 * (name == "refused") for name in first}
    assert second == dict.fromkeys(first, (0, ""))
    for name, said in {"evaluate": "log p(x), ", "score": "the scores of ", "sample": "3 rows of 3 columns"}.items():
        assert said in first[name][1]
    assert {"evaluation.json", "scores.csv", "samples.csv"} <= set(files)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 5  # of the test data
