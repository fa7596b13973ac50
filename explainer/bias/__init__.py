"""The confounder audit: does a classifier use attributes it should not use?"""

from explainer.bias.audit import audit
from explainer.bias.findings import BiasReport, Comparison, Finding, Group
from explainer.bias.verdict import AuditThresholds

__all__ = ["AuditThresholds", "BiasReport", "Comparison", "Finding", "Group", "audit"]
