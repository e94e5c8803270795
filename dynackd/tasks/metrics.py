"""Metrics of classes and of values. A new one is one function, a line in `METRICS`, and its name in a kind."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as skm

# Each takes predictions `[rows]`, references `[rows]` (class ids, or values) and how many classes the task has.


def accuracy(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Share of rows whose class is right."""
    return float(np.mean(predictions == references))


def f1(predictions: np.ndarray, references: np.ndarray, classes: int) -> float:
    """F1 of class 1 for a task of two classes (as GLUE does), the unweighted mean over classes for one of more."""
    if classes > 2:
        return f1_macro(predictions, references, classes)
    return float(skm.f1_score(references == 1, predictions == 1, zero_division=0.0))


def f1_macro(predictions: np.ndarray, references: np.ndarray, classes: int) -> float:
    """F1 averaged without weights over all classes of the task, whichever occur here.

    A class that no row has and none is given counts 1: there is nothing to find, and nothing was found. So the best
    possible value is 1 on any rows; as 0 it would depend on the rows, left out it would depend on the predictions.
    """
    labels = list(range(classes))
    return float(skm.f1_score(references, predictions, labels=labels, average="macro", zero_division=1.0))


def matthews_correlation(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Matthews' correlation of class ids, -1 to 1; 0 when one side is constant."""
    if _constant(predictions) or _constant(references):
        return 0.0
    return float(skm.matthews_corrcoef(references, predictions))


def pearson(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Pearson's correlation, -1 to 1; 0 when one side is constant."""
    return _correlation(stats.pearsonr, predictions, references)


def spearmanr(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Spearman's rank correlation, -1 to 1; 0 when one side is constant."""
    return _correlation(stats.spearmanr, predictions, references)


def mse(predictions: np.ndarray, references: np.ndarray, _classes: int) -> float:
    """Mean squared error, in squared units of the label: the one metric here where less is better."""
    return float(np.mean((predictions - references) ** 2))


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) == 0)


def _correlation(function: Callable[..., Any], predictions: np.ndarray, references: np.ndarray) -> float:
    if _constant(predictions) or _constant(references):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)  # an untrained model is nearly constant
        value = float(function(predictions, references)[0])
    return value if math.isfinite(value) else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "mse": mse,
}
