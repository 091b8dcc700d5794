"""Fuzzed calls: one argument of an honest call is replaced by a value that no one means, and the outcome is judged.

What can come of it:

* *returned*: the value made sense, or may have made some;
* *refused*: a ValueError or TypeError (a ProgramError is one) that names the argument and says what was found;
* *unnamed*: an error of these kinds that does not;
* *other*: an error of another kind, or no end;
* *nonsense*: the value makes no sense, and was taken;
* *moved*: what programs and process share is no longer as it was.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import nn

from tests.runtime.calls import World, table
from tests.runtime.nasty import NONSENSE, POOL

OUTCOMES = ("returned", "refused", "unnamed", "other", "nonsense", "moved")


# What a message may call an argument, where it is not the argument's name: two programs fail together.
ALSO_CALLED = {
    ("data.load", "name"): "name|data|folder",
    ("load", "program"): "program|leaf",
    ("ConvLadderVAE", "num_layers"): "num_layers|levels",
} | {
    (call, half): rf"{half}|programs|site"
    for half in ("model", "guide")
    for call in ("fit", "log_likelihood", "mean_bound", "log_weights", "diagnose", "information", "active_units",
                 "posterior_means", "refine", "impute", "evaluate", "ELBO.bound")
}  # fmt: skip


class Outcome(NamedTuple):
    """Of one call."""

    kind: str
    call: str
    argument: str
    value: str
    text: str


class _TooLongError(BaseException):
    pass


def _weights(modules: dict[str, nn.Module]) -> dict[str, Any]:
    return {
        f"{name}.{key}": (tensor.device.type, tensor.dtype, None if tensor.is_meta else tensor.tolist())
        for name, module in modules.items()
        for key, tensor in module.state_dict(keep_vars=True).items()
    }


def _process(modules: dict[str, nn.Module]) -> dict[str, Any]:
    return {
        "flags": [(m.training, type(m)) for module in modules.values() for m in module.modules()],
        "gradients": [p.requires_grad for module in modules.values() for p in module.parameters()],
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "validation": (torch.distributions.Distribution._validate_args, pyro.infer.util.is_validation_enabled()),
        "store": sorted(pyro.get_param_store().keys()),
        "handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "numpy": np.random.get_state()[1].tolist(),
        "python": hash(random.getstate()),
        "interrupt": signal.getsignal(signal.SIGINT),
    }


def _is_named(call: str, argument: str, error: BaseException) -> bool:
    """Whether a message says which argument it is of, what was found, and what was expected or does not work."""
    text = str(error)
    if "found" not in text or not re.search(r"expected|must|need|on which the programs fail", text):
        return False
    return re.search(rf"\b(?:{ALSO_CALLED.get((call, argument), argument)})\b", text) is not None


def run(num_calls: int, seed: int, limit_s: int = 20) -> list[Outcome]:
    """Make so many calls, the same for the same seed, in a folder of their own."""
    choose, outcomes = random.Random(seed), []
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        os.chdir(folder)
        stack.callback(os.chdir, before)
        signal.signal(signal.SIGALRM, _stop)
        stack.callback(signal.signal, signal.SIGALRM, signal.SIG_DFL)
        world = World(Path(folder))
        calls = table(world)
        pairs = [(name, argument) for name, call in calls.items() for argument in call.judges]
        for _ in range(num_calls):
            name, argument = choose.choice(pairs)
            outcome, spoilt = _one(calls[name], name, argument, choose.choice(POOL), world, limit_s)
            outcomes.append(outcome)
            if spoilt:
                world = World(Path(folder))
                calls = table(world)
    return outcomes


def _stop(*_: Any) -> None:
    raise _TooLongError


def _one(call: Any, name: str, argument: str, make: Any, world: World, limit_s: int) -> tuple[Outcome, bool]:
    value, arguments = make(), call.arguments()
    said = call.judges[argument](value)
    is_theirs = name == "fit" and argument == "callbacks" and said != NONSENSE  # a function that fails when called
    process, weights, draws = _process(world.modules), _weights(world.modules), torch.get_rng_state()
    kind, text = "returned", ""
    signal.alarm(limit_s)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            call.function(**{**arguments, argument: value})
    except (ValueError, TypeError) as error:
        kind = "refused" if _is_named(name, argument, error) else "unnamed"
        text = f"{type(error).__name__}: {error}"
    except (Exception, _TooLongError) as error:
        kind, text = "other", f"{type(error).__name__}: {error}"
        paths = ("folder", "checkpoint", "resume", "name")
        if isinstance(error, (FileNotFoundError, FileExistsError)) and argument in paths:
            kind = "refused"
    finally:
        signal.alarm(0)
    if is_theirs:
        kind = "returned"
    if kind == "returned" and said == NONSENSE:
        kind = "nonsense"
    spoilt = _weights(world.modules) != weights
    may_train = name == "fit" and kind in ("returned", "nonsense")
    may_draw = kind in ("returned", "nonsense") or "seed" not in arguments
    if (
        (spoilt and not may_train)
        or _process(world.modules) != process
        or not (may_draw or torch.equal(draws, torch.get_rng_state()))
    ):
        changed = [key for key, now in _process(world.modules).items() if now != process[key]]
        kind, text, spoilt = "moved", f"{changed or 'weights'} {text}", True
    shown = f"{type(value).__name__} {' '.join(repr(value).split())[:60]}"
    return Outcome(kind, name, argument, shown, " ".join(text.split())[:200]), spoilt


def main(num_calls: int = 10_000, seed: int = 0) -> int:
    """Print how many calls came to what, and those that should not have."""
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))  # so that a huge size fails at once
    outcomes = run(num_calls, seed)
    counts = Counter(outcome.kind for outcome in outcomes)
    bad = [outcome for outcome in outcomes if outcome.kind not in ("returned", "refused")]
    for outcome in sorted(set(bad)):
        print(f"{outcome.kind:9} {outcome.call}({outcome.argument}={outcome.value}): {outcome.text}")
    print(f"{len(outcomes)} calls, seed {seed}:", ", ".join(f"{counts[kind]} {kind}" for kind in OUTCOMES))
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
