"""Where a report comes from: the command, the seed, the versions and the settings of its run."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import version
from typing import Any

from pyro_vae.reporting.findings import Findings

__all__ = ["provenance", "versions"]


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "pyro_vae": import_module("pyro_vae").__version__,
        "torch": version("torch"),
        "Pyro": version("pyro-ppl"),
        "NumPy": version("numpy"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def provenance(found: Findings) -> dict[str, Any]:
    """Return the command, the facts about the run, and the versions that made the page."""
    subject = found.subject
    made = {"seed of the report": str(subject.seed), "importance samples": str(found.num_particles)}
    made |= {f"{name}, for the report": each for name, each in versions().items()}
    return {"command": subject.command, "facts": [*subject.facts.items(), *made.items()]}
