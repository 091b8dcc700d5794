"""Capture a block of training steps as a CUDA graph, and replay it.

A small model keeps a GPU busy for some microseconds a kernel, less than Python takes to launch one. So the kernels of
many steps in a row, from the rows of a batch to the new weights, are captured once (Gray, *Getting Started with CUDA
Graphs*, 2019) and replayed with other rows. Each step of a block reads its rows, its learning rate and the values of
its schedules from tensors that are written before a replay.

The first replay is compared with the steps that it stands for, on the same draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import Outputs, Snapshot
from pyro_vae.data.batch import Batch

__all__ = ["Block", "Capture", "CapturedBlocks", "OneStep", "cuda_graph", "run_block"]

Capture = Callable[[Callable[[], Any], torch.device], tuple[Callable[[], object], Any]]  # see cuda_graph
OneStep = Callable[[Batch, Tensor, Tensor], Outputs]  # of rows or a loader's batch, factors and values

_MOST_STATES = 8
_MOST_LENGTHS = 4
_TOLERANCE = 1e-2  # of how far a block moves a tensor


class Block(NamedTuple):
    """All that changes in a block of S steps: rows ``(S, B)``, the optimiser's factors, the values of schedules.

    In place of rows a block that is not captured may have a list of S batches.
    """

    rows: Any
    factors: Tensor
    values: Tensor


class _Captured(NamedTuple):
    block: Block
    replay: Callable[[], object]
    outputs: Outputs


def run_block(step: OneStep, block: Block) -> Outputs:
    """Take the steps of a block one by one, and return what the last one gives."""
    outputs: Outputs = ()
    for rows, factors, values in zip(*block, strict=True):
        del outputs  # its memory is free for the next ones
        outputs = step(rows, factors, values)
    return outputs


def cuda_graph(function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], object], Any]:
    """Capture the kernels of a function without running them; return what replays them, and where the result lies."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),  # to come back to where the next line fails
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        result = function()
    return graph.replay, result


class CapturedBlocks:
    """Blocks of steps, captured once for each length and replayed; ``capture`` captures the kernels of a function."""

    def __init__(self, capture: Capture | None = None) -> None:
        self.capture = capture or cuda_graph
        self.reason: str | None = None  # why blocks are not captured, once that is known
        self.num_captures = 0
        self._num_states = 0
        self._state: Any = None
        self._blocks: dict[int, _Captured] = {}

    def __call__(self, step: OneStep, block: Block, state: Any, moved: list[Tensor]) -> Outputs | None:
        """Take the steps of a block and return what the last one gives; ``None`` if nothing was done.

        Parameters
        ----------
        step
            Takes one step. It has been run before.
        block
            What changes from step to step.
        state
            Compared with that of the last call: with another, blocks are captured anew.
        moved
            All tensors that a step writes.
        """
        is_new = state != self._state
        if self.reason is None and is_new and self._num_states == _MOST_STATES:
            self._give_up(f"captured in {_MOST_STATES} states, it changed again")
        if self.reason is None and any(tensor.device != block.rows.device for tensor in moved):
            self._give_up("it reads a tensor that is elsewhere")
        if self.reason is not None:
            return None
        if is_new:
            self._blocks.clear()  # frees their memory
            self._state, self._num_states = state, self._num_states + 1
        before = Snapshot(moved, block.rows.device) if is_new else None
        try:
            if len(block.rows) not in self._blocks:
                self._capture(step, block)
            captured = self._blocks[len(block.rows)]
            if before is not None:
                _check(step, block, captured, before)
                return captured.outputs
        except Exception as error:  # all that a driver finds it cannot capture
            if before is not None:
                before.restore()
            self._give_up(_first_of(error))
            return None
        _replay(captured, block)  # what fails now may have moved the weights in part
        return captured.outputs

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._blocks.clear()
        warnings.warn(f"the update is not captured as a CUDA graph: {reason}", UserWarning, stacklevel=5)

    def _capture(self, step: OneStep, block: Block) -> None:
        if len(self._blocks) == _MOST_LENGTHS:
            del self._blocks[next(iter(self._blocks))]
        own = Block(*(each.clone() for each in block))
        replay, outputs = self.capture(lambda: run_block(step, own), block.rows.device)
        self._blocks[len(block.rows)] = _Captured(own, replay, outputs)
        self.num_captures += 1


def _replay(captured: _Captured, block: Block) -> None:
    for own, new in zip(captured.block, block, strict=True):
        own.copy_(new)
    captured.replay()


def _check(step: OneStep, block: Block, captured: _Captured, before: Snapshot) -> None:
    """Take the steps of a block, and raise ``RuntimeError`` unless its replay moves every tensor as they do.

    Kernels that add up in any order differ from run to run, which a second run of the steps shows.
    """
    run_block(step, block)
    after = Snapshot(before.tensors, before.device)
    before.restore()
    run_block(step, block)
    rerun = Snapshot(before.tensors, before.device)
    before.restore()
    _replay(captured, block)
    _compare(before.values, after.values, rerun.values, before.tensors)
    after.restore()


def _compare(before: Sequence[Tensor], expected: Sequence[Tensor], rerun: Sequence[Tensor], found: Any) -> None:
    for start, target, other, value in zip(before, expected, rerun, found, strict=True):
        if torch.equal(value, target):
            continue
        finite = target.isfinite()
        if not torch.equal(value.isfinite(), finite):
            raise RuntimeError("its replay is finite elsewhere")
        start, target, other, value = (torch.where(finite, t, 0).double() for t in (start, target, other, value))
        rounding = 4 * torch.finfo(torch.float32).eps * target.norm()
        if (value - target).norm() > _TOLERANCE * (target - start).norm() + 4 * (other - target).norm() + rounding:
            raise RuntimeError("its replay came out different")


def _first_of(error: BaseException) -> str:
    """Return the error that the others came of, in one line: after it a driver says only that there was one."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]
