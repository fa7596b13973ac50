"""What people see of an explanation: one HTML page, figures for notebooks, an animation, a strip."""

from explainer.report.figures import difference_figure, levels_figure, slider_figure, strip_figure
from explainer.report.page import embed_page, render_explanation, write_page
from explainer.report.panels import image_panels
from explainer.report.sheet import render_sheet
from explainer.report.strip import write_gif, write_strip

__all__ = [
    "difference_figure",
    "embed_page",
    "image_panels",
    "levels_figure",
    "render_explanation",
    "render_sheet",
    "slider_figure",
    "strip_figure",
    "write_gif",
    "write_page",
    "write_strip",
]
