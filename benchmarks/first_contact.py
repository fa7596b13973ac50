"""What the first contact costs: imports against torch's, sizes on disk, time from a clone to the page.

    python benchmarks/first_contact.py [--clone REPOSITORY]

With ``--clone`` the repository is cloned into an empty folder and ``make demo`` is run there, which makes an
environment and installs every dependency; how long that takes depends on where packages come from, so its
parts are given apart: what is ours is the last one. Seconds of the processor, of all its threads, are beside
those of the clock, and the load average before it, because a machine that does other things takes longer.
Imports are taken in new interpreters, alternating, after one of each that is not counted; the ratio is of
medians.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import record

ROUNDS = 7
STATEMENTS = {
    "torch": "import torch",
    "explainer": "import explainer",
    "explain": "from explainer import explain",
    "help": "from explainer.cli import app",
}
REPOSITORY = Path(__file__).resolve().parents[1]


def seconds_of(statement: str) -> float:
    """Wall-clock seconds of a statement in a new interpreter, without the interpreter's own start."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def imports() -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for round_ in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            taken = seconds_of(statement)
            if round_:
                times[name].append(taken)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "import explainer / import torch": median["explainer"] / median["torch"],
        "from explainer import explain / import torch": median["explain"] / median["torch"],
        "the command's --help / import torch": median["help"] / median["torch"],
        "import torch, seconds (median)": median["torch"],
        "rounds": ROUNDS,
    }


def megabytes(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def required() -> set[str]:
    """Names of all distributions that an installation without extras brings."""
    found: set[str] = set()
    waiting = ["progressive-explainer"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting += [re.split(r"[ ;<>=!~(\[]", need)[0] for need in needs if "extra ==" not in need]
    return found - {"progressive-explainer"}


def sizes() -> dict[str, float]:
    ours = [path for path in (REPOSITORY / "explainer").rglob("*.py") if "_models" not in path.parts]
    ours += list((REPOSITORY / "explainer" / "report" / "templates").iterdir())
    zoo = list((REPOSITORY / "models").rglob("*.safetensors"))
    installed = {
        name: megabytes([Path(str(file.locate())) for file in metadata.files(name) or []])
        for name in required()
    }
    return {
        "code, MB": megabytes(ours),
        "zoo, MB": megabytes(zoo),
        "dependencies, MB": sum(installed.values()),
        "of these torch, MB": installed["torch"],
        "number of dependencies": len(installed),
    }


def _processor() -> float:
    """Seconds of the processor that ended processes of this one have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def first_page(repository: str) -> dict[str, float]:
    """Seconds from nothing to the page, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "clone"
        steps = {
            "clone, seconds": ["git", "clone", "--quiet", repository, str(place)],
            "environment and dependencies, seconds": ["make", "-C", str(place), "install"],
            "demo, seconds": ["make", "-C", str(place), "demo"],
        }
        load = os.getloadavg()[0]
        taken, worked = {}, {}
        for name, command in steps.items():
            began, before = time.perf_counter(), _processor()
            subprocess.run(command, check=True, stdout=sys.stderr)
            taken[name] = time.perf_counter() - began
            worked[f"{name} of the processor"] = _processor() - before
        page = place / "demo" / "explanation.html"
        return {
            **taken,
            **worked,
            "load average before (1 minute)": load,
            "clone to page, minutes": sum(taken.values()) / 60,
            "page, MB": page.stat().st_size / 1e6,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", metavar="REPOSITORY", help="also time the way from a clone to the page")
    arguments = parser.parse_args()
    result = {"imports": imports(), "sizes": sizes()}
    if arguments.clone:
        result["from a clone to the page"] = first_page(arguments.clone)
    said = "--clone REPOSITORY" if arguments.clone else ""
    print(record.write("first_contact", result, arguments=said))


if __name__ == "__main__":
    main()
