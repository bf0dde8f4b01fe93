"""k-NN against a plain loop, and its protocol on features that leave no doubt."""

import math

import pytest
import torch
import torch.nn.functional as F

import esvit.eval.knn
from esvit.eval.features import LabelledFeatures, TooFewClasses
from esvit.eval.knn import ClassMismatch, best, knn_accuracy

CLASSES = ("a", "b", "c")


def _features(rows: torch.Tensor, labels: list[int], classes: tuple[str, ...] = CLASSES) -> LabelledFeatures:
    return LabelledFeatures(F.normalize(rows, dim=1), torch.tensor(labels), classes)


def _plain_accuracy(train: LabelledFeatures, test: LabelledFeatures, k: int) -> float:
    correct = 0
    for feature, label in zip(test.features, test.labels, strict=True):
        cosines = [float(feature @ other) for other in train.features]
        nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes = dict.fromkeys(range(len(train.classes)), 0.0)
        for i in nearest:
            votes[int(train.labels[i])] += math.exp(cosines[i] / 0.07)
        correct += max(votes, key=lambda c: votes[c]) == int(label)
    return correct / len(test.labels)


@pytest.mark.parametrize("chunk", [1024, 7])
def test_it_equals_a_plain_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esvit.eval.knn, "_CHUNK", chunk)
    torch.manual_seed(0)
    train = _features(torch.randn(40, 8), [i % 3 for i in range(40)])
    test = _features(torch.randn(25, 8), [i % 3 for i in range(25)])
    expected = {k: _plain_accuracy(train, test, k) for k in (1, 5, 20)}
    assert knn_accuracy(train, test, (1, 5, 20)) == pytest.approx(expected)


def test_well_separated_classes_are_all_recognised() -> None:
    train = _features(torch.eye(3).repeat(5, 1), [0, 1, 2] * 5)
    test = _features(torch.eye(3), [0, 1, 2])
    assert best(knn_accuracy(train, test, (1, 5))) == (1, 1.0)


def test_more_neighbours_than_samples_are_left_out() -> None:
    train = _features(torch.eye(3), [0, 1, 2])
    assert set(knn_accuracy(train, train, (2, 10))) == {2}
    assert set(knn_accuracy(train, train, (2, 3, 4))) == {2, 3}
    assert set(knn_accuracy(train, train, (10, 20))) == {3}


def test_other_classes_are_refused() -> None:
    train = _features(torch.eye(3), [0, 1, 2])
    other = _features(torch.eye(3), [0, 1, 2], ("x", "y", "z"))
    with pytest.raises(
        ClassMismatch, match=r"class 0 is 'a' in one and 'x' in the other: build both from the same data"
    ):
        knn_accuracy(train, other)
    fewer = _features(torch.eye(3), [0, 1, 1], ("a", "b"))
    with pytest.raises(
        ClassMismatch, match=r"3 classes and the test set 2; class 2 is 'c' in one and None .*--classes-of"
    ):
        knn_accuracy(train, fewer)
    composed = _features(torch.eye(3), [0, 1, 2], ("a", "b", "\u00e9"))
    decomposed = _features(torch.eye(3), [0, 1, 2], ("a", "b", "e\u0301"))
    with pytest.raises(ClassMismatch, match=r"'\\xe9' in one and 'e\\u0301' in the other: these are two Unicode forms"):
        knn_accuracy(composed, decomposed)


@pytest.mark.parametrize(("classes", "found"), [((), "no labels"), (("cat",), "one class, 'cat'")])
def test_fewer_than_two_classes_are_refused_for_every_answer_would_be_right(
    classes: tuple[str, ...], found: str
) -> None:
    train = _features(torch.eye(3), [0, 0, 0], classes)
    with pytest.raises(TooFewClasses, match=f"the training set has {found}; evaluation needs .* two classes"):
        knn_accuracy(train, train)
