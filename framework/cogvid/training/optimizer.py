"""Adam as published, or Muon for the matrices beside it, which learns small models in fewer steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cogvid.config.schema import StageConfig
from cogvid.training.length import Length
from cogvid.training.sharding import local, shard, whole


class MuonAdam(torch.optim.Adam):
    """Muon (Jordan et al., 2024) on the parameter groups marked `muon`, Adam on the others.

    torch's own Muon orthogonalises in bfloat16, which CPUs without bfloat16 units run a hundred times slower
    than float32; this one keeps the gradient's precision and batches matrices of one shape.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        """Args: parameter groups with keys `params`, `lr`, `muon` and, where that is true, `momentum`; the other
        options are Adam's. Muon has its momentum in place of `betas`, and takes `lr * weight_decay` of a matrix in
        each step: Adam's way, through the gradient, would be lost when the update is made orthogonal."""
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_shape: dict[tuple[torch.Size, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for index, group in enumerate(self.param_groups):
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                    state["step"] = torch.zeros(())  # Adam looks for it when a checkpoint is loaded
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(state["momentum"], group["momentum"])
                by_shape[parameter.shape, index].append((parameter, update))
                parameter.grad = None  # so that Adam passes it over
        for (shape, index), pairs in by_shape.items():
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            group = self.param_groups[index]
            for (parameter, _), update in zip(pairs, _own_orthogonal([u for _, u in pairs]), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                local(parameter).add_(update, alpha=-group["lr"] * scale)
        super().step()
        return loss


def _own_orthogonal(matrices: list[Tensor]) -> Iterable[Tensor]:
    """This process's parts of the orthogonal factors of matrices of one shape, all in shards or none."""
    if not isinstance(matrices[0], DTensor):
        return orthogonal(torch.stack(matrices))
    # One after the other: no process has all of them whole.
    return (shard(orthogonal(whole(matrix)[None])[0], matrix) for matrix in matrices)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal factor of each matrix (n, rows, columns), singular values within about 0.7 to 1.2.

    A quintic Newton-Schulz iteration with the coefficients of Jordan et al. All of its steps are polynomials in
    the Gram matrix, so they are multiplied up on that small square and meet the matrix once, at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    for _ in range(steps):
        step = a * identity + b * gram + c * gram @ gram
        product = step @ product
        gram = step @ gram @ step
    x = product @ x
    return x.mT if tall else x


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: StageConfig, length: Length | None = None
) -> tuple[MuonAdam, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser and learning-rate schedule of a stage: warm-up, constant, linear cooldown to zero.

    Args:
        named: names and parameters; those that do not require gradients are left out. Matrices inside the
            transformer's blocks go to Muon where `muon_lr` is set.
        config: of the stage.
        length: of its training; the steps of `config` if None.
    """
    trained = [(name, p) for name, p in named if p.requires_grad]
    matrices = [p for name, p in trained if config.muon_lr and p.ndim == 2 and "embedding" not in name]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in trained if id(p) not in chosen]
    groups = [
        {"params": others, "lr": config.adam_lr, "muon": False},
        {"params": matrices, "lr": config.muon_lr, "muon": True, "momentum": config.muon_momentum},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.betas[0], config.betas[1])
    optimizer = MuonAdam(groups, betas=betas, weight_decay=config.weight_decay)
    length = length or Length(config.steps)
    warmup, cooldown = config.warmup * length.total, config.cooldown * length.total

    def factor(step: int) -> float:
        done = length.done(step)
        return max(0.0, min(1.0, (done + 1) / (warmup + 1), (length.total - done) / max(cooldown, 1.0)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
