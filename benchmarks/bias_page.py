"""The report of an audit as a file: time to write it, its size, and what plotly.js would cost.

    python benchmarks/bias_page.py

*audit*: 1,000 synthetic images walked under two classifiers and asked about five attributes; a generator of
principal components and linear classifiers make the walks cheap, the page is that of any such audit.
*worst*: 120 findings with pictures of noise, which no format makes small: the page must stay below 8 MB.
*plotly*: the plots of one finding drawn by plotly.js under the policy of our pages, and by our own SVG.
Seconds are those of the processor.
"""

import argparse
import base64
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import record
import torch
from plotly.offline import get_plotlyjs
from torch import Tensor, nn

from explainer import synthetic
from explainer.bias import AuditThresholds, audit
from explainer.classifier import Classifier
from explainer.generators.base import Generator
from explainer.report.bias_page import render_bias

TESTS = Path(__file__).resolve().parents[1] / "tests"
BOUND = 8_000_000
SIZE, COUNT = 64, 1000
ATTRIBUTES = ("shade", "x", "y", "shape", "orientation")


class Components(Generator):
    """Principal components of images: codes are their scores in standard deviations."""

    kind = "components"

    def __init__(self, images: Tensor, latent_dim: int = 24) -> None:
        super().__init__(tuple(images.shape[1:]), latent_dim, multiple=1, tau=1e6)
        flat = images.flatten(1)
        self.register_buffer("middle", flat.mean(0))
        _, scale, basis = torch.pca_lowrank(flat - self.middle, q=latent_dim, niter=4)
        self.register_buffer("basis", basis * scale / len(flat) ** 0.5)
        self.quantiles = {
            "bare": {"0.5": 0.01, "0.95": 0.02, "0.999": 0.04, "1": 0.05},
            "typicality": {"0.5": 1.0, "0.95": 1.5, "0.999": 2.5, "1": 2.5},
        }

    def _encode(self, prepared: Tensor) -> Tensor:
        return (prepared.flatten(1) - self.middle) @ (self.basis / self.basis.square().sum(0))

    def _decode(self, codes: Tensor) -> Tensor:
        return (self.middle + codes @ self.basis.T).view(-1, *self.shape)


class Readout(nn.Module):
    """A linear classifier of what the components hold of an image."""

    def __init__(self, generator: Components, codes: Tensor, answers: Tensor) -> None:
        super().__init__()
        self.generator = [generator]
        design = torch.cat([codes, torch.ones(len(codes), 1)], 1)
        fitted = torch.linalg.lstsq(design, (2 * answers - 1)[:, None]).solution[:, 0]
        self.weight, self.offset = nn.Parameter(8 * fitted[:-1]), nn.Parameter(8 * fitted[-1])

    def forward(self, images: Tensor) -> Tensor:
        return self.generator[0]._encode(images) @ self.weight + self.offset


def audited() -> Any:
    """The report of 1,000 walks under two classifiers."""
    planted = synthetic.sprites(COUNT, size=SIZE, seed=0, label="scale")
    tint = torch.tensor([1.0, 0.85, 0.7])[:, None, None]
    grain = 0.03 * torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    images = (planted.images.expand(-1, 3, -1, -1) * tint + grain).clamp(0, 1)
    generator = Components(images)
    codes = generator.encode(images)
    table = planted.attributes
    chosen = [name for name in ATTRIBUTES if name in table]

    def model(answers: np.ndarray) -> Classifier:
        return Classifier(Readout(generator, codes, torch.tensor(answers).float()), kind="binary")

    high = {name: (table[name] > table[name].median()).to_numpy() for name in chosen}
    label = planted.labels.numpy()
    classifiers = {"clean": model(label), "biased": model((label + high[chosen[0]]) / 2)}
    return audit(
        images, classifiers, labels=label, attributes=pd.DataFrame(high), generator=generator,
        oracles={"class 1": model(label)} | {name: model(answers) for name, answers in high.items()},
        n_images=COUNT, progress=False, thresholds=AuditThresholds(oracle_auc=0.6),
    )  # fmt: skip


def written(report: dict[str, Any], pictures: Any, **options: Any) -> dict[str, Any]:
    """Seconds and bytes of a page."""
    begun = time.process_time()
    page = render_bias(report, pictures, **options)
    return {
        "seconds": round(time.process_time() - begun, 2),
        "MB": round(len(page.encode()) / 1e6, 2),
        "share of the 8 MB allowed": round(len(page.encode()) / BOUND, 3),
        "walks pictured": page.count('<div class="walk-strip"'),
        "findings in detail": page.count('<details class="box finding"'),
    }


def worst(report: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The report with 120 findings whose pictures are noise of the largest size that is kept."""
    rng = np.random.default_rng(0)
    first = report["findings"]
    findings = [
        dict(first[number % len(first)], target=f"target {number // len(first)}") for number in range(120)
    ]
    pictures: dict[str, list[dict[str, Any]]] = {}
    for each in findings:
        kept = pictures.setdefault(f"{each['classifier']}, {each['target']}", [])
        known = {walk["row"] for walk in kept}
        for row in {row for rows in each["shown"].values() for row in rows} - known:
            kept.append(
                {
                    "row": row, "classifier": each["classifier"], "target": each["target"],
                    "direction": "up", "crossed": True, "level": 0.2,
                    "levels": (0.1, 0.3, 0.5, 0.7, 0.9), "oracles": {}, "channel_names": None,
                    "original": rng.integers(0, 255, (3, 160, 160), dtype=np.uint8),
                    "frames": rng.integers(0, 255, (5, 3, 160, 160), dtype=np.uint8),
                }
            )  # fmt: skip
    return {**report, "findings": findings, "clusters": {}, "comparisons": []}, pictures


def with_plotly(report: dict[str, Any]) -> tuple[str, int]:
    """A page with one plot by plotly.js under the policy of our pages, and the bytes of its scripts."""
    paths = report["findings"][0]["paths"]
    figure = go.Figure(go.Scatter(x=paths["asked, up"], y=paths["oracle, up"]))
    scripts = [get_plotlyjs(), f"Plotly.newPlot('plot', {figure.to_json()})"]

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = f"default-src 'none'; img-src data:; script-src {' '.join(map(allowed, scripts))}"
    page = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    )
    page += '<div id="plot"></div>' + "".join(f"<script>{text}</script>" for text in scripts)
    return page, sum(len(text.encode()) for text in scripts)


def in_browser(page: str, plots: str) -> dict[str, Any]:
    """What a browser says of a page: complaints of the policy, milliseconds to load it, named plots."""
    sys.path.insert(0, str(TESTS))
    from browser import Browser

    with tempfile.TemporaryDirectory() as folder:
        browser = Browser("chromium", Path(folder) / "profile")
        try:
            file = Path(folder) / "page.html"
            file.write_text(page, encoding="utf-8")
            browser.open(file)
            complaints = browser.complaints()
            loaded = "performance.getEntriesByType('navigation')[0].domComplete"
            return {
                "errors and warnings in the console": len(complaints),
                "ms until the page was complete": round(browser.run(loaded)),
                "plots with a name for screen readers": browser.run(
                    f"document.querySelectorAll('{plots}').length"
                ),
            }
        finally:
            browser.close()


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--no-browser", action="store_true", help="leave out what needs Chromium")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = audited()
    plain = json.loads(json.dumps(report.to_dict()))
    pictures = {key: [vars(strip) for strip in kept] for key, kept in report.pictures.items()}
    bytes_kept = sum(
        strip.frames.nbytes + strip.original.nbytes for kept in report.pictures.values() for strip in kept
    )
    crossed = [each["forward"]["changed"]["n"] for each in plain["findings"] if each["forward"]]
    result: dict[str, Any] = {
        "audit": {"images": COUNT, "findings": len(plain["findings"]), "walks that crossed": min(crossed),
                  "pictures kept, MB": round(bytes_kept / 1e6, 2),
                  "with pictures": written(plain, pictures),
                  "without pictures": written(plain, pictures, images=False)},
        "worst": written(*worst(plain)),
    }  # fmt: skip
    page, scripts = with_plotly(plain)
    ours = render_bias(plain, images=False)
    result["plotly"] = {
        "its scripts, MB": round(scripts / 1e6, 2),
        "share of the 8 MB allowed": round(scripts / BOUND, 3),
        "our page without pictures, MB": round(len(ours.encode()) / 1e6, 2),
    }
    if not arguments.no_browser:
        result["plotly"] |= {
            "one plot by plotly.js": in_browser(page, "svg[role=img] title"),
            "the whole page": in_browser(ours, "svg[role=img] > title"),
        }
    record.write("bias_page", result, arguments="")


if __name__ == "__main__":
    main()
