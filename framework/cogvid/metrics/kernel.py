"""Kernel distance between two sets of features: what a Fréchet distance asks, without bias.

Shapes: n real and m generated samples, d features, G groups. Everything is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.metrics.jackknife import LeftOut, group_count, group_of

# (degree, offset) of `(x.y / d + offset)^degree`.
CUBIC = (3, 1.0)
JEDI = (2, 0.0)
# Rows of a kernel matrix that are held at once.
CHUNK = 1024


def kernel_distance(real: Tensor, generated: Tensor, degree: int = 3, offset: float = 1.0) -> float:
    """The unbiased squared MMD under the kernel `(x.y / d + offset)^degree` over all pairs.

    It is 0 on average, so negative half of the time, for two sample sets of one distribution of any size. Cubic with
    offset 1 it is the kernel distance of Binkowski et al., 2018; of degree 2 without offset that of JEDi (Luo et al.,
    "Beyond FVD", arXiv 2410.05203), whose published values are on V-JEPA features, 100 times as large, and
    count each sample's pair with itself, which makes them too large at small n.

    Args:
        real: features (n, d), of any dtype.
        generated: features (m, d).
        degree: of the polynomial.
        offset: what is added to the product before the power.

    Raises:
        ValueError: fewer than two samples on a side.
    """
    return _values(real, generated, degree, offset, groups=1)[0]


def kernel_left_out(real: Tensor, generated: Tensor, degree: int = 3, offset: float = 1.0) -> LeftOut:
    """The kernel distance with groups left out, for the jackknife; four samples a side at least. As above."""
    groups = group_count(min(len(real), len(generated)))
    whole, without = _values(real, generated, degree, offset, groups)
    return LeftOut(whole, *without)


def _values(
    real: Tensor, generated: Tensor, degree: int, offset: float, groups: int
) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    real, generated = (torch.as_tensor(rows, dtype=torch.float64) for rows in (real, generated))
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"a kernel distance needs two samples a side, got {len(real)} and {len(generated)}")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + offset) ** degree

    def blocks(x: Tensor, y: Tensor) -> Tensor:
        """Sums (G, G) of the kernel over the pairs of two groups."""
        groups_x, groups_y = (group_of(len(rows), groups).to(x.device) for rows in (x, y))
        by_row = torch.zeros(len(x), groups, dtype=x.dtype, device=x.device)
        for rows, sums in zip(x.split(CHUNK), by_row.split(CHUNK), strict=True):
            sums.index_add_(1, groups_y, kernel(rows, y))
        return torch.zeros(groups, groups, dtype=x.dtype, device=x.device).index_add_(0, groups_x, by_row)

    def within(x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over distinct pairs, of all samples and without each group (G,)."""
        # (x.x / d + offset)^degree, the pair of each sample with itself.
        own = (x.square().mean(1) + offset) ** degree
        group = group_of(len(x), groups).to(x.device)
        own = torch.zeros(groups, dtype=x.dtype, device=x.device).index_add_(0, group, own)
        sums, left = blocks(x, x), len(x) - group.bincount(minlength=groups)
        total = sums.sum() - own.sum()
        rest = total - (sums.sum(0) + sums.sum(1) - sums.diagonal() - own)
        return total / (len(x) * (len(x) - 1)), rest / (left * (left - 1))

    among_real, among_generated, between = within(real), within(generated), blocks(real, generated)
    total, by_real, by_generated = between.sum(), between.sum(1), between.sum(0)
    n, m = len(real), len(generated)
    n_left, m_left = (
        len(x) - group_of(len(x), groups).to(x.device).bincount(minlength=groups) for x in (real, generated)
    )
    whole = among_real[0] + among_generated[0] - 2 * total / (n * m)
    without = (
        among_real[1] + among_generated[0] - 2 * (total - by_real) / (n_left * m),
        among_real[0] + among_generated[1] - 2 * (total - by_generated) / (n * m_left),
        among_real[1]
        + among_generated[1]
        - 2 * (total - by_real - by_generated + between.diagonal()) / (n_left * m_left),
    )
    return float(whole), without
