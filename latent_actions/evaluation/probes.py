"""Probes: how well true actions can be read off latents, fitted on some bodies, scored on another.

Shapes: R rows, A latent width, D action width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float64]
PARTS = {"translation": slice(0, 3), "rotation": slice(3, 6), "aperture": slice(6, 7)}
RIDGE = 1e-2
MLP_STEPS, MLP_BATCH, MLP_WIDTH = 400, 256, 128


def probe(
    latents_RA: Floats, actions_RD: Floats, bodies: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """R2 of a linear and an MLP probe, leaving one body out at a time.

    Args:
        latents_RA: One latent a row.
        actions_RD: Its true action; seven numbers are named translation, rotation and aperture.
        bodies: The body of each row.
        seed: Of the MLP's weights and batches.

    Returns:
        Per probe: `r2` by part of the action, mean over held-out bodies, and `by_body`; with one
        body alone the later fifth of its rows is held out.
    """
    names = np.asarray(bodies)
    parts = PARTS if actions_RD.shape[1] == 7 else {"action": slice(None)}
    folds: list[tuple[str, NDArray[np.bool_]]] = [(b, names == b) for b in np.unique(names)]
    if len(folds) == 1:
        folds = [(folds[0][0], np.arange(len(names)) >= 0.8 * len(names))]
    found: dict[str, Any] = {}
    for kind, fit in (("linear", _linear), ("mlp", _mlp)):
        by_body: dict[str, dict[str, float]] = {}
        for body, is_held in folds:
            mean, spread = latents_RA[~is_held].mean(axis=0), latents_RA[~is_held].std(axis=0)
            inputs = (latents_RA - mean) / np.maximum(spread, 1e-9)
            centre, scale = actions_RD[~is_held].mean(axis=0), actions_RD[~is_held].std(axis=0)
            targets = (actions_RD - centre) / np.maximum(scale, 1e-9)
            guess = fit(inputs[~is_held], targets[~is_held], inputs[is_held], seed)
            by_body[body] = {
                part: r_squared(guess[:, columns], targets[is_held][:, columns])
                for part, columns in parts.items()
            }
        mean_r2 = {part: float(np.mean([r[part] for r in by_body.values()])) for part in parts}
        found[kind] = {"r2": mean_r2, "by_body": by_body}
    return found


def r_squared(guess: Floats, truth: Floats) -> float:
    """Share of the variance explained, mean over the columns that vary; 1 is perfect."""
    spread = truth.var(axis=0)
    error = np.square(guess - truth).mean(axis=0)
    varies = spread > 1e-9
    if not varies.any():
        return 0.0
    return float((1 - error[varies] / spread[varies]).mean())


def _linear(inputs: Floats, targets: Floats, wanted: Floats, seed: int) -> Floats:
    padded = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    normal = padded.T @ padded + RIDGE * len(inputs) * np.eye(padded.shape[1])
    weights = np.linalg.solve(normal, padded.T @ targets)
    result: Floats = np.concatenate([wanted, np.ones((len(wanted), 1))], axis=1) @ weights
    return result


def _mlp(inputs: Floats, targets: Floats, wanted: Floats, seed: int) -> Floats:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(inputs.shape[1], MLP_WIDTH),
            nn.GELU(),
            nn.Linear(MLP_WIDTH, MLP_WIDTH),
            nn.GELU(),
            nn.Linear(MLP_WIDTH, targets.shape[1]),
        )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    x, y = torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
    for _ in range(MLP_STEPS):
        picks = torch.randint(len(x), (min(MLP_BATCH, len(x)),), generator=generator)
        loss = (net(x[picks]) - y[picks]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        result: Floats = net(torch.from_numpy(wanted).float()).double().numpy()
    return result
