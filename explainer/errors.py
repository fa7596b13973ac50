"""Errors that name the argument, say what was received and how to put it right.

Every mistake a user can make raises a subclass of :class:`ExplainerError`. Each kind also derives
from the built-in exception a caller would expect (``ValueError``, ``OSError``, ...), so code that
knows nothing of this package still catches the right thing.
"""

__all__ = [
    "ClassifierError",
    "DependencyError",
    "ExplainerError",
    "GeneratorError",
    "ImageError",
    "ModelFileError",
    "OptionError",
    "OutputError",
    "TrainingError",
]


class ExplainerError(Exception):
    """A mistake that can be named and put right.

    Args:
        argument: Name of the argument or file at fault.
        problem: What is wrong with it, a clause without a full stop.
        received: What came instead; its text is shortened to one line.
        remedy: What to do about it, a full sentence.

    >>> from explainer.errors import OptionError
    >>> print(OptionError("levels", "must lie strictly between 0 and 1", received=1.5,
    ...                   remedy="Pass probabilities such as [.1, .9]."))
    levels: must lie strictly between 0 and 1 (received 1.5). Pass probabilities such as [.1, .9].
    """

    def __init__(self, argument: str, problem: str, *, received: object, remedy: str) -> None:
        self.argument = argument
        self.problem = problem
        self.received = received
        self.remedy = remedy
        shown = " ".join(str(received).split())
        if len(shown) > 200:
            shown = shown[:197] + "..."
        super().__init__(f"{argument}: {problem} (received {shown}). {remedy}")


class ImageError(ExplainerError, ValueError):
    """An image with a wrong shape, range, type or file."""


class ClassifierError(ExplainerError, ValueError):
    """A classifier whose outputs cannot be explained as they are."""


class GeneratorError(ExplainerError, ValueError):
    """A generator that does not fit the image or the request."""


class TrainingError(ExplainerError, RuntimeError):
    """A training run that cannot start or did not end well."""


class OptionError(ExplainerError, ValueError):
    """An option outside its range or an unknown name."""


class ModelFileError(ExplainerError, OSError):
    """A model folder that is missing, corrupt or was changed after it was written."""


class OutputError(ExplainerError, OSError):
    """A place that cannot be written to."""


class DependencyError(ExplainerError, ImportError):
    """An optional package that is not installed; the remedy names the extra."""
