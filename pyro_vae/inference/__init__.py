"""Running a pair of programs: what its observed sites cover."""
