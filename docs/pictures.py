"""Draws ``docs/images/detail.png``: what carried detail does to the astronaut's smile.

python docs/pictures.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.data import astronaut

from explainer import as_image, explain, load_classifier
from explainer.image import to_uint8

FACE = astronaut()[55:175, 164:284].copy()
SIDE = 192


def main() -> None:
    classifier = load_classifier("faces/smile")
    carried, without = (
        explain(FACE, classifier, generator="faces", levels=[0.05], detail=detail, saliency=())
        for detail in (1.0, 0.0)
    )
    panels = {
        "original": as_image(FACE),
        "bare": carried.bare.image,
        "at .05, without detail": without.images[0],
        "at .05, with detail": carried.images[0],
    }
    sheet = Image.new("RGB", (len(panels) * (SIDE + 10) - 10, SIDE + 26), "white")
    font = ImageFont.load_default(15)
    for column, (caption, image) in enumerate(panels.items()):
        pixels = np.ascontiguousarray(to_uint8(image))
        left = column * (SIDE + 10)
        sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, 24))
        ImageDraw.Draw(sheet).text((left + 2, 2), caption, fill="black", font=font)
    sheet.save(Path(__file__).parent / "images" / "detail.png", optimize=True)


if __name__ == "__main__":
    main()
