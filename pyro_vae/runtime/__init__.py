"""The state and the calls of a process: what the package asks of Python and torch, whatever is computed with them."""
