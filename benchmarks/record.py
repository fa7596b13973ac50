"""What every benchmark records beside its numbers: command, versions, shape of the machine."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def write(name: str, result: dict[str, Any], arguments: str = "--data <zip>") -> Path:
    """Write ``results/<name>.json``: the numbers, and where they come from."""
    record = {
        "benchmark": name,
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {arguments}",
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "architecture": platform.machine(),
            "accelerator": "cuda" if torch.cuda.is_available() else "none",
        },
        "versions": {name: version(name) for name in ("torch", "numpy", "progressive-explainer")},
        **result,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path
