"""Estimators in the manner of scikit-learn, which take flattened pixels, as models of batches of images.

An image (channels, height, width) becomes one row of pixels, in the order in which the estimator saw them in
training: ``"NCHW"`` (channel after channel) or ``"NHWC"`` (pixel after pixel, as ``array.reshape(n, -1)`` of
photographs gives). Rows are float64, so that nothing is rounded on the way.
"""

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor

from explainer.errors import ClassifierError, OptionError

__all__ = ["Estimator", "Layout"]

Layout: TypeAlias = Literal["NCHW", "NHWC"]


class Estimator:
    """A fitted estimator as a callable: images (batch, channels, height, width) to outputs, without gradient.

    A classifier answers with ``predict_proba``, a regressor with ``predict``. Of two classes only the second
    column is kept, the probability of ``classes_[1]``: scikit-learn's positive class.

    Args:
        model: Fitted, with ``predict_proba``, or a regressor.
        layout: Order of the pixels in a row; needed for more than one channel.
        multilabel: Whether each column is a label of its own; found out when omitted.

    Attributes:
        features: Pixels in a row, ``n_features_in_``; None if the model does not say.
        kind: ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        outputs: ``"probabilities"``, of a regressor ``"logits"`` (its values as they are).
        class_names: Text of ``classes_``, where there are any.

    Raises:
        ClassifierError: Not fitted, or it gives no probabilities.

    >>> import torch
    >>> from sklearn.linear_model import LogisticRegression
    >>> rows, bright = np.array([[0.1] * 4, [0.3] * 4, [0.7] * 4, [0.9] * 4]), ["no", "no", "yes", "yes"]
    >>> estimator = Estimator(LogisticRegression().fit(rows, bright))
    >>> estimator.kind, estimator.class_names, estimator(torch.full((1, 1, 2, 2), 0.5)).round(2)
    ('binary', ('no', 'yes'), array([[0.5]]))
    """

    def __init__(self, model: Any, *, layout: Layout | None = None, multilabel: bool | None = None) -> None:
        if layout not in (None, "NCHW", "NHWC"):
            raise OptionError(
                "layout", "is unknown", received=layout, remedy='Choose "NCHW" or "NHWC".'
            )  # fmt: skip
        regresses = _regresses(model)
        if not regresses and not callable(getattr(model, "predict_proba", None)):
            raise ClassifierError(
                "model", "gives no probabilities", received=f"{type(model).__name__} without predict_proba",
                remedy="Wrap it in sklearn.calibration.CalibratedClassifierCV, or give Classifier a callable "
                "that returns log-odds.",
            )  # fmt: skip
        _require_fitted(model)
        self.model, self.layout = model, layout
        features = getattr(model, "n_features_in_", None)
        self.features = None if features is None else int(features)
        classes = getattr(model, "classes_", None)
        if multilabel is None:
            multilabel = isinstance(classes, list) or bool(getattr(model, "multilabel_", False))
        self.outputs: Literal["logits", "probabilities"] = "logits" if regresses else "probabilities"
        self.kind: Literal["auto", "binary", "multiclass", "multilabel", "regression"]
        self.class_names: tuple[str, ...] | None = None
        if regresses:
            self.kind = "regression"
        elif multilabel:  # classes_ is then one array per label, or the numbers of the labels
            self.kind = "multilabel"
        elif classes is None:
            self.kind = "auto"
        else:
            self.kind = "binary" if len(classes) == 2 else "multiclass"
            self.class_names = tuple(str(name) for name in classes)

    def __repr__(self) -> str:
        return type(self.model).__name__

    def shape(self, size: tuple[int, int] | None, channels: int | None) -> tuple[tuple[int, int], int]:
        """Size (height, width) and channels of the images the rows were made of.

        What is not given follows from the number of pixels where only one square answers: 784 is 28 x 28 and
        grey, 3072 is 32 x 32 and has 3 channels. (No number is both k^2 and 3 k^2.)

        Raises:
            OptionError: They cannot be told, or contradict the number of pixels.
        """
        if size is None and self.features is not None:
            for count in (1, 3) if channels is None else (channels,):
                side = math.isqrt(self.features // count)
                if count * side * side == self.features:
                    size, channels = (side, side), count
                    break
        elif size is not None and channels is None:
            area = size[0] * size[1]
            channels = self.features // area if self.features is not None and self.features >= area else 1
        if size is None or channels is None:
            raise OptionError(
                "size", "cannot be told from the number of pixels in a row",
                received="no number" if self.features is None else f"{self.features} pixels",
                remedy="Pass size=(height, width) and channels= of the images it was trained on.",
            )  # fmt: skip
        pixels = size[0] * size[1] * channels
        if self.features is not None and pixels != self.features:
            raise OptionError(
                "size", f"is that of {pixels} pixels, and the model takes {self.features}",
                received=f"size {size[0]}x{size[1]}, {channels} channel{'s' if channels > 1 else ''}",
                remedy="Pass size= and channels= of the images it was trained on.",
            )  # fmt: skip
        if channels > 1 and self.layout is None:
            raise OptionError(
                "layout", f"is needed for rows of {channels} channels", received="none",
                remedy='Pass "NHWC" if it was trained on array.reshape(n, -1) of photographs, "NCHW" if on '
                "tensor.flatten(1).",
            )  # fmt: skip
        return size, channels

    def __call__(self, images: Tensor) -> np.ndarray:
        """Outputs (batch, outputs) of prepared images (batch, channels, height, width)."""
        array = images.detach().cpu().double().numpy()
        rows = (array.transpose(0, 2, 3, 1) if self.layout == "NHWC" else array).reshape(len(array), -1)
        if self.kind == "regression":
            return np.asarray(self.model.predict(rows), dtype=np.float64)
        answer = self.model.predict_proba(rows)
        if isinstance(answer, list | tuple):
            return np.stack([_positive(np.asarray(part)) for part in answer], axis=1)
        probabilities = np.asarray(answer, dtype=np.float64)
        return probabilities[:, 1:] if self.kind == "binary" else probabilities


def _positive(columns: np.ndarray) -> np.ndarray:
    """Probability (batch,) of the second of two classes."""
    if columns.ndim != 2 or columns.shape[1] != 2:
        raise ClassifierError(
            "model", "answers several questions, and one of them has not two classes",
            received=f"probabilities of shape {columns.shape}",
            remedy="Explain one question at a time: model.estimators_[i].",
        )  # fmt: skip
    return columns[:, 1]


def _regresses(model: Any) -> bool:
    from sklearn.base import BaseEstimator, is_regressor

    return isinstance(model, BaseEstimator) and is_regressor(model)


def _require_fitted(model: Any) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(model, BaseEstimator):
        return
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise ClassifierError(
            "model", "is not fitted", received=type(model).__name__, remedy="Call its fit() first."
        ) from error
