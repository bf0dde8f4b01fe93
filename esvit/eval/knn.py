"""k-nearest-neighbour classification of frozen features (EsViT, section 4; the protocol of Wu et al., 2018)."""

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

import torch.nn.functional as F

from esvit.eval.features import LabelledFeatures, check_classes
from pipeline.errors import UserError

TEMPERATURE = 0.07
_CHUNK = 1024  # test samples at a time: bounds the similarity matrix


class ClassMismatch(UserError):
    """Training and test set do not have the same classes."""


def knn_accuracy(
    train: LabelledFeatures, test: LabelledFeatures, neighbours: Sequence[int] = (10, 20, 100, 200)
) -> dict[int, float]:
    """Top-1 accuracy (0..1) per number of neighbours. A neighbour votes for its class with weight exp(cosine / 0.07).

    Numbers above the size of the training set are left out, except the smallest number.

    Raises:
        ClassMismatch: the data sets have different classes.
        TooFewClasses: the data sets have fewer than two classes.
    """
    check_classes(train.classes, "the training set")
    if train.classes != test.classes:
        raise ClassMismatch(_difference(train.classes, test.classes))
    available = len(train.labels)
    chosen = [k for k in neighbours if k <= available] or [available]
    correct = dict.fromkeys(chosen, 0)
    for start in range(0, len(test.labels), _CHUNK):
        features, labels = test.features[start : start + _CHUNK], test.labels[start : start + _CHUNK]
        similarity, index = (features @ train.features.T).topk(max(chosen), dim=1)  # [b, k], best first
        votes = F.one_hot(train.labels[index], len(train.classes)) * (similarity / TEMPERATURE).exp()[..., None]
        for k in chosen:
            prediction = votes[:, :k].sum(dim=1).argmax(dim=1)
            correct[k] += int((prediction == labels).sum())
    return {k: count / len(test.labels) for k, count in correct.items()}


def _difference(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    """A sentence that names the first class that differs."""
    number, (ours, theirs) = next(
        (number, pair) for number, pair in enumerate(zip_longest(train, test)) if pair[0] != pair[1]
    )
    forms = [unicodedata.normalize("NFC", name or "") for name in (ours, theirs)]
    hint = (
        "these are two Unicode forms of one name; build both with --nfc"
        if forms[0] == forms[1]
        else ("build both from the same data set, or the test set with --classes-of TRAIN")
    )
    return (
        f"the training set has {len(train)} classes and the test set {len(test)}; class {number} is {ours!a} in one "
        f"and {theirs!a} in the other: {hint}"
    )


def best(accuracy: dict[int, float]) -> tuple[int, float]:
    """The number of neighbours with the highest accuracy, and that accuracy."""
    return max(accuracy.items(), key=lambda item: item[1])
