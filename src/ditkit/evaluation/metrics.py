"""Distances between sets of images, by their features: Fréchet, kernel, precision and recall, Inception Score.

Written here instead of taken from a library: libraries tie each metric to InceptionV3 and to folders of image files,
and these take the features of any extractor. Each is its paper's equation in a few lines of numpy, in float64;
tests/test_evaluation.py compares them with torch-fidelity. Higher is better for precision, recall and the Inception
Score, lower for the others. Legend: N, M images, F features, L classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KID_SUBSETS, KID_SUBSET = 100, 1000
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
    values_F, vectors_FF = np.linalg.eigh(a.covariance_FF)
    root_FF = (vectors_FF * np.sqrt(values_F.clip(min=0))) @ vectors_FF.T
    cross = np.sqrt(np.linalg.eigvalsh(root_FF @ b.covariance_FF @ root_FF).clip(min=0)).sum()
    traces = np.trace(a.covariance_FF) + np.trace(b.covariance_FF) - 2 * cross
    return max(0.0, float(np.square(a.mean_F - b.mean_F).sum() + traces))


def kid(drawn_NF: np.ndarray, real_MF: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Kernel distance (KID) and its standard error (Bińkowski et al. 2018, arXiv 1801.01401, eq. 4).

    Unbiased: about 0, perhaps below it, for equal sets.

    The mean over 100 subsets of at most 1,000 images, with the kernel (x·y / F + 1)^3. The error is the standard
    deviation of the subsets, scaled to the number of independent ones that the images make up.
    """
    size = min(KID_SUBSET, len(drawn_NF), len(real_MF))
    source = np.random.default_rng(seed)
    drawn_NF, real_MF = drawn_NF.astype(np.float64), real_MF.astype(np.float64)
    distances = []
    for _ in range(KID_SUBSETS):
        x = drawn_NF[source.choice(len(drawn_NF), size, replace=False)]
        y = real_MF[source.choice(len(real_MF), size, replace=False)]
        distances.append(_mmd(x, y))
    independent = max(1.0, min(len(drawn_NF), len(real_MF)) / size)
    return float(np.mean(distances)), float(np.std(distances) / np.sqrt(min(independent, KID_SUBSETS)))


def _mmd(x_NF: np.ndarray, y_NF: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of two sets of equal size N.

    sum_(i != j) (k(x_i, x_j) + k(y_i, y_j)) / (N (N - 1)) - 2 sum_ij k(x_i, y_j) / N^2, k(a, b) = (a·b / F + 1)^3.
    """
    count = len(x_NF)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = sum((matrix := kernel(points, points)).sum() - np.trace(matrix) for points in (x_NF, y_NF))
    return float(within / (count * (count - 1)) - 2 * kernel(x_NF, y_NF).mean())


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
