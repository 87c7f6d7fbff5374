"""`make interop`: lerobot writes, egodojo curates and exports, lerobot reads: frames, rows, tasks.

The other half, `lerobot_side.py`, runs in lerobot's own environment, whose pins clash with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SIDE = Path(__file__).parent / "lerobot_side.py"
BODY = """name: toy_arm
description: Three joints.
action_names: [shoulder, elbow, gripper]
action_units: [rad, rad, rad]
"""
SMALL = ("--set", "encode.width=160", "--set", "encode.height=120")


def lerobot(python: str, action: str, root: Path, folder: Path) -> dict[str, Any]:
    """Run one action of the other half."""
    out = folder / f"{action}.json"
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env = {**own, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "huggingface")}
    subprocess.run([python, str(SIDE), action, str(root), "--out", str(out)], check=True, env=env)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def egodojo(*words: object) -> dict[str, Any]:
    """Run one of our commands and read its JSON."""
    command = [sys.executable, "-m", "manifests.cli", *map(str, words), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def round_trip(python: str, folder: Path) -> dict[str, Any]:
    """The whole way round; a report with one entry per thing compared."""
    made, data, out = folder / "made", folder / "data", folder / "curated"
    count = lerobot(python, "make", made, folder)["num_frames"]
    body = folder / "toy_arm.yaml"
    body.write_text(BODY)
    egodojo("curate", made, "--out", data, "--recipe", "permissive", "--embodiment", body,
            "--inline", *SMALL)  # fmt: skip
    egodojo("manifest", "validate", data)
    egodojo("manifest", "export", data, "--format", "lerobot-v3", "--out", out)
    found = lerobot(python, "check", out, folder)
    rows = np.arange(count)[:, None] + np.arange(3) / 4
    off = np.arange(160) - 2 * np.arange(count)[:, None]
    bars = np.where((off >= 0) & (off < 16), 220, 40) / 255
    seen = np.asarray(found["column_means"])
    texts = ["pick up the cup"] * 40 + ["fold the towel"] * 30
    times = [i / 30 for i in range(40)] + [i / 30 for i in range(30)]
    return {
        "lerobot": found["lerobot"],
        "num_frames": found["num_frames"],
        "frames_equal": found["num_frames"] == count and found["num_episodes"] == 2,
        "actions_equal": bool(np.array_equal(np.asarray(found["actions"]), rows)),
        "tasks_equal": found["tasks"] == texts,
        "times_equal": bool(np.allclose(found["timestamps"], times, atol=1e-6)),
        "statistics_equal": bool(np.allclose(found["stats"]["mean"], rows.mean(axis=0))),
        "pictures_in_order": bool(
            (np.abs(seen[:, None] - bars[None]).mean(axis=2).argmin(axis=1) == rows[:, 0]).all()
        ),
    }


def main() -> None:
    """Run the round trip; exit 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="the interpreter of lerobot's environment")
    parser.add_argument("--report", type=Path, help="where the JSON goes, besides stdout")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="egodojo-interop-") as folder:
        report = round_trip(asked.python, Path(folder))
    text = json.dumps(report, indent=2)
    print(text)
    if asked.report:
        asked.report.write_text(text + "\n")
    sys.exit(
        0 if all(value for key, value in report.items() if key.endswith(("equal", "order"))) else 1
    )


if __name__ == "__main__":
    main()
