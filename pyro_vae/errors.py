"""The package's own exception."""

__all__ = ["ProgramError"]


class ProgramError(ValueError):
    """A model and a guide that do not form a pair: the message names the site, what was found and what was expected."""
