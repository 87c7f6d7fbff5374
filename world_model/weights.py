"""Released state dicts: prefixes per network, keys to ignore, errors for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from manifests.errors import EgodojoError

PREFIXES = ("net_ema.", "net.", "")
"""Prefixes tried in turn; the averaged weights come first."""


def network_state(
    state: Mapping[str, Tensor],
    *,
    prefix: str | None = None,
    marker: str = "x_embedder.proj.1.weight",
) -> dict[str, Tensor]:
    """The tensors of one network of a training checkpoint or exported file, without prefix.

    Keys that end in `_extra_state` (left by a fused norm library) and rotary buffers are left out.

    Args:
        state: State dict as read from a file.
        prefix: `net.`, `net_ema.`, `net_fake_score.` or an empty string; null takes the first of
            `PREFIXES` under which `marker` is found.
        marker: A tensor that every such network has.

    Raises:
        EgodojoError: No network is found under the prefix.
    """
    candidates = PREFIXES if prefix is None else (prefix,)
    found = next((p for p in candidates if p + marker in state), None)
    if found is None:
        names = ", ".join(sorted(state)[:3])
        raise EgodojoError(
            f"These weights hold no network under {' or '.join(map(repr, candidates))}: "
            f"{marker} is missing; the first names are {names}."
        )
    return {
        name.removeprefix(found): value
        for name, value in state.items()
        if name.startswith(found)
        and not name.endswith("_extra_state")
        and not name.removeprefix(found).startswith("pos_embedder.")
    }


def load_network(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors by name; rotary buffers and counters may be missing, nothing else.

    Raises:
        EgodojoError: A tensor is missing, unknown or of another shape.
    """
    own = module.state_dict()
    optional = {name for name in own if name.startswith(("pos_embedder.", "accum_"))}
    problems = [f"{name} is missing" for name in own if name not in state and name not in optional]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EgodojoError(f"These weights do not fit the network: {problems[0]}{more}.")
    module.load_state_dict(dict(state), strict=False)
