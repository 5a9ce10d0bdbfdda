"""Measures of generated pictures by their features, and by their edges: pure functions, in float64.

Features are (N, D), a row a picture, from whatever network judges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # rows compared at once, so that memory stays bounded


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D)."""
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets (FID, arXiv 1706.08500, eq. 6).

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)``. The product's eigenvalues are those of the symmetric
    ``S_a^1/2 S_b S_a^1/2``, so no square root of a general matrix is needed. Depends on the number of pictures: compare
    sets of one size only.

    Args:
        a, b: (N, D) and (M, D), N and M at least 2.

    Returns:
        0 or more; 0 for equal moments.
    """
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, distance.item())


def kernel_distance(a: Tensor, b: Tensor, subsets: int, size: int, generator: torch.Generator) -> float:
    """Unbiased squared MMD under the kernel ``(x.y / D + 1)^3``, mean over subsets (KID, arXiv 1801.01401, eq. 4).

    Args:
        a, b: (N, D) and (M, D).
        subsets: how many pairs of subsets are compared.
        size: rows of a subset, at least 2; fewer where a set is smaller.
        generator: chooses the subsets.

    Returns:
        0 on average for two draws of one distribution, whatever their size; a single value may be below 0.
    """
    a, b = a.double(), b.double()
    size = min(size, len(a), len(b))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    total = 0.0
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)] for rows in (a, b))
        within = sum(k.sum() - k.trace() for k in (kernel(x, x), kernel(y, y))) / (size * (size - 1))
        total += (within - 2 * kernel(x, y).mean()).item()
    return total / subsets


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row: (N,)."""
    k = min(k, len(features) - 1) + 1  # the nearest is the row itself
    return torch.cat([torch.cdist(part, features).kthvalue(k, dim=1).values for part in features.split(CHUNK)])


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of `points` inside a ball around any of `centres`."""
    inside = [(torch.cdist(part, centres) <= radii).any(1) for part in points.split(CHUNK)]
    return torch.cat(inside).double().mean().item()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991, eq. 1 and 2).

    A set's manifold is the union of balls around its features, each reaching its `k`-th nearest neighbour in the set.

    Args:
        real, fake: (N, D) and (M, D).

    Returns:
        Precision, the share of fake pictures within the real manifold (do they look real?), and recall, the share of
        real ones within the fake manifold (is everything there?), both from 0 to 1.
    """
    real, fake = real.double(), fake.double()
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def retrieval(pictures: Tensor, captions: Tensor, pool: int, generator: torch.Generator) -> dict[int, float]:
    """How often a picture's own caption is the nearest, and among the five nearest (R-precision, arXiv 1711.10485).

    Each picture has `pool` captions to choose from: its own and those of other pictures. The pools are disjoint, the
    last one filled up with captions of others, so rates of sets of different size compare. Captions that are equally
    near share their places evenly, so vectors that say nothing score as guessing does.

    Args:
        pictures, captions: (N, D), row i of both belongs together; compared by dot product.
        pool: captions in a pool; N where that is less.
        generator: chooses the pools.

    Returns:
        Rates from 0 to 1 by the number of captions counted as near, 1 and 5. Guessing scores ``k / pool``.
    """
    pictures, captions = pictures.double(), captions.double()
    pool = min(pool, len(pictures))
    order = torch.randperm(len(pictures), generator=generator)
    hits: dict[int, list[Tensor]] = {1: [], 5: []}
    for start in range(0, len(order), pool):
        members = order[start : start + pool].to(pictures.device)
        others = order[: pool - len(members)].to(pictures.device)
        similarity = pictures[members] @ captions[torch.cat([members, others])].T
        own = similarity.diagonal()[:, None]
        nearer, equal = (similarity > own).sum(1), (similarity == own).sum(1) - 1
        for k, found in hits.items():
            found.append(((k - nearer) / (equal + 1)).clamp(0, 1))
    return {k: torch.cat(found).double().mean().item() for k, found in hits.items()}


def structure_distance(a: Tensor, b: Tensor) -> Tensor:
    """How differently the places of two pictures resemble each other: self-similarity (arXiv 2201.00424, eq. 3).

    Args:
        a, b: (N, C, h, w), features of the pictures.

    Returns:
        (N,), 0 where every two places are as alike in one as in the other, whatever they look like.
    """

    def alike(features: Tensor) -> Tensor:
        places = F.normalize(features.float().flatten(2), dim=1)
        return places.transpose(1, 2) @ places

    return (alike(a) - alike(b)).square().mean((1, 2))


def edge_f1(asked: Tensor, found: Tensor, tolerance: int = 1) -> Tensor:
    """How well edges follow those that were asked for, with a little play: the boundary F-measure.

    Args:
        asked, found: (N, H, W) bool, edge pixels.
        tolerance: pixels in any direction, diagonals included, that an edge may be off.

    Returns:
        (N,) float64 from 0 to 1: the harmonic mean of the share of found edge pixels that are near an asked one, and of
        the share of asked ones that are near a found one. 1 where neither has any, 0 where only one has.
    """

    def share(edges: Tensor, wanted: Tensor) -> Tensor:
        near = F.max_pool2d(wanted.double()[:, None], 2 * tolerance + 1, stride=1, padding=tolerance)[:, 0] > 0
        return (edges & near).sum((1, 2)).double() / edges.sum((1, 2)).clamp_min(1)

    precision, recall = share(found, asked), share(asked, found)
    both = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    return torch.where(asked.any(2).any(1) | found.any(2).any(1), both, 1.0)
