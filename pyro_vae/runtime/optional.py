"""Import the libraries that only some functions need, when they are called.

The package itself runs on torch, Pyro and NumPy. What reads pictures or tables, and what draws figures, comes with an
extra, ``pip install "pyro_vae[images]"``. A library that is missing, or that cannot be imported, is named together with
the command that installs it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["imported", "install"]


def install(extra: str) -> str:
    """Return the command that installs an extra of the package.

    >>> install("images")
    'pip install "pyro_vae[images]"'
    """
    return f'pip install "pyro_vae[{extra}]"'


def imported(module: str, package: str, name: str, fix: str, mend: str | None = None) -> Any:
    """Import a module of a library that may be missing.

    Parameters
    ----------
    module
        The module to import, such as ``"sklearn.datasets"``.
    package
        The name under which the library is installed, ``"scikit-learn"``.
    name
        What needs it, such as the name of a data set; the message begins with it.
    fix
        The command that installs the library, see :func:`install`.
    mend
        What to do where the library is installed and yet cannot be imported; by default ``fix``.

    Raises
    ------
    ImportError
        If the library is missing or broken, such as a torchvision that was built for another torch.

    Examples
    --------
    >>> imported("math", "math", "sums", "pip install math").sqrt(4.0)
    2.0
    >>> imported("sklern", "sklern", "digits", install("images"))
    Traceback (most recent call last):
    ImportError: digits: found no sklern with torch ..., expected a sklern that can be imported: pip install "pyro_va...
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        try:
            found, advice = f"{package} {version(package)} with torch {version('torch')}", mend or fix
        except PackageNotFoundError:
            found, advice = f"no {package} with torch {version('torch')}", fix
        raise ImportError(f"{name}: found {found}, expected a {package} that can be imported: {advice}") from error
