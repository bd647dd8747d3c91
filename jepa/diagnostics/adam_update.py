"""How far Adam moved each parameter in its last step, read off its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def adam_update_norms(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Norms of the last update of each parameter that has had one, by its name in `module`.

    They follow from the moments and the group's present learning rate, which is that of the last step unless somebody
    has changed it since. With `Adam(weight_decay=...)`, which decays through the gradient, too.

    Args:
        module: Whose parameters these are.
        optimizer: `torch.optim.Adam` or `AdamW`.

    Raises:
        ValueError: The optimizer is of another kind, whose state does not tell.

    Source: Kingma, Ba 2014, Adam (arXiv 1412.6980), algorithm 1; Loshchilov, Hutter 2017, AdamW (arXiv 1711.05101).
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise ValueError(
            f"the state of {type(optimizer).__name__} does not tell its last update; that of Adam and AdamW does"
        )
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    return {
        name: _update(parameter, groups[parameter], optimizer.state[parameter], decoupled).norm()
        for name, parameter in module.named_parameters()
        if parameter in groups and "exp_avg" in optimizer.state.get(parameter, {})
    }


def _update(parameter: Tensor, group: dict[str, Any], state: dict[str, Any], decoupled: bool) -> Tensor:
    step, (first, second), rate = float(state["step"]), group["betas"], float(group["lr"])
    squares = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    scale = (squares.float() / (1 - second**step)).sqrt() + group["eps"]
    update = state["exp_avg"].float() / (1 - first**step) / scale * rate
    if not (decoupled or group.get("decoupled_weight_decay", False)) or not group["weight_decay"]:
        return update
    # The weight before the step, of which the decay took its share, is what the weight after it came from.
    decay = rate * float(group["weight_decay"])
    return update + decay * (parameter.float() + update) / (1 - decay)
