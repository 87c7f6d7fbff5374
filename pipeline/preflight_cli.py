"""`egodojo doctor`: is this machine ready, and if not, what is the next step?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from manifests.cli_support import emit, output_options
from manifests.errors import EXIT_FAILED

if TYPE_CHECKING:
    from .preflight import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(epilog="Example: egodojo doctor --json")
@output_options
def doctor(as_json: bool, quiet: bool) -> None:
    """Check versions, codecs, disk, memory, GPU, Ray and name clashes.

    Every line is ok, warn (works, with a limit) or fail (something cannot work); the exit code is 1
    when a line fails.
    """
    from dataclasses import asdict

    from .preflight import run_checks

    checks = run_checks()
    is_ready = all(check.status != "fail" for check in checks)
    data = {"ready": is_ready, "checks": [asdict(check) for check in checks]}
    emit(data, as_json=as_json, quiet=quiet, text=lambda: _report(checks, is_ready))
    if not is_ready:
        click.get_current_context().exit(EXIT_FAILED)


def _report(checks: list[Check], is_ready: bool) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        status = click.style(f"{check.status:<5}", fg=_COLOURS[check.status], bold=True)
        lines.append(f"{status} {check.name:<{width}}  {check.detail}")
        if check.next_step:
            lines.append(f"{'':{width + 8}}-> {check.next_step}")
    counts = {word: sum(check.status == word for check in checks) for word in ("warn", "fail")}
    verdict = "Ready" if is_ready else "Not ready"
    lines.append(f"{verdict}: {counts['fail']} broken, {counts['warn']} with a limit.")
    return "\n".join(lines)
