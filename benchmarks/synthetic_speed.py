"""Seconds of drawing 10,000 sprites, beside skimage.draw without anti-aliasing, masks or factors.

python benchmarks/synthetic_speed.py
"""

import statistics
import time

import numpy as np
import record
from skimage.draw import ellipse

from explainer.synthetic import cells, sprites

COUNT, SIZE, REPEATS = 10_000, 64, 3


def peer() -> np.ndarray:
    """One filled ellipse of random place, axes and angle per image."""
    random = np.random.default_rng(0)
    images = np.zeros((COUNT, SIZE, SIZE), np.float32)
    places, axes = random.uniform(16, 48, (COUNT, 2)), random.uniform(4, 14, (COUNT, 2))
    for image, (row, column), (a, b), angle in zip(
        images, places, axes, random.uniform(-np.pi, np.pi, COUNT), strict=True
    ):
        image[ellipse(row, column, a, b, shape=(SIZE, SIZE), rotation=angle)] = 1
    return images


def seconds(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    ours, theirs, fluorescent = [], [], []
    for _ in range(REPEATS):
        ours.append(seconds(lambda: sprites(COUNT, size=SIZE, seed=0)))
        theirs.append(seconds(peer))
        fluorescent.append(seconds(lambda: cells(1000, size=SIZE, seed=0)))
    result = {
        "sprites, 10,000 at 64 px, seconds": statistics.median(ours),
        "skimage.draw.ellipse, the same number, seconds": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "cells, 1,000 at 64 px with 3 channels, seconds": statistics.median(fluorescent),
    }
    print(record.write("synthetic_speed", {"speed": result}), result)


if __name__ == "__main__":
    main()
