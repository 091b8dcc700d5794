"""Attacks on runs that take minutes: `make endurance` runs them, the test suite a small part of one."""
