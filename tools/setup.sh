#!/usr/bin/env bash
# Makes .venv with everything egodojo needs, by pip alone: no root, no system packages.
# Safe to call again: it does nothing while pyproject.toml is unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'egodojo setup: %s\n' "$1" >&2; exit 1; }

stamp=.venv/.egodojo-setup
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=
for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || die "no Python 3.11 or newer was found; install one or name it with PYTHON=/path/to/python make setup."
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  die "$("$python" --version) has no venv module; install it (Debian: python3-venv) or name another with PYTHON=/path/to/python make setup."

# The floor can be lowered where torch is already cached or mounted.
need_gb=${EGODOJO_SETUP_DISK_GB:-15}
free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
if [ ! -f "$stamp" ] && [ "$free_kb" -lt $((need_gb * 1024 * 1024)) ]; then
  die "only $((free_kb / 1024 / 1024)) GB are free here and $need_gb GB are needed (torch and its CUDA libraries take most of it); free some space or clone to a larger disk."
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir --retries 0 --timeout 20 -d "$probe" click >/dev/null 2>"$probe/log" ||
  die "the package index cannot be reached (pip says: $(grep -m1 -iE 'error|refused|timed|resolution' "$probe/log" | cut -c1-160)); check the network, or set PIP_INDEX_URL to a mirror."

echo "egodojo setup: installing into .venv with $("$python" --version) (about 6 GB, a few minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 3 -e '.[dev]' ||
  die "pip could not install the dependencies; its message stands above, and rerunning make setup goes on from there."
echo "$wanted" >"$stamp"
echo "egodojo setup: done; try  .venv/bin/egodojo doctor"
