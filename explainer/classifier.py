"""One way to ask any classifier: images in, the score of a target out.

The score of a target is a log-odds, or a regression's value in units of its spread
(:mod:`explainer.target` has the table of what it is for each kind of classifier). Resizing and normalisation
happen inside the graph, so a gradient of the score reaches the images at their own size. Everything is
evaluated inside :meth:`Classifier.frozen`, which leaves the model as it was found.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from explainer.errors import ClassifierError, ExplainerError, ImageError, OptionError
from explainer.estimators import Estimator, Layout
from explainer.frozen import frozen, modules_within
from explainer.misuse import as_outputs, check_outputs
from explainer.onnx_session import OnnxSession
from explainer.preprocessing import Preprocessing
from explainer.target import Kind, Outputs, Target, TargetSpec, log_odds, quartiles_of, resolve_target

__all__ = ["Classifier", "Target"]


class Classifier:
    """Anything that maps images (batch, channels, height, width) to outputs, asked in one way.

    Args:
        model: A module or a callable; it is given float32 images (its own floating type if it has
            parameters of another one) and returns (batch,), (batch, 1) or (batch, outputs), as a tensor, an
            array, nested lists of numbers, or something that has them as ``logits``.
        kind: ``"auto"``: one output is binary, several are multiclass.
        outputs: What the outputs are; probabilities passed for logits are found by :meth:`check`.
        size: (height, width) in pixels the model takes, or one number for both; images are resized to it.
            Any size when omitted.
        mean: Subtracted from images in [0, 1]: one number, or one per channel the model takes.
        std: What the images are then divided by, likewise.
        class_names: One name per class or output; a binary classifier has two, negative first.
        channels: Channels the model takes: grey images are repeated, RGB images turned to luma for it.
        device: Where to evaluate; where the model's parameters are when omitted.
        batch_size: Images evaluated at a time where no gradient is wanted.
        reference: For a regression: its values on reference images, (images,) or (images, outputs), or a
            tuple (lower quartile, median, upper quartile). The interquartile range is the unit of a walk.

    Raises:
        OptionError: An option outside its range.

    >>> brightness = Classifier(
    ...     lambda images: images.mean(dim=(1, 2, 3)) * 8 - 4, class_names=("dark", "bright"))
    >>> images = torch.stack([torch.full((3, 8, 8), 0.25), torch.full((3, 8, 8), 0.75)])
    >>> target = brightness.target("bright", images)
    >>> brightness.score(images, target), brightness.class_name(images[:1])
    (tensor([-2.,  2.]), 'dark')
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Any],
        *,
        kind: Kind = "auto",
        outputs: Outputs = "logits",
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        channels: int | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 256,
        reference: ArrayLike | Tensor | None = None,
    ) -> None:
        _check_options(model, kind, outputs, class_names, batch_size)
        if reference is not None:
            _check_reference(kind, reference)
        self._prepare = Preprocessing(size=size, mean=mean, std=std, channels=channels)
        self.model = model
        self.outputs: Outputs = outputs
        self.device = None if device is None else torch.device(device)
        self.batch_size = batch_size
        self._kind: Kind = kind
        self._reference = reference
        self._given_names = None if class_names is None else tuple(class_names)
        self._count: int | None = None
        self._differentiable: bool | None = None
        self._depth = 0

    @classmethod
    def from_sklearn(
        cls,
        model: Any,
        *,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        range: tuple[float, float] = (0.0, 1.0),
        layout: Layout | None = None,
        multilabel: bool | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 256,
        reference: ArrayLike | Tensor | None = None,
    ) -> "Classifier":
        """A fitted estimator of scikit-learn, or one with its ``predict_proba``, that takes rows of pixels.

        It has no gradient, so it is walked by the walk that needs none. Two classes are binary, the second
        of ``classes_`` positive; a regressor is a regression; several answers are labels.

        Args:
            model: The estimator, or a pipeline of it and its scaling.
            size: (height, width) in pixels of the images it was trained on, or one number for both; told
                from the number of pixels where they were square.
            channels: Of those images; likewise.
            range: The values black and white had in them: (0, 255) for bytes.
            layout: ``"NHWC"`` if rows are ``array.reshape(n, -1)`` of photographs, ``"NCHW"`` if they are
                ``tensor.flatten(1)``; of no matter for one channel.
            multilabel: Whether every column is a label of its own; told from the model when omitted.
            class_names: One name per class; the text of ``classes_`` when omitted.
            batch_size: Images evaluated at a time.
            reference: For a regression, as for :class:`Classifier`.

        Raises:
            ClassifierError: Not fitted, or it gives no probabilities.
            OptionError: A size, layout or range that is needed or contradicts the model.

        >>> from sklearn.datasets import load_digits
        >>> from sklearn.linear_model import LogisticRegression
        >>> digits = load_digits()
        >>> model = LogisticRegression(max_iter=2000).fit(digits.data, digits.target)
        >>> classifier = Classifier.from_sklearn(model, range=(0, 16))
        >>> classifier.size, classifier.class_name(torch.tensor(digits.images[:1] / 16)[:, None])
        ((8, 8), '0')
        """
        estimator = Estimator(model, layout=layout, multilabel=multilabel)
        mean, std = _scaling(range)
        pair, channels = estimator.shape(Preprocessing(size=size).size, channels)
        return cls(
            estimator,
            kind=estimator.kind,
            outputs=estimator.outputs,
            size=pair,
            channels=channels,
            mean=mean,
            std=std,
            class_names=estimator.class_names if class_names is None else class_names,
            batch_size=batch_size,
            reference=reference,
        )

    @classmethod
    def from_onnx(
        cls,
        model: Any,
        *,
        input: str | None = None,
        output: str | None = None,
        feeds: Mapping[str, np.ndarray] | None = None,
        layout: Layout | None = None,
        kind: Kind = "auto",
        outputs: Outputs = "logits",
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        channels: int | None = None,
        batch_size: int = 256,
        reference: ArrayLike | Tensor | None = None,
    ) -> "Classifier":
        """A model that ONNX Runtime runs, from a session or a ``.onnx`` file.

        It has no gradient, so it is walked by the walk that needs none. A batch the model fixes is kept to.
        An input of bytes (uint8) is given 0 to 255; any other is given [0, 1], or what ``mean`` and ``std``
        make of it (``std=1 / 255`` for floats from 0 to 255).

        Args:
            model: An ``onnxruntime.InferenceSession``, or the path of a file.
            input: Name of the input that takes the images; needed if there are several.
            output: Name of the output; needed if there are several.
            feeds: Arrays for the other inputs, by name.
            layout: ``"NCHW"`` or ``"NHWC"``; told from the shape of the input where it can be.
            kind: See :class:`Classifier`, as for all that follow.
            outputs: What the outputs are.
            size: (height, width) in pixels; what the model is fixed to when omitted.
            mean: Subtracted from images in [0, 1].
            std: What the images are then divided by.
            class_names: One name per class or output.
            channels: Channels the model takes; what it is fixed to when omitted.
            batch_size: Images evaluated at a time.
            reference: For a regression, as for :class:`Classifier`.

        Raises:
            DependencyError: onnxruntime is not installed.
            ModelFileError: No such file, or not one of ONNX.
            OptionError: A name or layout that is needed or not there, a size the model does not take.
            ClassifierError: An input that does not take images.
        """
        session = OnnxSession(model, input=input, output=output, feeds=feeds, layout=layout)
        pair = Preprocessing(size=size).size
        for name, given, fixed in (
            ("size", pair, session.size),
            ("channels", channels, session.channels),
        ):
            if given is not None and fixed is not None and given != fixed:
                raise OptionError(
                    name, f"is fixed to {fixed} by the model", received=given, remedy=f"Leave {name} out."
                )
        if session.takes_bytes and mean is None and std is None:
            std = 1 / 255
        return cls(
            session,
            kind=kind,
            outputs=outputs,
            size=pair or session.size,
            mean=mean,
            std=std,
            class_names=class_names,
            channels=channels or session.channels,
            batch_size=batch_size,
            reference=reference,
        )

    def __repr__(self) -> str:
        own = type(self.model).__repr__ in (object.__repr__, nn.Module.__repr__)
        name = _type_name(self.model) if own else repr(self.model)
        return f"Classifier({name}, kind={self.kind!r}, outputs={self.outputs!r})"

    @contextmanager
    def frozen(self) -> Iterator["Classifier"]:
        """Evaluate inside this context; the model is left as it was found, also after an exception.

        Contexts may be nested. Modules inside a callable are frozen as far as they can be found. Stay inside
        for the backward pass too: a model that recomputes its activations there is evaluated again.
        """
        with nullcontext() if self._depth else frozen(modules_within(self.model), self.device):
            self._depth += 1
            try:
                yield self
            finally:
                self._depth -= 1

    def raw(self, images: Tensor) -> Tensor:
        """Raw outputs.

        Args:
            images: (batch, channels, height, width) in [0, 1]; if they ask for a gradient, it is kept.

        Returns:
            (batch, outputs) float32 on the device of the images.

        Raises:
            ImageError: Images that are not a batch.
            ClassifierError: The model fails, returns something else, or has no gradient where one is wanted.
        """
        _check_batch(images)
        with self.frozen():
            if not (torch.is_grad_enabled() and images.requires_grad):
                return self._evaluate(images.detach())
            if self._differentiable is None:
                self._differentiable = self._reaches(images)
            if not self._differentiable:
                raise ClassifierError(
                    "classifier",
                    "has no gradient with respect to the images",
                    received=_type_name(self.model),
                    remedy="Compute its outputs with torch operations on the tensor it is given, without "
                    "detach(), no_grad() or numpy in between.",
                )
            return self._evaluate(images)

    def score(self, images: Tensor, target: Target) -> Tensor:
        """Score of the target (batch,), differentiable in images (batch, channels, height, width)."""
        raw = self.raw(images)
        return log_odds(raw, target, kind=self.kind, outputs=self.outputs)

    @torch.no_grad()
    def level(self, images: Tensor, target: Target) -> Tensor:
        """Level of the target (batch,): its probability, the value of a regression, or the uncertainty."""
        return target.to_level(torch.cat([self.score(batch, target) for batch in self._batches(images)]))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class indices (batch,); of a multilabel classifier the label with the highest output.

        Raises:
            ClassifierError: A regression, which has no classes.
        """
        raw = torch.cat([self.raw(batch) for batch in self._batches(images)])
        if self.kind == "regression":
            raise ClassifierError(
                "classifier", "has no classes", received='kind="regression"', remedy="Use level() instead."
            )
        if self.kind == "binary":
            return (raw[:, 0] > (0 if self.outputs == "logits" else 0.5)).long()
        return raw.argmax(dim=1)

    def class_name(self, image: Tensor) -> str:
        """Name of the class predicted for one image (channels, height, width), or a batch of one."""
        images = image[None] if image.ndim == 3 else image
        if len(images) != 1:
            raise ImageError(
                "image", "must be one image", received=f"{len(images)}", remedy="Use predict() for several."
            )
        index = int(self.predict(images))
        return self.class_names[index]

    def target(
        self,
        spec: TargetSpec,
        images: Tensor | None = None,
        *,
        reference: ArrayLike | Tensor | None = None,
    ) -> Target:
        """Resolve what is asked for.

        Args:
            spec: Index or name of a class (against the rest of them); ``(a, b)`` for from a towards b; or
                None: the positive class of a binary classifier, the only value of a regression, else the
                class predicted for the images; ``"uncertainty"`` for the entropy of the classes.
            images: Images (batch, channels, height, width) the answer is for. Not needed if the classes are
                known already: an image was evaluated before, or the class names were given.
            reference: For a regression whose own reference was not given: values as for the classifier, or
                reference images (batch, channels, height, width), for instance samples of a generator.

        Raises:
            ClassifierError: No such class, or no images where they are needed.
            OptionError: A reference that is none.
        """
        if images is not None and self._count is None:
            with torch.no_grad():
                self.raw(images[:1])

        def predicted() -> list[int]:
            if images is None:
                raise ClassifierError(
                    "target",
                    "is the class predicted for the images, so they are needed",
                    received="no images",
                    remedy="Pass images, or an index or name as the target.",
                )
            return self.predict(images).unique().tolist()

        resolved = resolve_target(spec, self.class_names, self.kind, predicted)
        known = self._reference if self._reference is not None else reference
        if resolved.measure != "value" or known is None:
            return resolved
        if isinstance(known, Tensor) and known.ndim == 4:
            with torch.no_grad():
                known = torch.cat([self.raw(batch) for batch in self._batches(known)])
        return replace(resolved, quartiles=quartiles_of(known, resolved.index))

    def check(self, images: Tensor) -> None:
        """Raise if the outputs cannot be explained as they are; find out whether there is a gradient.

        Args:
            images: A few real images (batch, channels, height, width) in [0, 1]; one is enough.

        Raises:
            ImageError: Images that are not a batch in [0, 1].
            ClassifierError: NaN, constant or random outputs, a wrong shape or number of outputs,
                probabilities where logits were promised, or the reverse.
        """
        _check_batch(images)
        with self.frozen():
            with torch.no_grad():
                self.raw(images[:1])
            self._differentiable = self._reaches(images)
            check_outputs(
                self.raw,
                images.detach(),
                kind=self.kind,
                outputs=self.outputs,
                differentiable=self._differentiable,
            )

    @property
    def kind(self) -> Kind:
        """The kind; ``"auto"`` stays until an image was evaluated."""
        if self._kind != "auto" or self._count is None:
            return self._kind
        return "binary" if self._count == 1 else "multiclass"

    @property
    def differentiable(self) -> bool:
        """Whether the gradient reaches the images; known once :meth:`check` has run."""
        if self._differentiable is None:
            raise self._unknown("differentiable")
        return self._differentiable

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, labels or values, numbered where none were given."""
        if self._given_names is not None and len(self._given_names) > 1:
            return self._given_names
        if self.kind == "binary":
            name = self._given_names[0] if self._given_names else None
            return ("class 0", "class 1") if name is None else (f"not {name}", name)
        if self._count is None:
            raise self._unknown("class_names")
        if self._given_names is not None:
            return self._given_names
        if self.kind == "regression":
            return ("value",) if self._count == 1 else tuple(f"value {i}" for i in range(self._count))
        word = "label" if self.kind == "multilabel" else "class"
        return tuple(f"{word} {i}" for i in range(self._count))

    @property
    def preprocessing(self) -> str:
        """A sentence on what happens to an image in [0, 1] before the model sees it."""
        return self._prepare.sentence

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels the model takes; None if any."""
        return self._prepare.size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names, types, shapes and contents of the model's state."""
        if not isinstance(self.model, nn.Module):
            return str(getattr(self.model, "fingerprint", "unavailable: not a module"))
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(content.numpy().tobytes())
        return digest.hexdigest()

    def _evaluate(self, images: Tensor) -> Tensor:
        """Prepare the images, call the model, and bring what it returns to (batch, outputs) float32."""
        parameter = next(
            (
                parameter
                for module in modules_within(self.model)
                for parameter in module.parameters()
                if parameter.is_floating_point()
            ),
            images.float(),
        )
        prepared = self._prepare(images.float().to(self.device or parameter.device)).to(parameter.dtype)
        try:
            returned = self.model(prepared)
        except (torch.OutOfMemoryError, ExplainerError):
            raise
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise ClassifierError(
                "classifier",
                f"fails on images of shape {tuple(prepared.shape)}",
                received=f"{type(error).__name__}: {error}",
                remedy=_remedy(self.model, error, prepared.shape[1]),
            ) from error
        outputs = as_outputs(returned, len(images))
        if outputs.shape[1] != self._count:
            self._learn(outputs.shape[1])
        return outputs.float().to(images.device)

    def _reaches(self, images: Tensor) -> bool:
        """Whether autograd connects the outputs to the images."""
        with torch.inference_mode(False), torch.enable_grad():
            probe = images[:1].detach().clone().requires_grad_()
            try:
                outputs = self._evaluate(probe)
            except ClassifierError as error:
                if "numpy" in str(error.__cause__):  # "Can't call numpy() on Tensor that requires grad"
                    return False
                raise
            if not outputs.requires_grad:
                return False
            return torch.autograd.grad(outputs.sum(), probe, allow_unused=True)[0] is not None

    def _learn(self, count: int) -> None:
        """Note the number of outputs once, and that the options fit it."""
        if self._count is not None:
            raise ClassifierError(
                "classifier",
                f"returned {self._count} outputs before and now another number",
                received=count,
                remedy="It must return the same classes for every image.",
            )
        if (self._kind == "binary" and count != 1) or (self._kind == "multiclass" and count == 1):
            raise ClassifierError(
                "kind",
                f'is "{self._kind}", which does not fit the number of outputs',
                received=count,
                remedy='Binary is one output, multiclass several; kind="auto" tells them apart.',
            )
        binary = count == 1 and self._kind in ("auto", "binary")
        if self._given_names is not None and len(self._given_names) not in ((1, 2) if binary else (count,)):
            wanted = "two names (negative, positive)" if binary else f"{count} names"
            raise ClassifierError(
                "class_names",
                f"must hold {wanted} for {count} output{'s' if count > 1 else ''}",
                received=f"{len(self._given_names)}: {', '.join(self._given_names)}",
                remedy="Pass one name per class, in the order of the outputs.",
            )
        self._count = count

    def _unknown(self, name: str) -> ClassifierError:
        return ClassifierError(
            name,
            "is not known before the classifier has seen an image",
            received="no image yet",
            remedy="Call check(images) with one or a few images first.",
        )

    def _batches(self, images: Tensor) -> Sequence[Tensor]:
        _check_batch(images)
        return images.split(self.batch_size)


def _check_batch(images: Tensor) -> None:
    if not (
        isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and images.numel()
    ):
        shape = f" {tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else ""
        raise ImageError(
            "images",
            "must be a floating-point tensor (batch, channels, height, width)",
            received=f"{_type_name(images)}{shape}",
            remedy="Pass the result of as_images, or as_image(...)[None] for one image.",
        )


def _check_options(
    model: object,
    kind: str,
    outputs: str,
    names: Sequence[str] | None,
    batch_size: int,
) -> None:
    if not callable(model):
        makers = {"predict_proba": "sklearn", "predict": "sklearn", "get_inputs": "onnx"}
        maker = next((maker for name, maker in makers.items() if hasattr(model, name)), None)
        raise OptionError(
            "model",
            "must be a module or a callable",
            received=_type_name(model),
            remedy=f"Use Classifier.from_{maker}(model)." if maker else "Pass for instance model.forward.",
        )
    for option, value, known in (("kind", kind, get_args(Kind)), ("outputs", outputs, get_args(Outputs))):
        if value not in known:
            raise OptionError(
                option, "is unknown", received=value, remedy=f"Choose one of {', '.join(known)}."
            )
    if kind == "regression" and outputs == "probabilities":
        raise OptionError(
            "outputs",
            "of a regression are values, not probabilities",
            received=outputs,
            remedy='Leave outputs out, or pass kind="binary".',
        )
    if names is not None and (isinstance(names, str) or not len(names) or len(set(names)) < len(names)):
        raise OptionError(
            "class_names",
            "must be a list of different names",
            received=repr(names),
            remedy="Give each class its own name.",
        )
    if batch_size < 1:
        raise OptionError(
            "batch_size", "must be at least 1", received=batch_size, remedy="Pass for instance 256."
        )


def _remedy(model: object, error: Exception, channels: int) -> str:
    """What to do about a model that failed."""
    if hasattr(getattr(model, "__self__", None), "predict"):  # a method of an estimator, which takes rows
        return "Use Classifier.from_sklearn(model), which flattens the images."
    if isinstance(error, OSError):
        return "What it calls does not answer; to ask again is up to the callable."
    if "channels" in str(error):
        to_do = (
            "or say it with channels=: a grey image is repeated"
            if channels == 1
            else "as those it learnt from"
        )
        return f"It takes another number of channels: pass images that have them, {to_do}."
    return "Say with size= and channels= what it takes, or, if the fault is in the model, put it right there."


def _scaling(span: tuple[float, float]) -> tuple[float | None, float | None]:
    """The mean and standard deviation that take [0, 1] to a range."""
    low, high = span
    if not high > low:
        raise OptionError(
            "range",
            "must ascend",
            received=span,
            remedy="Pass the values of black and white, such as (0, 255).",
        )
    width = high - low
    return (None if low == 0 else -low / width), (None if width == 1 else 1 / width)


def _check_reference(kind: str, reference: ArrayLike | Tensor) -> None:
    if kind != "regression":
        raise OptionError(
            "reference",
            "is for a regression only: a probability has its own unit",
            received=f'kind="{kind}"',
            remedy='Leave it out, or pass kind="regression".',
        )
    if np.ndim(reference) < 2:  # else the column depends on the target
        quartiles_of(reference)


def _type_name(value: object) -> str:
    return type(value).__name__
