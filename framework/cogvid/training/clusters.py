"""Clusters of codes, for sampling in two levels: first a cluster, then a code in it."""

from __future__ import annotations

import torch
from torch import Tensor

# Rounds of Lloyd's algorithm at most; it usually settles in a few dozen.
_ROUNDS = 100


def cluster_codes(codebook: Tensor, clusters: int, seed: int) -> Tensor:
    """Group codes near each other: k-means, started by k-means++ (Arthur and Vassilvitskii, 2007).

    Args:
        codebook: float (codes, size), finite.
        clusters: how many; as many as there are distinct codes if those are fewer.
        seed: of the start; torch's global random numbers are left alone.

    Returns:
        int64 (codes,) on the CPU, the cluster of each code, counted from 0; none is empty, equal codes share one.

    Raises:
        ValueError: `clusters` is below one.
    """
    if clusters < 1:
        raise ValueError(f"at least one cluster is needed, got {clusters}")
    # The k-means inside vector-quantize-pytorch is no public function, draws its start evenly from the global random
    # numbers and leaves clusters empty, above all among a codebook's many equal dead codes. Hence distinct codes here.
    points, distinct = codebook.detach().cpu().double().unique(dim=0, return_inverse=True)
    count = min(clusters, len(points))
    centres = _spread(points, count, torch.Generator().manual_seed(seed))
    labels = torch.full((len(points),), -1)
    for _ in range(_ROUNDS):
        distances, nearest = torch.cdist(points, centres).min(1)
        for empty in (nearest.bincount(minlength=count) == 0).nonzero()[:, 0]:
            # It gets the code farthest from its centre, but never the last one of another cluster.
            alone = nearest.bincount()[nearest] == 1
            nearest[distances.masked_fill(alone, -1.0).argmax()] = empty
        if torch.equal(nearest, labels):
            break
        labels = nearest
        centres = torch.zeros_like(centres).index_add_(0, labels, points) / labels.bincount()[:, None]
    return labels[distinct]


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre is a point drawn in proportion to its squared distance from the centres before it."""
    centres = [points[torch.randint(len(points), (1,), generator=generator)[0]]]
    distances = torch.full((len(points),), torch.inf, dtype=points.dtype)
    while len(centres) < count:
        distances = distances.minimum((points - centres[-1]).square().sum(1))
        centres.append(points[torch.multinomial(distances, 1, generator=generator)[0]])
    return torch.stack(centres)
