"""Distances between sets of images, by their features: Fréchet, kernel, precision and recall, Inception Score.

Written here instead of taken from a library: libraries tie each metric to InceptionV3 and to folders of image files,
and these take the features of any extractor. Each is its paper's equation in a few lines of numpy, in float64;
tests/test_evaluation.py compares them with torch-fidelity. Higher is better for precision, recall and the Inception
Score, lower for the others. Legend: N, M images, F features, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PARTS = 10  # of the drawn images, each left out once for an error
NEAREST = 3  # neighbours, k in precision and recall
_ROWS = 1024  # of a matrix of distances that are in memory at once


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean (F,) and covariance (F, F) of the features of a number of images."""

    mean_F: np.ndarray
    covariance_FF: np.ndarray
    images: int


def statistics(features_NF: np.ndarray) -> Statistics:
    """The statistics of at least two images' features."""
    features_NF = features_NF.astype(np.float64)
    covariance_FF = np.atleast_2d(np.cov(features_NF, rowvar=False))
    return Statistics(mean_F=features_NF.mean(axis=0), covariance_FF=covariance_FF, images=len(features_NF))


def frechet(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0 (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric.
    """
    return _frechet(b, a, _root(a.covariance_FF))


def _root(covariance_FF: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance."""
    values_F, vectors_FF = np.linalg.eigh(covariance_FF)
    return (vectors_FF * np.sqrt(values_F.clip(min=0))) @ vectors_FF.T


def _frechet(a: Statistics, b: Statistics, root_b_FF: np.ndarray) -> float:
    """`frechet`, where the root of the second covariance is known."""
    cross = np.sqrt(np.linalg.eigvalsh(root_b_FF @ a.covariance_FF @ root_b_FF).clip(min=0)).sum()
    traces = np.trace(a.covariance_FF) + np.trace(b.covariance_FF) - 2 * cross
    return max(0.0, float(np.square(a.mean_F - b.mean_F).sum() + traces))


def kid(
    drawn_NF: np.ndarray,
    real_MF: np.ndarray,
    *,
    labels: Sequence[str | None] = (),
    real_sums_M: np.ndarray | None = None,
) -> tuple[float, float]:
    """Kernel distance (KID) and its standard error (Bińkowski et al. 2018, arXiv 1801.01401, eq. 4).

    The unbiased estimate of the squared maximum mean discrepancy, about 0, perhaps below it, for equal sets:

        sum_(i != j) k(x_i, x_j) / (N (N - 1)) + sum_(i != j) k(y_i, y_j) / (M (M - 1)) - 2 sum_ij k(x_i, y_j) / (N M)

    with k(a, b) = (a·b / F + 1)^3, over all images at once: it expects what the usual mean over subsets of 1,000 does,
    with less noise. The error is the jackknife's over the images of both sets (Efron & Stein 1981), never too small on
    average. Each set has three images or more.

    Args:
        labels: of the drawn images, if these were drawn a set number of times for each (see `kernel_sums`).
        real_sums_M: `kernel_sums` of the real images, if they are known already.
    """
    count, others = len(drawn_NF), len(real_MF)
    drawn_N, real_M = kernel_sums(drawn_NF, labels), kernel_sums(real_MF) if real_sums_M is None else real_sums_M
    across_N, across_M = _across(drawn_NF, real_MF)
    drawn, real, across = drawn_N.sum(), real_M.sum(), across_N.sum()

    def distance(drawn: np.ndarray, real: np.ndarray, across: np.ndarray, n: int, m: int) -> np.ndarray:
        return drawn / (n * (n - 1)) + real / (m * (m - 1)) - 2 * across / (n * m)

    without_N = distance(drawn - 2 * drawn_N, real, across - across_N, count - 1, others)
    without_M = distance(drawn, real - 2 * real_M, across - across_M, count, others - 1)
    error = math.hypot(jackknife_error(without_N, labels), jackknife_error(without_M))
    return float(distance(drawn, real, across, count, others)), error


def kernel_sums(points_NF: np.ndarray, labels: Sequence[str | None] = ()) -> np.ndarray:
    """For each image the sum of the kernel with all others of its set, float64 (N,).

    Where each label was drawn a set number of times n instead of by chance, pairs of one label are too few for an
    unbiased estimate, by (n - 1) / n: with `labels` they count for more.
    """
    points_NF, count = points_NF.astype(np.float64), len(points_NF)
    sums_N = _among(points_NF)
    for rows in _rows_of_labels(labels):
        sums_N[rows] += _among(points_NF[rows]) / (len(rows) - 1)
    return sums_N * (count - 1) / count if any(labels) else sums_N


def _rows_of_labels(labels: Sequence[str | None]) -> list[np.ndarray]:
    """The indices of the images of each label, and together those whose label no other has; none without labels."""
    if not any(labels):
        return []
    names, label_N, count_N = np.unique([str(label) for label in labels], return_inverse=True, return_counts=True)
    label_N = np.where(count_N[label_N] == 1, len(names), label_N)
    rows = [np.flatnonzero(label_N == label) for label in range(len(names) + 1)]
    return [indices for indices in rows if len(indices) > 1]


def _among(points_NF: np.ndarray) -> np.ndarray:
    """The sum of the kernel of each image with all others (N,)."""
    itself_N = (np.square(points_NF).sum(axis=1) / points_NF.shape[1] + 1) ** 3
    return _across(points_NF, points_NF)[0] - itself_N


def _across(a_NF: np.ndarray, b_MF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of k(a_i, b_j) over j (N,), and over i (M,)."""
    a_NF, b_MF = a_NF.astype(np.float64), b_MF.astype(np.float64)
    rows_N, columns_M = np.empty(len(a_NF)), np.zeros(len(b_MF))
    for start in range(0, len(a_NF), _ROWS):
        base = a_NF[start : start + _ROWS] @ b_MF.T / a_NF.shape[1] + 1
        kernel = base * base * base  # many times as fast as base**3
        rows_N[start : start + _ROWS] = kernel.sum(axis=1)
        columns_M += kernel.sum(axis=0)
    return rows_N, columns_M


def jackknife_error(without: np.ndarray, labels: Sequence[str | None] = ()) -> float:
    """The standard error of an estimate, of its values (N,) when each of N parts of the data in turn is left out.

    With `labels`, each of which was drawn a set number of times, only differences within a label are by chance.
    """
    count = len(without)
    deviations_N = without - without.mean()
    for rows in _rows_of_labels(labels):
        within = len(rows) / (len(rows) - 1) * (count - 1) / count  # leaving one out changes its label by so much more
        deviations_N[rows] = (without[rows] - without[rows].mean()) * math.sqrt(within)
    return float(np.sqrt((count - 1) * np.square(deviations_N).mean()))


def frechet_error(drawn_NF: np.ndarray, real: Statistics) -> float:
    """The standard error of `frechet` that comes of the drawn images: a jackknife over ten parts of three or more.

    The covariances without each part follow from sums, so that the ten cost little more than one.
    """
    middle_F = drawn_NF.mean(axis=0, dtype=np.float64)
    points_NF = drawn_NF.astype(np.float64) - middle_F
    products_FF, root_FF = points_NF.T @ points_NF, _root(real.covariance_FF)
    without = []
    for part in parts_of(len(drawn_NF)):
        left_out = points_NF[part]
        count = len(points_NF) - len(left_out)
        mean_F = -left_out.sum(axis=0) / count
        scatter_FF = products_FF - left_out.T @ left_out - count * np.outer(mean_F, mean_F)
        kept = Statistics(mean_F=mean_F + middle_F, covariance_FF=scatter_FF / (count - 1), images=count)
        without.append(_frechet(kept, real, root_FF))
    return jackknife_error(np.array(without))


def parts_of(count: int) -> list[np.ndarray]:
    """The indices of `count` images in ten parts, by chance: labels may come in any order."""
    return np.array_split(np.random.default_rng(0).permutation(count), min(PARTS, count))


def share_error(share: float, count: int) -> float:
    """The standard error of a share of `count` images, never 0 (Agresti & Coull 1998, with z = 1)."""
    centre = (share * count + 0.5) / (count + 1)
    return math.sqrt(centre * (1 - centre) / (count + 1))


def without_first(whole: Statistics, first_NF: np.ndarray) -> Statistics:
    """The statistics of a set without its first images, whose features these are."""
    first, count = statistics(first_NF), whole.images - len(first_NF)
    shift_F = first.mean_F - whole.mean_F
    mean_F = whole.mean_F - shift_F * len(first_NF) / count
    scatter_FF = (whole.images - 1) * whole.covariance_FF - (len(first_NF) - 1) * first.covariance_FF
    scatter_FF -= len(first_NF) * whole.images / count * np.outer(shift_F, shift_F)
    return Statistics(mean_F=mean_F, covariance_FF=scatter_FF / (count - 1), images=count)


def precision_recall(drawn_NF: np.ndarray, real_MF: np.ndarray) -> tuple[float, float]:
    """Precision: the share of drawn images within the real manifold; recall: of real ones within the drawn manifold.

    A set's manifold is the union of balls around its images that reach to the third nearest of the set (Kynkäänniemi
    et al. 2019, arXiv 1904.06991, eqs. 1 and 2). Both sets are cut to the size of the smaller.
    """
    count = min(len(drawn_NF), len(real_MF))
    drawn_NF, real_NF = drawn_NF[:count].astype(np.float64), real_MF[:count].astype(np.float64)
    return _inside(drawn_NF, real_NF), _inside(real_NF, drawn_NF)


def _inside(points_NF: np.ndarray, manifold_MF: np.ndarray) -> float:
    """The share of points that are within a ball of the manifold."""
    nearest = min(NEAREST, len(manifold_MF) - 1)
    rows = squared_distances(manifold_MF, manifold_MF)
    radius_M = np.concatenate([np.partition(row, nearest, axis=1)[:, nearest] for row in rows])
    inside = [(row <= radius_M).any(axis=1) for row in squared_distances(points_NF, manifold_MF)]
    return float(np.concatenate(inside).mean())


def squared_distances(a_NF: np.ndarray, b_MF: np.ndarray) -> Iterator[np.ndarray]:
    """The squared distances of all pairs, at most 1,024 rows of the (N, M) at once."""
    lengths_M = np.square(b_MF).sum(axis=1)
    for start in range(0, len(a_NF), _ROWS):
        rows = a_NF[start : start + _ROWS]
        yield (np.square(rows).sum(axis=1)[:, None] + lengths_M - 2 * rows @ b_MF.T).clip(min=0)


def inception_score(logits_NL: np.ndarray) -> float:
    """exp of the mean KL divergence of each image's classes from all images' (Salimans et al. 2016, arXiv 1606.03498).

    1 if all images are alike to the classifier, at most L. Computed over all images at once, without splits.
    """
    logits_NL = logits_NL.astype(np.float64)
    logits_NL -= logits_NL.max(axis=1, keepdims=True)
    share_NL = np.exp(logits_NL)
    share_NL /= share_NL.sum(axis=1, keepdims=True)
    tiny = np.finfo(np.float64).tiny
    divergence_N = (share_NL * (np.log(share_NL + tiny) - np.log(share_NL.mean(axis=0) + tiny))).sum(axis=1)
    return float(np.exp(divergence_N.mean()))
