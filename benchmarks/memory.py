"""Peak memory of explain_many over 5,000 images against 256, both written to a folder.

python benchmarks/memory.py
python benchmarks/memory.py --uncached

On a CPU, torch convolves with oneDNN, which keeps up to 1,024 compiled primitives, one for every layer and
every number of images evaluated at once. Walks keep to few such numbers for that reason. With --uncached the
cache is off (slower), and what is left is the package's own.

Both runs read PNG files from a folder, each in a process of its own. What the process needs before the first
image (the imports and the models) is subtracted; what is left must not grow with the number of images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import torch
from PIL import Image
from torch import Tensor, nn

from explainer import VAE, Classifier, Explanations, explain_many, load_generator
from explainer.synthetic import sprites

SIZE, FEW, MANY, BATCH = 32, 256, 5_000, 32
LEVELS = [0.1, 0.5, 0.9]


class Brightness(nn.Module):
    """Log-odds from the mean intensity."""

    def __init__(self, middle: float, scale: float) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(middle))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (images.mean(dim=(1, 2, 3)) - self.middle)


def peak_megabytes() -> float:
    """The most this process has held so far (getrusage would count what its parent held when it forked)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def child(work: Path, name: str) -> None:
    """Explain one folder and print what it took."""
    generator = load_generator(work / "generator")
    classifier = Classifier(Brightness(**json.loads((work / "classifier.json").read_text())))
    baseline, began = peak_megabytes(), time.perf_counter()
    found = explain_many(
        work / name, classifier, generator=generator, levels=LEVELS, batch_size=BATCH,
        out=work / f"{name}-out", progress=False,
    )  # fmt: skip
    seconds, peak = time.perf_counter() - began, peak_megabytes()
    summary = Explanations.open(work / f"{name}-out").summary()
    print(
        json.dumps(
            {
                "images": len(found),
                "failed": summary.failed,
                "levels reached": summary.reached,
                "baseline, MB": baseline,
                "peak, MB": peak,
                "peak over baseline, MB": peak - baseline,
                "seconds": seconds,
            }
        )
    )


def prepare(work: Path, many: int) -> None:
    """Draw the images, train a small generator on others, and set the classifier to its middle."""
    training = sprites(2_000, size=SIZE, seed=1, dtype=torch.uint8).images
    VAE((1, SIZE, SIZE), 8).fit(training, steps=300, progress=False).save(work / "generator")
    means = training.float().div(255).mean(dim=(1, 2, 3))
    place = {"middle": float(means.median()), "scale": 2 / float(means.std())}
    (work / "classifier.json").write_text(json.dumps(place))
    images = sprites(many, size=SIZE, seed=2, dtype=torch.uint8).images
    for name, count in (("few", FEW), ("many", many)):
        (work / name).mkdir()
        for index, image in enumerate(images[:count]):
            Image.fromarray(image[0].numpy()).save(work / name / f"{index:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--uncached", action="store_true")
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), arguments.child[1])
        return
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), arguments.many)
        for name in ("few", "many"):
            command = [sys.executable, __file__, "--child", folder, name]
            settings = os.environ | ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"} if arguments.uncached else {})
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
            measured[name] = json.loads(done.stdout.splitlines()[-1])
    ratio = measured["many"]["peak over baseline, MB"] / measured["few"]["peak over baseline, MB"]
    result = {
        "image": [1, SIZE, SIZE], "levels": len(LEVELS), "batch_size": BATCH,
        "runs": list(measured.values()), "ratio": ratio, "at most": 1.2,
    }  # fmt: skip
    name = "memory_uncached" if arguments.uncached else "memory"
    words = (["--uncached"] if arguments.uncached else []) + (
        [] if arguments.many == MANY else [f"--many {arguments.many}"]
    )
    print(record.write(name, {"memory": result}, " ".join(words)), result)


if __name__ == "__main__":
    main()
