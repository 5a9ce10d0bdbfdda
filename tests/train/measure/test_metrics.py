"""Measures against what theory says of sets that are known."""

import pytest
import torch

from train.loop.randomness import generator_for
from train.measure import metrics
from train.measure.metrics import edge_f1, frechet_distance, kernel_distance, precision_recall, retrieval


def normal(count=400, size=8, seed=0):
    return torch.randn(count, size, generator=generator_for(seed), dtype=torch.float64)


def with_moments(mean, covariance, seed=0, count=400):
    """A set with exactly these moments."""
    noise = normal(count, len(mean), seed)
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(noise.T)), noise.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def test_equal_sets_are_at_distance_0_and_wholly_covered():
    features = normal()
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert kernel_distance(features, features, 10, 400, generator_for(0)) == pytest.approx(0, abs=0.05)
    assert precision_recall(features, features) == (1, 1)


def test_frechet_distance_of_gaussians():
    """In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), for covariances that do not commute too."""
    mean_a, mean_b = torch.tensor([0.0, 1.0]).double(), torch.tensor([3.0, -1.0]).double()
    cov_a = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    cov_b = torch.tensor([[1.0, -0.7], [-0.7, 4.0]]).double()
    product = cov_a @ cov_b
    cross = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    a, b = with_moments(mean_a, cov_a), with_moments(mean_b, cov_b, seed=1)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected.item(), rel=1e-8)


def test_frechet_distance_of_a_shift_is_its_square():
    features = normal()
    assert frechet_distance(features, features + 2) == pytest.approx(4 * 8, rel=1e-8)


def test_frechet_distance_with_fewer_pictures_than_features():
    few = normal(5, 20)
    assert frechet_distance(few, few + 1) == pytest.approx(20, abs=1e-4)
    assert frechet_distance(few[:, :1], few[:, :1] + 1) == pytest.approx(1, rel=1e-8)


def test_kernel_distance_is_the_estimator_of_the_paper():
    a, b = normal(6, 3), normal(6, 3, seed=1) + 0.5

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(kernel(rows[i], rows[j]) for rows in (a, b) for i, j in pairs) / 30
    between = sum(kernel(x, y) for x in a for y in b) / 36
    assert kernel_distance(a, b, 3, 100, generator_for(0)) == pytest.approx(within - 2 * between)


def test_kernel_distance_does_not_depend_on_the_number_of_pictures():
    """Unlike Fréchet's: small sets of one distribution are at distance 0 on average."""
    small, large = (
        kernel_distance(normal(2000), normal(2000, seed=1), 200, size, generator_for(2)) for size in (20, 500)
    )
    assert abs(small) < 0.1 and abs(large) < 0.02
    assert kernel_distance(normal(), normal(seed=1) + 1, 10, 100, generator_for(2)) > 1


def test_collapsed_pictures_have_no_recall():
    real = normal()
    fake = real[:1] + 1e-3 * normal(seed=1)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.95 and recall < 0.02


def test_noisy_pictures_have_no_precision():
    real = normal()
    precision, recall = precision_recall(real, 20 * normal(seed=1))
    assert precision < 0.05
    assert recall > 0.95  # wide balls cover everything, which is why both are told


def test_half_of_the_modes_is_half_of_the_recall(monkeypatch):
    one, other = normal(200), normal(200, seed=1) + 50
    whole = precision_recall(torch.cat([one, other]), one)
    assert whole[0] == 1 and whole[1] == pytest.approx(0.5, abs=0.01)
    monkeypatch.setattr(metrics, "CHUNK", 7)
    assert precision_recall(torch.cat([one, other]), one) == whole


def test_true_captions_are_found_and_shuffled_ones_as_by_guessing():
    vectors = torch.nn.functional.normalize(normal(3000, 64), dim=-1)
    assert retrieval(vectors, vectors, 300, generator_for(0)) == {1: 1, 5: 1}
    shuffled = vectors[torch.randperm(3000, generator=generator_for(1))]
    rates = retrieval(vectors, shuffled, 300, generator_for(0))
    assert rates[1] == pytest.approx(1 / 300, abs=0.004) and rates[5] == pytest.approx(5 / 300, abs=0.008)


def test_vectors_that_say_nothing_score_as_guessing_does():
    vectors, guessing = normal(600, 8), pytest.approx({1: 1 / 300, 5: 5 / 300})
    assert retrieval(torch.zeros(600, 8), vectors, 300, generator_for(0)) == guessing
    assert retrieval(vectors, torch.ones(600, 8), 300, generator_for(0)) == guessing


def test_a_tie_for_the_first_place_is_half_a_hit():
    captions = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert retrieval(captions, captions, 2, generator_for(0)) == {1: 0.5, 5: 1}


@pytest.mark.parametrize("count", [20, 300, 301, 1000])
def test_every_picture_counts_once_whatever_their_number(count):
    """One picture in four says nothing and is found by guessing alone: the other three are found."""
    vectors = torch.eye(count)
    pictures = vectors.clone()
    pictures[::4] = 0
    found = retrieval(pictures, vectors, 300, generator_for(0))[1]
    silent = len(pictures[::4]) / count
    assert found == pytest.approx(1 - silent + silent / min(count, 300))


def edges(*points, side=9):
    found = torch.zeros(1, side, side, dtype=torch.bool)
    for row, column in points:
        found[0, row, column] = True
    return found


def test_edges_that_are_those_asked_for():
    some = torch.rand(3, 16, 16, generator=generator_for(0)) > 0.8
    assert edge_f1(some, some, 0).tolist() == [1, 1, 1]
    empty = torch.zeros_like(some)
    assert edge_f1(empty, empty).tolist() == [1, 1, 1]
    assert edge_f1(some, empty).tolist() == edge_f1(empty, some).tolist() == [0, 0, 0]


@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_edges_may_be_off_by_the_tolerance_and_no_more(tolerance):
    asked = edges((4, 4))
    near = [edge_f1(asked, edges((4 + off, 4 - off)), tolerance).item() for off in range(4)]
    assert near == [float(off <= tolerance) for off in range(4)]


def test_edge_f1_is_the_harmonic_mean_of_precision_and_recall():
    asked, found = edges((0, 0), (0, 8), (8, 0), (8, 8)), edges((0, 0), (4, 4), (4, 5))
    assert edge_f1(asked, found).item() == pytest.approx(2 / (1 / (1 / 3) + 1 / (1 / 4)))
    assert edge_f1(found, asked).item() == edge_f1(asked, found).item()


def test_edges_everywhere_do_not_score():
    asked = edges((4, 4), side=64)
    assert edge_f1(asked, torch.ones_like(asked)).item() < 0.01


def test_each_picture_is_compared_with_its_own_edges():
    asked = torch.cat([edges((0, 0)), edges((8, 8))])
    assert edge_f1(asked, asked.flip(0)).tolist() == [0, 0]


def test_structure_is_what_places_have_in_common():
    features = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    other = torch.einsum("cd,ndhw->nchw", turned, features) * 3  # other features, the same relations
    torch.testing.assert_close(metrics.structure_distance(features, other), torch.zeros(3), atol=1e-6, rtol=0)
    moved = metrics.structure_distance(features, features.roll(1, 3))
    assert moved.shape == (3,) and (moved > 0.01).all()
