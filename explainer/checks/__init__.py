"""Checks of an explanation, each of which can fail, and the verdict they add up to."""

from explainer.checks.base import Check, Thresholds
from explainer.checks.verdict import Verdict, decide

__all__ = ["Check", "Thresholds", "Verdict", "decide"]
