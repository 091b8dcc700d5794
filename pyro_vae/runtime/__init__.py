"""State that belongs to the whole process, and what checks the arguments of a call."""
