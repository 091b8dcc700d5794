"""Some of the random edits of tests/training/fuzz_files.py, the same each time; `make fuzz-files` makes 10,000."""

from __future__ import annotations

from collections import Counter

from tests.training.fuzz_files import OUTCOMES, SHARES, WRONG, work


def test_edited_files_are_loaded_or_refused_in_a_documented_way():
    told: Counter[tuple[str, str]] = Counter()
    details = []

    def tell(file, found, detail):
        told[file, found] += 1
        details.append((file, found, detail))

    work(60, 0, tell)
    wrong = [each for each in details if each[1] in WRONG]
    assert not wrong
    assert {file for file, _ in told} >= set(SHARES) - {"metrics"} and sum(told.values()) == 60
    assert {found for _, found in told} >= set(OUTCOMES[:3])
    assert all(detail for _, found, detail in details if not found.startswith("loaded"))
