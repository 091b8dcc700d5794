"""Compile a function of a batch that runs programs.

::

    trace      run the function once without values: one flat graph of its tensor operations, forward and backward
    compile    let TorchInductor fuse the graph into a few kernels
    check      compare its first results with the function's own, on the same draws

From then on a call runs the kernels alone. The tensors of a batch are its inputs; another value of an option in the
batch takes another trace. Guards (:mod:`pyro_vae.compilation.guards`) are compared before each one;
where they fail, the function is traced again, unless it was compiled for that state before, such as eval mode. A
function that reads a value to decide how to go on, or changes a Python attribute as it runs, cannot be traced. It runs
uncompiled, with one warning that names the reason.

A graph cannot notice a change of what the function reads from outside its modules and tensors: a global, a clock.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae.compilation.guards import forms_of, options_of
from pyro_vae.compilation.lowering import Lower, inductor
from pyro_vae.compilation.tracing import Function, Outputs, Trace, UntraceableError, trace
from pyro_vae.data.batch import Batch, tensors_in
from pyro_vae.runtime.state import generators, set_generators

__all__ = ["Compile", "Compiled", "Kernels", "Lower", "Outputs", "Snapshot", "inductor", "make_reporter"]

Compile = Annotated[Literal["auto"] | bool, "'auto', True or False"]
_MOST_TRACES = 8
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}  # relative; of other types, which round more, 5e-2
_TOLERANCE_OF_TF32 = (
    2e-2  # gradients by products in TF32 are 4e-3 from exact ones, both the function's and the kernels'
)


def make_reporter(progress: bool) -> Callable[[str], None]:
    """Return a function that prints a line above the progress bar; without one it does nothing."""
    return functools.partial(tqdm.write, file=sys.stderr) if progress else lambda line: None


class Compiled:
    """A function of a batch, compiled for the form of batch that it is first given; others run as they are.

    Parameters
    ----------
    function
        Takes a batch to tensors, or to ``None`` for some of them.
    sources
        The modules and objectives that it runs.
    num_data
        The size of batches that are worth compiling for; by default that of the first.
    name
        What the function is, for messages.
    say
        Told in one line what has been compiled.
    lower
        What compiles a graph; :func:`inductor` by default.
    constants
        Tensors that it reads and never writes, such as all data: the first run is checked without a copy of them.
    moves
        Compare not only its results but the tensors that it writes, those of a batch too.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> compiled = Compiled(lambda x: [layer(x)], [layer], lower=lambda graph, inputs: graph)  # traced, no more
    >>> x = torch.ones(3, 2)
    >>> torch.equal(compiled(x)[0], layer(x)), compiled.num_traces
    (True, 1)
    """

    def __init__(
        self,
        function: Function,
        sources: Iterable[Any],
        *,
        num_data: int | None = None,
        name: str = "function",
        say: Callable[[str], None] | None = None,
        lower: Lower | None = None,
        constants: Iterable[Tensor] = (),
        moves: bool = False,
    ) -> None:
        self.function, self.sources, self.num_data = function, tuple(sources), num_data
        self.name, self.say, self.lower = name, say or make_reporter(False), lower or inductor
        self.constants, self.moves = tuple(constants), moves
        self.num_traces = 0
        self.reason: str | None = None  # why it is not compiled, once that is known
        self._kernels: list[Kernels] = []  # one for each state that the sources were found in, the last used first

    def __call__(self, x: Batch) -> Outputs:
        kernels = self.kernels(x)
        return self.function(x) if kernels is None else kernels(x)

    def kernels(self, x: Batch) -> Kernels | None:
        """Return the kernels for batches like this one, ``None`` where the function runs as it is; compile if needed.

        They hold until something of the sources changes.
        """
        if self.reason is None and len(x) == (self.num_data or len(x)):
            if not self.is_current(options_of(x)):
                self.num_data = len(x)
                self._compile(x)
            if self.reason is None and self._kernels[0].forms == forms_of(x):
                return self.last
        return None

    @property
    def last(self) -> Kernels:
        """Return the kernels that were used or found current last."""
        return self._kernels[0]

    def is_current(self, options: tuple[Any, ...] = ()) -> bool:
        """Return whether it is compiled for the state that its sources are in now, and some options of a batch."""
        for index, kernels in enumerate(self._kernels):
            if kernels.options == options and kernels.trace.guards.is_valid():
                self._kernels.insert(0, self._kernels.pop(index))
                return self.reason is None
        return False

    @property
    def version(self) -> int:
        """Return the number of the trace whose kernels ran last; 0 before the first."""
        return self._kernels[0].version if self._kernels else 0

    def _compile(self, x: Batch) -> None:
        started = time.monotonic()
        self.num_traces += 1
        try:
            if self.num_traces > _MOST_TRACES:
                change = self._kernels[0].trace.guards.first_change() or f"an option of the batch, found ({x})"
                raise UntraceableError(f"compiled {_MOST_TRACES} times, it changed again: {change}")
            kernels = Kernels(trace(self.function, self.sources, x), x, self.lower, self.num_traces)
            kernels.check(self.function, x, self.constants, self.moves)
        except Exception as error:  # all that torch finds it cannot trace, or cannot compile
            text = next((line for line in str(error).splitlines() if line.strip()), "")
            self.reason = text if isinstance(error, UntraceableError) else f"{type(error).__name__}: {text}"
            self._kernels.clear()
            warnings.warn(f"the {self.name} is not compiled: {self.reason}", UserWarning, stacklevel=4)
            return
        self._kernels.insert(0, kernels)
        self.say(f"compiled the {self.name} in {time.monotonic() - started:.1f} s")


class Kernels:
    """A trace compiled for batches of one form."""

    def __init__(self, trace: Trace, x: Batch, lower: Lower, version: int) -> None:
        self.trace, self.version = trace, version
        self.forms, self.options = forms_of(x), options_of(x)
        with torch.no_grad():
            self.run = lower(trace.graph, [*tensors_in(x), *trace.tensors])

    @torch.no_grad()
    def __call__(self, x: Batch) -> Outputs:
        return self.placed(self.run(*tensors_in(x), *self.trace.tensors))

    def placed(self, outputs: Sequence[Tensor]) -> Outputs:
        """Return what the graph gives in the function's places, some of which are ``None``."""
        found = iter(outputs)
        return [next(found) if given else None for given in self.trace.given]

    def moved(self, constants: Iterable[Tensor] = ()) -> list[Tensor]:
        """Return the tensors that they may write, such as the statistics of batch normalisation: all but constants."""
        kept = set(map(id, constants))
        return [tensor for tensor in self.trace.tensors if id(tensor) not in kept]

    def check(self, function: Function, x: Batch, constants: Iterable[Tensor] = (), moves: bool = False) -> None:
        """Raise ``UntraceableError`` unless they give, and with ``moves`` write, what the function does."""
        before = Snapshot([*self.moved(constants), *(tensors_in(x) if moves else [])], x.device)
        try:
            expected = function(x)
            written = [tensor.detach().clone() for tensor in before.tensors] if moves else []
            before.restore()
            found = self(x)
            for start, value, tensor in zip(before.values, written, before.tensors, strict=False):
                rounding = 16 * torch.finfo(torch.float32).eps * _size(value)
                if not _size(tensor.detach() - value) <= _tolerance(value) * _size(value - start) + rounding:
                    raise UntraceableError(f"a tensor of shape {tuple(value.shape)} came out different")
        finally:
            before.restore()
        pairs = [(value, output) for value, output in zip(expected, found, strict=True) if value is not None]
        sizes = [_size(value) for value, _ in pairs]
        least = max(
            0.1 * statistics.median(sizes or [0.0]), 1e-30
        )  # a gradient that is all rounding has no size of its own
        for i, ((value, output), size) in enumerate(zip(pairs, sizes, strict=True)):
            same_finite = torch.equal(value.isfinite(), output.isfinite())
            error = _size(output - value) / max(size, least) if same_finite else math.inf
            if error > _tolerance(value):
                raise UntraceableError(f"its output {i} came out different by {error:.1e} of its size")


def _tolerance(value: Tensor) -> float:
    """Return how far a result may be from the function's, relative to its size."""
    if value.is_cuda and value.dtype is torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return _TOLERANCE_OF_TF32
    return _TOLERANCE.get(value.dtype, 5e-2)


def _size(tensor: Tensor) -> float:
    """Return the norm of what is finite."""
    return torch.where(tensor.isfinite(), tensor, 0.0).norm().item()


class Snapshot:
    """The values of tensors and the states of generators, to go back to."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.values, self.states = [tensor.detach().clone() for tensor in tensors], generators(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to them."""
        set_generators(self.states, self.device)
        for tensor, value in zip(self.tensors, self.values, strict=True):
            if not torch.equal(tensor, value):
                tensor.copy_(value)
