"""`make interop`: lerobot writes, egodojo curates, decides and exports, lerobot reads.

Three episodes of 40, 60 and 30 frames are cut into clips of a second; what is left of the first is
too short, and the third is dropped by a rule. The other half, `lerobot_side.py`, runs in lerobot's
own environment, whose pins clash with ours.
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
description: Three joints, and where the first one is.
action_names: [shoulder, elbow, gripper, observation.state.shoulder]
action_units: [rad, rad, rad, rad]
"""
RECIPE = """name: no_drawers
about: Leaves one task out.
keep:
  drawer:
    keep_when: text <> 'open the drawer'
"""
SETS = ("encode.width=160", "encode.height=120", "clip_len_s=1")
KEPT = [*range(30), *range(40, 100)]
"""Numbers of the frames that come back."""


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
    body, recipe = folder / "toy_arm.yaml", folder / "no_drawers.yaml"
    body.write_text(BODY)
    recipe.write_text(RECIPE)
    sets = [word for setting in SETS for word in ("--set", setting)]
    egodojo("curate", made, "--out", data, "--recipe", "permissive", "--embodiment", body,
            "--inline", *sets)  # fmt: skip
    egodojo("decide", data, "--recipe", recipe)
    egodojo("manifest", "validate", data)
    egodojo("manifest", "export", data, "--format", "lerobot-v3", "--out", out)
    found = lerobot(python, "check", out, folder)
    rows = np.asarray(KEPT)[:, None] + np.arange(3) / 4
    off = np.arange(160) - np.arange(count)[:, None]
    bars = np.where((off >= 0) & (off < 16), 220, 40) / 255
    seen = np.asarray(found["column_means"])
    nearest = np.abs(seen[:, None] - bars[None]).mean(axis=2).argmin(axis=1)
    return {
        "lerobot": found["lerobot"],
        "num_frames": found["num_frames"],
        "frames_equal": found["episodes"] == [0] * 30 + [1] * 30 + [2] * 30,
        "actions_equal": bool(np.array_equal(np.asarray(found["actions"]), rows)),
        "states_equal": bool(np.array_equal(np.asarray(found["states"]), -rows[:, :1])),
        "tasks_equal": found["tasks"] == ["pick up the cup"] * 30 + ["fold the towel"] * 60,
        "times_equal": bool(
            np.allclose(found["timestamps"], np.asarray([*range(30)] * 3) / 30, atol=1e-6)
        ),
        "statistics_equal": bool(np.allclose(found["stats"]["mean"], rows.mean(axis=0))),
        "pictures_in_order": nearest.tolist() == KEPT,
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
