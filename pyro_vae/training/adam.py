r"""Adam as a function of the gradients that a graph can hold, over the state of torch's optimiser.

With the rate :math:`\alpha_t`, :math:`\beta_1`, :math:`\beta_2`, ε and the number t of steps of a parameter,

.. math::

    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \\
    \theta &\leftarrow \theta - \frac{\alpha_t}{1 - \beta_1^t}\,
              \frac{m}{\sqrt{v} / \sqrt{1 - \beta_2^t} + \epsilon} .

Weight decay λ adds :math:`\lambda\theta` to the gradient in Adam, and multiplies θ by :math:`1 - \alpha_t\lambda` in
AdamW. All of these numbers are read from a tensor, which is filled for many steps at once, :meth:`Adam.factors`; so a
graph need not be made anew when one of them changes.

Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015; Loshchilov and Hutter, *Decoupled Weight Decay
Regularization*, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyro_vae.training.block_length import LONGEST

__all__ = ["NUM_FACTORS", "Adam", "on_device"]

NUM_FACTORS = 10  # see factors; an even number, so that each row of a table begins at 16 bytes
_SLOTS = {"step", "exp_avg", "exp_avg_sq"}


class Adam:
    """The steps of ``torch.optim.Adam`` or ``AdamW``, on the state that the optimiser holds.

    Examples
    --------
    >>> theta = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = torch.optim.Adam([theta], lr=0.1)
    >>> theta.grad = torch.tensor([3.0])
    >>> optimizer.step()  # makes the state
    >>> adam = Adam(optimizer)
    >>> adam.arrange([theta])
    >>> adam.move([theta.grad], *adam.tensors(), adam.factors([[0.1]])[0])
    >>> theta.data  # two steps of 0.1 down
    tensor([0.8000])
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.columns: list[tuple[int, list[nn.Parameter]]] = []  # a group, and those of it that step together
        self._arranged: Any = None

    def unfit(self) -> str | None:
        """Return why the optimiser's steps are not these, or ``None``."""
        kind = type(self.optimizer)
        if kind not in (torch.optim.Adam, torch.optim.AdamW):
            return f"found {kind.__name__}, expected torch's Adam or AdamW"
        own = vars(self.optimizer).get("step")  # torch's schedulers wrap it too
        if self._has_hooks() or (own is not None and not getattr(own, "_wrapped_by_lr_sched", False)):
            return f"{kind.__name__} has a hook"
        for group in self.optimizer.param_groups:
            for name in ("amsgrad", "maximize", "differentiable", "capturable"):
                if group.get(name):
                    return f"found {kind.__name__} with {name}={group[name]}"
            if isinstance(group["lr"], Tensor) or any(isinstance(beta, Tensor) for beta in group["betas"]):
                return f"found {kind.__name__} with a tensor for a number"
            if any(not p.is_contiguous() or not p.is_floating_point() for p in group["params"]):
                return "found a parameter that is not contiguous, or complex"
        return None

    def _has_hooks(self) -> bool:
        """Return whether Python of somebody else runs before or after the optimiser's step."""
        own = self.optimizer._optimizer_step_pre_hooks or self.optimizer._optimizer_step_post_hooks
        return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)

    def slots(self, parameter: Tensor) -> list[Tensor]:
        """Return the state of a parameter, m, v and t; nothing before its first step."""
        values = self.optimizer.state.get(parameter) or {}
        if values.keys() != _SLOTS or not isinstance(values["step"], Tensor):
            return []
        return [values["exp_avg"], values["exp_avg_sq"], values["step"]]

    def has_state(self) -> bool:
        """Return whether any parameter has taken a step."""
        return any(self.slots(p) for group in self.optimizer.param_groups for p in group["params"])

    def of_groups(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return those of some parameters that the optimiser steps."""
        stepped = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return [p for p in parameters if id(p) in stepped]

    def arrange(self, trained: Sequence[nn.Parameter]) -> None:
        """Put together those of a group that have taken as many steps; reads the device if anything may have changed.

        ``trained`` are all that have a gradient and a state, of the optimiser's groups.
        """
        state = self._state_of(trained)
        if state == self._arranged:
            return
        steps = dict(zip(map(id, trained), torch.stack([self.slots(p)[2] for p in trained]).tolist(), strict=True))
        found: dict[tuple[int, float], list[nn.Parameter]] = {}
        for index, group in enumerate(self.optimizer.param_groups):
            for parameter in group["params"]:
                if id(parameter) in steps:
                    found.setdefault((index, steps[id(parameter)]), []).append(parameter)
        self.columns = [(index, parameters) for (index, _), parameters in found.items()]
        self._arranged = state

    def _state_of(self, trained: Sequence[nn.Parameter]) -> dict[int, Any]:
        """Return which tensors hold the counts of steps, and how often each was written to."""
        counts = {id(p): self.slots(p)[2] for p in trained}
        return {key: (id(count), count._version) for key, count in counts.items()}

    def form(self) -> tuple[Any, ...]:
        """Return all that a graph of the step holds for good: the kind of decay, and the forms of tensors."""
        return tuple(
            (self._is_decoupled(index), *((p.shape, p.dtype, self.slots(p)[0].dtype) for p in parameters))
            for index, parameters in self.columns
        )

    def _is_decoupled(self, index: int) -> bool:
        group = self.optimizer.param_groups[index]
        return type(self.optimizer) is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))

    def order(self) -> list[nn.Parameter]:
        """Return the parameters of all columns."""
        return [parameter for _, parameters in self.columns for parameter in parameters]

    def tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the parameters in that order, their m and their v."""
        slots = [self.slots(p) for p in self.order()]
        return [p.detach() for p in self.order()], [m for m, _, _ in slots], [v for _, v, _ in slots]

    def factors(self, rates: Sequence[Sequence[float]]) -> Tensor:
        r"""Return the numbers of the next S steps, at most 64, ``(S, columns, NUM_FACTORS)``, and count these as taken.

        ``rates`` holds the learning rates of all groups at each of them. A row holds
        :math:`\alpha_t / (1 - \beta_1^t)`, :math:`\sqrt{1 - \beta_2^t}`, :math:`1 - \alpha_t\lambda`, :math:`\beta_1`,
        :math:`1 - \beta_1`, :math:`\beta_2`, :math:`1 - \beta_2`, ε and λ.
        """
        found, num_steps = [], len(rates)
        padded = [*rates, *[rates[-1]] * (LONGEST - num_steps)]  # powers of short vectors end in other bits
        for index, parameters in self.columns:
            taken, group = [self.slots(p)[2] for p in parameters], self.optimizer.param_groups[index]
            (beta_1, beta_2), decay, device = group["betas"], group["weight_decay"], taken[0].device
            fixed = [beta_1, 1 - beta_1, beta_2, 1 - beta_2, group["eps"], decay, 0.0]
            numbers = on_device(torch.tensor([[each[index], *fixed] for each in padded], dtype=torch.float64), device)
            rate, t = numbers[:, 0], taken[0].double() + torch.arange(1, LONGEST + 1, device=device)
            moving = torch.stack([rate / (1 - beta_1**t), (1 - beta_2**t).sqrt(), 1 - rate * decay], 1)
            found.append(torch.cat([moving, numbers[:, 1:]], 1)[:num_steps])
            torch._foreach_add_(taken, num_steps)
        self._arranged = self._state_of(self.order())
        return torch.stack(found, 1)

    def move(
        self, g: Sequence[Tensor], theta: Sequence[Tensor], m: Sequence[Tensor], v: Sequence[Tensor], factors: Tensor
    ) -> None:
        """Move tensors by a step in place, all in the order of :meth:`order`; ``factors`` are of one step.

        The step is counted by :meth:`factors`.
        """
        start = 0
        for (index, parameters), row in zip(self.columns, factors.unbind(), strict=True):
            part = slice(start, start + len(parameters))
            _move(g[part], theta[part], m[part], v[part], row, self._is_decoupled(index))
            start = part.stop


def _move(g: Any, theta: Any, m: Any, v: Any, row: Tensor, decoupled: bool) -> None:
    size, root, shrink, beta_1, rest_1, beta_2, rest_2, eps, decay, _ = row.unbind()
    old = theta
    if decoupled:
        old = torch._foreach_mul(theta, shrink)
    else:
        g = torch._foreach_add(g, torch._foreach_mul(theta, decay))
    new_m = torch._foreach_add(torch._foreach_mul(m, beta_1), torch._foreach_mul(g, rest_1))
    squares = torch._foreach_mul(torch._foreach_mul(g, g), rest_2)
    new_v = torch._foreach_add(torch._foreach_mul(v, beta_2), squares)
    below = torch._foreach_add(torch._foreach_div(torch._foreach_sqrt(new_v), root), [eps] * len(theta))
    step = torch._foreach_mul(torch._foreach_div(new_m, below), size)
    torch._foreach_copy_(m, new_m)
    torch._foreach_copy_(v, new_v)
    torch._foreach_copy_(theta, torch._foreach_sub(old, step))


def on_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for what the device is doing."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers
