"""``explainer demo``: the first explanation, of a photograph that scikit-image ships."""

from pathlib import Path
from typing import Annotated

import typer

from explainer.cli.explain import deliver
from explainer.cli.options import AsJson, Debug, Device, Quiet, Seed
from explainer.cli.terminal import errors_named, examples, make_folder, shows_progress

__all__ = ["EXAMPLES", "demo"]

EXAMPLES = examples(
    ("Write demo/explanation.html and demo/explanation.gif, and print what they show", "explainer demo"),
    ("The same as JSON, into a folder of your choice", "explainer demo --out first --json"),
)

# The face in scikit-image's astronaut(), cropped as the zoo's faces are: centre x, centre y, half-width.
ASTRONAUT_FACE = (224, 115, 60)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the animation.")] = Path("demo"),
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain, without a file of your own, what 'smiling' means to a classifier of the zoo."""
    with errors_named(debug):
        make_folder(out)
        from skimage.data import astronaut

        from explainer.generators.zoo import load_classifier
        from explainer.image import as_image
        from explainer.pipeline import explain

        x, y, half = ASTRONAUT_FACE
        face = astronaut()[y - half : y + half, x - half : x + half].copy()
        explanation = explain(
            as_image(face),
            load_classifier("faces/smile"),
            seed=seed,
            device=device,
            progress=shows_progress(quiet),
        )
        deliver(explanation, out, as_json)
