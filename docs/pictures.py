"""Draws the pictures of the docs that come from an explanation: a walk of the astronaut's smile, and detail.

python docs/pictures.py
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.data import astronaut

from explainer import as_image, explain, load_classifier
from explainer.image import to_uint8

FACE = astronaut()[55:175, 164:284].copy()
SIDE, GAP, LINE = 192, 10, 20
IMAGES = Path(__file__).parent / "images"


def draw(name: str, panels: Mapping[str, Any]) -> None:
    """Images side by side, each above the lines of its caption."""
    height = SIDE + LINE * max(caption.count("\n") + 1 for caption in panels) + 8
    sheet = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, height), "white")
    font, pen = ImageFont.load_default(15), ImageDraw.Draw(sheet)
    for column, (caption, image) in enumerate(panels.items()):
        left = column * (SIDE + GAP)
        pixels = Image.fromarray(np.ascontiguousarray(to_uint8(image)))
        sheet.paste(pixels.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, 0))
        for row, line in enumerate(caption.split("\n")):
            pen.text((left + SIDE / 2, SIDE + 6 + LINE * row), line, fill="black", font=font, anchor="mt")
    sheet.save(IMAGES / name, optimize=True)


def main() -> None:
    classifier = load_classifier("faces/smile")
    levels = (0.01, 0.1, 0.5, 0.9, 0.99)
    walked = explain(FACE, classifier, generator="faces", levels=levels, saliency=())
    achieved = walked.frames["achieved"]
    frames = {
        f"asked {level}\nclassifier {own:.2f}": image
        for level, own, image in zip(levels, achieved, walked.images, strict=True)
    }
    own = float(classifier.level(as_image(FACE)[None], classifier.target(1, as_image(FACE)[None]))[0])
    draw("astronaut.png", {f"original\nclassifier {own:.2f}": as_image(FACE), **frames})
    carried, without = (
        explain(FACE, classifier, generator="faces", levels=[0.05], detail=detail, saliency=())
        for detail in (1.0, 0.0)
    )
    draw(
        "detail.png",
        {
            "original": as_image(FACE),
            "bare": carried.bare.image,
            "at .05, without detail": without.images[0],
            "at .05, with detail": carried.images[0],
        },
    )


if __name__ == "__main__":
    main()
