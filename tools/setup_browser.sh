#!/usr/bin/env bash
# Installs Chromium for the tests that look at the preview page; nothing else needs it.
set -euo pipefail

die() { printf 'egodojo setup-browser: %s\n' "$1" >&2; exit 1; }

for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
command -v apt-get >/dev/null ||
  die "there is no apt-get here; install Chromium or Chrome in the way of this system, so that 'chromium' is on the PATH."
as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "installing Chromium needs root; run this as root, or ask for the package 'chromium'."
  as_root=sudo
fi
$as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
  die "apt-get could not install the package 'chromium'; its message stands above."
