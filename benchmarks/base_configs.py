"""Memory, speed and GPU-hours of training configs, by a few steps of each recipe.

    python benchmarks/base_configs.py --data DATASET [--preset base] [--steps 30] [--tasks heads]

Starts every recipe as a user would, on one device, with its own batch size, and reads what it
logged: GPU-hours are all steps of the config at the speed of the last lines. Parts that other runs
leave behind (an autoencoder, a retriever) are the reference weights, unless --more names others;
what does not fit the device is a row that says so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
TASKS = ("heads", "retriever", "captioner", "autoencoder", "generator")
NEEDS = {"generator": ["--init.autoencoder", "weights/generator/autoencoder"]}


def measure(task: str, preset: str, data: str, steps: int, extra: list[str]) -> dict[str, Any]:
    """Train a few steps.

    Args:
        task: Of `TASKS`.
        preset: Name of its config.
        data: Dataset with splits train and val.
        steps: Of training; the first half is a warm-up.
        extra: More options of the recipe.

    Returns:
        The row: parameters, batch, samples a second, memory [GB, GPU only], hours for all steps.
    """
    config = yaml.safe_load((ROOT / "configs" / task / f"{preset}.yaml").read_text())
    row: dict[str, Any] = {
        "task": task,
        "batch": config["data"]["batch_size"],
        "steps": config["loop"]["steps"],
    }
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, f"training/train_{task}.py"]
        command += ["--config", f"configs/{task}/{preset}.yaml", "--data.path", data]
        command += ["--run.root", root, "--loop.steps", str(steps)]
        command += ["--loop.log_every", str(max(1, steps // 2)), "--loop.warmup_steps", "1"]
        command += ["--loop.evaluate_every", "0", *NEEDS.get(task, []), *extra]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        run = Path(root) / task / config["run"]["name"]
        if done.returncode != 0:
            return row | {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        row["parameters"] = _parameters(run / "model")
    speed = last["samples_per_s"]
    hours = row["steps"] * row["batch"] / speed / 3600
    row |= {"samples_per_s": round(speed, 1), "memory_gb": last.get("memory_gb")}
    return row | {"data_wait": round(last["data_wait"], 3), "hours": round(hours, 2)}


def _parameters(model: Path) -> int:
    """Of everything in the saved model, frozen parts included."""
    total = 0
    for path in model.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def main() -> int:
    """Measure and print one row a config."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="dataset of heph-vl dataset")
    parser.add_argument("--preset", default="base")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--more", default="", help='options for every recipe, "--a.b 1 --c.d 2"')
    options = parser.parse_args()
    failed = 0
    for task in options.tasks:
        row = measure(
            task,
            options.preset,
            str(Path(options.data).resolve()),
            options.steps,
            options.more.split(),
        )
        failed += "error" in row
        print(json.dumps(row), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
