"""Draws the power curve of ``results/audit_power.json`` as ``docs/images/audit_power.svg``.

python benchmarks/audit_curve.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 64, 24, 34, 54
MOST = 0.4
NULL, CONFOUNDED = 0.02, 0.10


def across(reliance: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(reliance, MOST) / MOST


def down(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def drawn(rates: Mapping[str, Mapping[str, float]], medians: Mapping[str, Mapping[str, float]]) -> str:
    """The curve: a dot per bin at the median reliance of its pairs, Wilson's interval, and their number."""
    floor, roof = down(0), down(1)
    parts = [
        f'<rect x="{across(0):.1f}" y="{roof}" width="{across(NULL) - across(0):.1f}" '
        f'height="{floor - roof}" class="null"/>',
        f'<rect x="{across(CONFOUNDED):.1f}" y="{roof}" width="{across(MOST) - across(CONFOUNDED):.1f}" '
        f'height="{floor - roof}" class="bad"/>',
        f'<text x="{across(0):.1f}" y="{TOP - 10}">null</text>',
        f'<text x="{across(0.06):.1f}" y="{TOP - 10}" class="middle">between</text>',
        f'<text x="{across(0.25):.1f}" y="{TOP - 10}" class="middle">confounded</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = down(share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="end">{share:.0%}</text>')
    for reliance in (0, 0.1, 0.2, 0.3, 0.4):
        parts.append(
            f'<text x="{across(reliance):.1f}" y="{floor + 20:.1f}" class="middle">{reliance:.1f}</text>'
        )
    places = [(across(medians[name]["reliance"]), rate) for name, rate in rates.items()]
    points = " ".join(f"{x:.1f},{down(rate['rate']):.1f}" for x, rate in places)
    parts.append(f'<polyline points="{points}"/>')
    for x, rate in places:
        low, high, y = down(rate["low"]), down(rate["high"]), down(rate["rate"])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" class="whisker"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        outside = low + 16 if rate["high"] > 0.95 else high - 6
        parts.append(f'<text x="{x:.1f}" y="{outside:.1f}" class="n">{rate["n"]:.0f}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" class="middle">reliance: mean |change of '
        "probability| when the renderer changes the factor alone</text>"
    )
    parts.append(
        f'<text transform="translate(16 {(floor + roof) / 2}) rotate(-90)" class="middle">'
        "said confounded (number of pairs)</text>"
    )
    style = (
        "text{font:13px sans-serif;fill:#333}.middle{text-anchor:middle}.end{text-anchor:end}"
        ".grid{stroke:#ccc}.whisker{stroke:#1f5fa8;stroke-width:2}circle{fill:#1f5fa8}"
        "polyline{fill:none;stroke:#1f5fa8;stroke-dasharray:4 4}.null{fill:#eef4ea}.bad{fill:#fbeee6}"
        ".n{font-size:12px;fill:#555;text-anchor:middle}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img"><title>Share of pairs said to be confounded, by reliance</title>'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    result: dict[str, Any] = json.loads((HERE / "results" / "audit_power.json").read_text(encoding="utf-8"))
    picture = drawn(result["power curve: share said confounded, by reliance"], result["medians, by reliance"])
    (HERE.parent / "docs" / "images" / "audit_power.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
