"""Checks of an explanation, each of which can fail, and the verdict they add up to."""

from explainer.checks.base import Check, Thresholds
from explainer.checks.identity import (
    Identity,
    calibrate_identity,
    dlib_identity,
    fit_identity,
    load_identity,
)
from explainer.checks.realism import realism
from explainer.checks.sets import SetChecks, run_set_checks
from explainer.checks.suite import default_identity, run_checks
from explainer.checks.surrogate import Surrogate, fit_surrogate
from explainer.checks.verdict import Verdict, decide

__all__ = [
    "Check",
    "Identity",
    "SetChecks",
    "Surrogate",
    "Thresholds",
    "Verdict",
    "calibrate_identity",
    "decide",
    "default_identity",
    "dlib_identity",
    "fit_identity",
    "fit_surrogate",
    "load_identity",
    "realism",
    "run_checks",
    "run_set_checks",
]
