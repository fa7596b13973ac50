"""The checks: do they find what is broken, spare what is sound, and cost less than the walk they check?

    python benchmarks/checks.py --data faces.zip --cells cells.npz --cell-labels cells.csv --chest chest.zip

Broken and sound set-ups are those of ``tests/checked.py``; the sound ones with seeds that no threshold was
chosen with. The rest is measured on photographs of different people of the test split, walked along
``faces/smile``: identity (``faces/identity``, and dlib's network where the extra ``faces`` is installed,
both centred on the mean of validation photographs, dlib also raw), walking back, realism in the features of
``faces/gender``, detail swap, and a surrogate. Costs are ratios to the walk in the same run.

Identities trained without labels (``fit_identity``) learn from training images and are asked, on others,
about what they were never told: persons, patients, and, of cells, augmented copies.

Every part is kept in ``--work`` when it is done; the same call goes on after the last of them.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "faces"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from checked import broken_setups, failed, sound_setups, verdicts_of, walked_of
from train import read_faces

from explainer import load_classifier, load_generator
from explainer.checks import (
    decide,
    dlib_identity,
    fit_identity,
    load_identity,
    realism,
    run_checks,
    run_set_checks,
)
from explainer.checks.embedding import recoloured
from explainer.checks.ends import Ends
from explainer.checks.identity import Identity
from explainer.checks.surrogate import fit_surrogate, surrogate_curve
from explainer.checks.walked import Walked
from explainer.convnet import augmented
from explainer.errors import DependencyError
from explainer.metrics import auc, wilson_interval
from explainer.walks import GradientWalk, Scene
from explainer.walks.base import require_levels

LEVELS = np.linspace(0.05, 0.95, 10).tolist()
SEEDS = (400, 500, 600)
TAUGHT, ASKED = 1000, 600
DLIB_PEOPLE = 40
"""Its network takes a hundred times as long as ours."""


def share(hits: Any) -> dict[str, float | int]:
    """A rate with its Wilson interval."""
    values = np.asarray(hits)
    interval = wilson_interval(int(values.sum()), len(values))
    return {"rate": interval.estimate, "low": interval.low, "high": interval.high, "n": len(values)}


def quartiles(values: Any) -> list[float]:
    return [float(value) for value in np.nanquantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])]


def one_photograph_each(data: Path, split: str, people: int, *, each: int = 1) -> tuple[Tensor, np.ndarray]:
    """Photographs of different people, at most ``each`` of one, drawn with a seed, and who is on them."""
    images, labels = read_faces(data, split)
    labels = labels.iloc[np.random.default_rng(0).permutation(len(labels))]
    labels = labels[labels["person"].isin(labels["person"].drop_duplicates().head(people))]
    chosen = labels.groupby("person", sort=False).head(each)
    return images[torch.tensor(chosen.index.to_numpy())].float() / 255, chosen["person"].to_numpy()


def setups() -> dict[str, Any]:
    """Verdicts of broken and of sound set-ups, by set-up."""
    broken: dict[str, Any] = {}
    for (name, generator, classifier, images), reasons in broken_setups():
        found = verdicts_of(walked_of(generator, classifier, images))
        broken[name] = {
            "distrusted": sum(verdict.status == "distrust" for verdict, _ in found),
            "with the right reason": sum(bool(failed(checks) & reasons) for _, checks in found),
            "images": len(found),
        }
    sound: dict[str, list[str]] = {}
    for seed in SEEDS:
        for name, generator, classifier, images in sound_setups(seed):
            found = verdicts_of(walked_of(generator, classifier, images))
            sound[f"{name} ({seed})"] = [verdict.status for verdict, _ in found]
    return {
        "broken": broken,
        "broken set-ups missed": [
            name
            for name, each in broken.items()
            if min(each["distrusted"], each["with the right reason"]) < each["images"]
        ],
        "sound set-ups": len(sound),
        "sound set-ups distrusted": [name for name, status in sound.items() if "distrust" in status],
        "sound set-ups with limits": [name for name, status in sound.items() if "limits" in status],
    }


def cost(images: Tensor) -> dict[str, Any]:
    """Seconds of all default checks over seconds of the walk, single images and all at once.

    The walk is everything from the image to its codes: encoding, detail, steps, frames' levels. Delivering
    and scoring the frames once more, which both need, belongs to neither.
    """
    generator, smile = load_generator("faces"), load_classifier("faces/smile")
    identity = load_identity("faces")
    smile.check(images[:4])
    levels = require_levels(LEVELS)

    def walk(some: Tensor) -> float:
        started = time.perf_counter()
        scene = Scene(generator, smile, smile.target(None, some), some)
        GradientWalk()(scene, levels)
        return time.perf_counter() - started

    def checks(walked: list[Walked], *, of_set: bool, thorough: bool = False) -> float:
        started = time.perf_counter()
        found = run_checks(walked, identity=identity, thorough=thorough)
        if of_set:
            run_set_checks(walked, found)
        return time.perf_counter() - started

    ratios, thorough = [], []
    with smile.frozen():
        for image in images[:9]:
            seconds = walk(image[None])
            walked = walked_of(generator, smile, image[None])
            ratios.append(checks(walked, of_set=False) / seconds)
            thorough.append(checks(walked, of_set=False, thorough=True) / seconds)
        some = images[:64]
        walked = walked_of(generator, smile, some)
        # Side by side and more than once: a machine that others use is not equally fast all the time.
        pairs = [(walk(some), checks(walked, of_set=True)) for _ in range(3)]
        seconds = float(np.median([pair[0] for pair in pairs]))
        batch = float(np.median([pair[1] / pair[0] for pair in pairs]))
    return {
        "one image, default checks": quartiles(ratios[1:]),
        "one image, thorough": quartiles(thorough[1:]),
        f"{len(some)} images, default checks and those of the set": batch,
        "seconds of a walk in the batch": seconds / len(some),
    }


def told_apart(identity: Identity, images: Tensor, people: np.ndarray) -> dict[str, Any]:
    """How well an embedding tells people apart: all pairs, and every person weighted evenly."""
    features = torch.nn.functional.normalize(identity.features(images).double(), dim=1)
    cosines = (features @ features.T).numpy()
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    values = cosines[first, second]
    _, index, count = np.unique(people[first][same], return_inverse=True, return_counts=True)
    draw = np.random.default_rng(0).choice(same.sum(), 4000, p=(1 / count[index]) / len(count))
    genuine, strangers = values[same], values[~same]
    even = np.concatenate([genuine[draw], strangers])
    return {
        "auc, all pairs": auc(same.astype(int), values),
        "auc, people weighted evenly": auc(np.repeat([1, 0], [len(draw), len(strangers)]), even),
        "genuine above .5": float((genuine > 0.5).mean()),
        "strangers above .5": float((strangers > 0.5).mean()),
        "genuine median": float(np.median(genuine)),
        "strangers median": float(np.median(strangers)),
        "genuine pairs": len(genuine),
        "photographs": len(images),
        "people": len(np.unique(people)),
    }


def kept(identity: Identity, ends: Ends) -> dict[str, Any]:
    """Share of the walks whose both ends keep the person, and the quartiles of the lower cosine."""
    cosines = identity.cosines(ends.images, ends.frames).numpy()
    lowest = np.array([cosines[ends.image.numpy() == image].min() for image in np.unique(ends.image.numpy())])
    return {"kept > .5": share(lowest > 0.5), "lowest cosine": quartiles(lowest)}


def faces(data: Path, split: str, people: int, *, surrogate: bool) -> dict[str, Any]:
    """Everything that is measured on photographs."""
    generator, smile = load_generator("faces"), load_classifier("faces/smile")
    images, _ = one_photograph_each(data, split, people)
    pairs, who = one_photograph_each(data, split, DLIB_PEOPLE, each=3)
    reference, referred = one_photograph_each(data, "val", DLIB_PEOPLE, each=2)
    ours = load_identity("faces")
    every, everyone = read_faces(data, split)
    result: dict[str, Any] = {
        "ours": told_apart(ours, every.float() / 255, everyone["person"].to_numpy()),
        "ours, on the photographs of dlib": told_apart(ours, pairs, who),
    }
    print(result, flush=True)
    walked: list[Walked] = walked_of(generator, smile, images, LEVELS)
    ends = Ends.of(walked)
    result["ours"] |= kept(ours, ends)
    some = ends.pick(torch.nonzero(ends.image < DLIB_PEOPLE)[:, 0])
    result["ours, on the photographs of dlib"] |= kept(ours, some)
    try:
        dlib = dlib_identity(reference, referred)
    except DependencyError as error:
        result["dlib"] = str(error)
    else:
        result["dlib, centred"] = told_apart(dlib, pairs, who) | kept(dlib, some)
        raw = Identity(dlib.embedding, "dlib", size=dlib.size)
        result["dlib, raw"] = told_apart(raw, pairs, who)
    print(result, flush=True)
    found = run_checks(walked, identity=ours)
    tables = [{check.name: check for check in checks} for checks in found]
    ratio = np.array([table["walk back"].values["ratio"] for table in tables], dtype=float)
    error = np.array([table["walk back"].values["error"] for table in tables], dtype=float)
    change = np.array([table["walk back"].values["change of the walk"] for table in tables], dtype=float)
    carried = np.array(
        [table["walk back"].values["ratio with the original's detail"] for table in tables], dtype=float
    )
    far = ends.far()
    with torch.no_grad():
        bare = torch.cat([generator.decode(part) for part in far.codes.split(64)])
    oracle = load_classifier("faces/gender").model
    real = realism(far.images, far.frames, bare, oracle.features, name="faces/gender")  # type: ignore[attr-defined]
    of_set = run_set_checks(walked, found, realism=real)
    result |= {
        "walk back": {
            "ratio of L1, quartiles": quartiles(ratio),
            "ratio of means": float(error.mean() / change.mean()),
            "at most 1/3": share(ratio <= 1 / 3),
            "same codes, original's detail: ratio of means": float((carried * change).mean() / change.mean()),
            "same codes, original's detail: quartiles": quartiles(carried),
            "same codes, original's detail: at most 1/3": share(carried <= 1 / 3),
        },
        "statuses": of_set.statuses.to_dict("index"),
        "verdicts": {
            status: sum(decide(checks).status == status for checks in found)
            for status in ("trust", "limits", "distrust")
        },
        "set": {check.name: {"status": check.status, **check.values} for check in of_set.checks},
        "closeness": dict(of_set.closeness),
        "realism": {
            "features": "faces/gender",
            "images": real.images,
            "squared Frechet distance, median of halvings": real.frechet,
            "squared kernel distance, first halving": {
                name: [each.estimate, each.low, each.high] for name, each in real.kernel.items()
            },
        },
    }
    print({key: result[key] for key in ("walk back", "verdicts", "set", "realism")}, flush=True)
    if surrogate:
        started = time.perf_counter()
        taught = fit_surrogate(walked[0].scene, samples=1500, steps=600)
        curve, check = surrogate_curve(walked, taught, walked[0].thresholds)
        result["surrogate"] = {
            "faithful": taught.faithful,
            "status": check.status,
            "agrees": {f"{level:.2f}": [each.estimate, each.low, each.high] for level, each in curve},
            "seconds": time.perf_counter() - started,
        }
        print(result["surrogate"], flush=True)
    return result


def without_labels(name: str, training: Tensor, images: Tensor, individuals: Any) -> dict[str, Any]:
    """An identity trained on images without labels, asked about individuals; None for augmented copies."""
    started = time.perf_counter()
    identity = fit_identity(training[:TAUGHT], seed=0)
    result: dict[str, Any] = {
        "training images": len(training[:TAUGHT]), "seconds": time.perf_counter() - started,
        "independent pairs of strangers": identity.independent[1] if identity.independent else 0,
    }  # fmt: skip
    if individuals is not None:
        told = told_apart(identity, images, np.asarray(individuals))
        result |= {"individuals": name} | {key: told[key] for key in (
            "auc, all pairs", "auc, people weighted evenly", "genuine above .5", "strangers above .5",
            "people",
        )}  # fmt: skip
        return result
    random = torch.Generator().manual_seed(1)
    copies = identity.features(recoloured(augmented(images, random, flip=False), random))
    cosines = functional.normalize(identity.features(images)) @ functional.normalize(copies).T
    genuine, strangers = cosines.diagonal(), cosines[~torch.eye(len(images), dtype=torch.bool)]
    labels = np.repeat([1, 0], [len(genuine), len(strangers)])
    return result | {
        "individuals": name, "auc, all pairs": auc(labels, torch.cat([genuine, strangers]).numpy()),
        "genuine above .5": float((genuine > 0.5).double().mean()),
        "strangers above .5": float((strangers > 0.5).double().mean()), "people": len(images),
    }  # fmt: skip


def unlabelled(options: argparse.Namespace) -> dict[str, Any]:
    """``fit_identity`` on faces, X-rays and cells."""
    training, _ = read_faces(options.data, "train")
    images, rows = read_faces(options.data, options.split)
    chosen = rows.groupby("person", sort=False).head(3).index.to_numpy()[:ASKED]
    asked = images[torch.tensor(chosen)].float() / 255
    result = {"faces": without_labels("persons", _shuffled(training), asked, rows.loc[chosen, "person"])}
    print(result, flush=True)
    if options.chest:
        read_chest = _of_model("chest").read_chest
        training, _ = read_chest(options.chest, "train")
        images, rows = read_chest(options.chest, options.split)
        chosen = rows.groupby("patient", sort=False).head(3).index.to_numpy()[:ASKED]
        result["chest X-rays"] = without_labels(
            "patients", _shuffled(training), images[torch.tensor(chosen)], rows.loc[chosen, "patient"]
        )
        print(result, flush=True)
    if options.cells:
        read_cells = _of_model("cells").read_cells
        training, _ = read_cells(options.cells, options.cell_labels, "train")
        images, _ = read_cells(options.cells, options.cell_labels, options.split)
        units = load_generator("cells").normalise
        result["cells"] = without_labels(
            "augmented copies",
            units(_shuffled(training)).clamp(0, 1),
            units(images[:ASKED]).clamp(0, 1),
            None,
        )
    return result


def _of_model(name: str) -> Any:
    place = Path(__file__).parents[1] / "models" / name / "train.py"
    spec = importlib.util.spec_from_file_location(f"train_{name}", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shuffled(images: Tensor) -> Tensor:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:TAUGHT]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the zip of faces")
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument(
        "--split", default="test", choices=["val", "test"], help="val while tuning, test once"
    )
    parser.add_argument("--no-surrogate", action="store_true", help="leave the minutes of distilling out")
    parser.add_argument("--cells", type=Path, help="cells.npz, for identities without labels")
    parser.add_argument("--cell-labels", type=Path, help="cells.csv")
    parser.add_argument("--chest", type=Path, help="the zip of X-rays, for identities without labels")
    parser.add_argument(
        "--work", type=Path, default=Path("benchmarks/unfinished"), help="parts that are done"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"split": options.split, "people": options.people, "seed": 0}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "faces": lambda: faces(
            options.data, options.split, options.people, surrogate=not options.no_surrogate
        ),
        "cost": lambda: {
            "cost, in units of the walk": cost(one_photograph_each(options.data, options.split, 64)[0])
        },
        "set-ups": lambda: {"set-ups": setups()},
        "unlabelled": lambda: {"identities trained without labels": unlabelled(options)},
    }
    options.work.mkdir(parents=True, exist_ok=True)
    for name, make in parts.items():
        kept = options.work / f"checks-{options.split}-{options.people}-{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(make()), encoding="utf-8")
        result |= json.loads(kept.read_text(encoding="utf-8"))
        print(name, flush=True)
    if options.split == "test":
        given = ["--data <zip>"]
        given += ["--cells <npz> --cell-labels <csv>"] if options.cells else []
        given += ["--chest <zip>"] if options.chest else []
        given += ["--no-surrogate"] if options.no_surrogate else []
        print(record.write("checks", result, " ".join(given)))


if __name__ == "__main__":
    main()
