#!/usr/bin/env bash
# What `make setup` runs: system packages, then .venv made from $PYTHON (python3 by default).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
log=$PWD/build/setup.log
mkdir -p build
: >"$log"

say() { printf 'setup: %s\n' "$*"; }

stop() { # STEP REMEDY...
  {
    say "step '$1' failed"
    shift
    printf '  %s\n' "$@"
    printf '  The log is %s' "$log"
    if [ -s "$log" ]; then
      printf '; it ends with:\n'
      tail -n 8 "$log" | sed 's/^/  | /'
    else
      printf '\n'
    fi
  } >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian's names of what is not there. FFCV asks pkg-config for its libraries, includes Python.h.
missing_packages() {
  command -v c++ >/dev/null || echo g++
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists opencv4 || echo libopencv-dev
  pkg-config --exists libturbojpeg || echo libturbojpeg0-dev
  pkg-config --exists libjpeg || echo libjpeg-dev # for our own decoder
  "$python" -c 'import ensurepip, venv' || echo "python$version-venv"
  "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ||
    echo "python$version-dev"
} 2>>"$log"

# A machine that has just booted may still be upgrading itself: wait for that rather than fail.
install_packages() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" >>"$log" 2>&1
}

version=$("$python" -c 'import sys
print("%d.%d" % sys.version_info[:2])
sys.exit(sys.version_info < (3, 10))' 2>>"$log") ||
  stop Python \
    "The project needs Python 3.10 or newer; $python is ${version:-not a Python that runs}." \
    "Name another one: make setup PYTHON=python3.12"
say "Python $version"

step="system packages"
mapfile -t missing < <(missing_packages)
if command -v apt-get >/dev/null; then
  data=dataset-fashion-mnist # the images of the quickstart, which torchvision can also download
  dpkg-query --status "$data" >/dev/null 2>&1 && data=
  if [ -n "${missing[*]}$data" ]; then
    say "$step: installing" "${missing[@]}" ${data:+"$data"}
    # One broken source must not stop the others: what counts is whether the packages go in.
    as_root apt-get update >>"$log" 2>&1 || say "$step: apt-get update failed, going on without"
  fi
  if [ -n "${missing[*]}" ]; then
    install_packages "${missing[@]}" || stop "$step" \
      "Have an administrator run this, then run 'make setup' again:" \
      "  apt-get update && apt-get install ${missing[*]}"
  fi
  if [ -n "$data" ] && ! install_packages "$data"; then
    say "$step: warning: no $data; Fashion-MNIST will be downloaded when it is needed"
  fi
elif [ -n "${missing[*]}" ]; then
  stop "$step" \
    "There is no apt-get here, and FFCV cannot be compiled without: ${missing[*]}" \
    "Install them under the names of your system, then run 'make setup' again:" \
    "  Fedora       gcc-c++ pkgconf-pkg-config opencv-devel turbojpeg-devel python3-devel" \
    "  Arch         gcc pkgconf opencv libjpeg-turbo" \
    "  conda-forge  cxx-compiler pkg-config libopencv libjpeg-turbo" \
    "Or do without FFCV: 'pip install .' in an environment of yours, and ImageFolderDataModule."
fi
mapfile -t missing < <(missing_packages)
[ -z "${missing[*]}" ] || stop "$step" \
  "These are installed, but not found: ${missing[*]}" \
  "Does a pkg-config or a Python of conda come first in PATH?"
say "$step: all there"

if .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "Python packages: bringing .venv up to date"
else
  say "Python packages: filling a new .venv; some 3 GB to download, minutes to wait"
  say "  (tail -f $log follows it)"
  "$python" -m venv --clear .venv >>"$log" 2>&1 || stop "virtual environment" \
    "'$python -m venv .venv' does not work: repair that Python, or name another one:" \
    "  make setup PYTHON=python3.12"
fi
.venv/bin/python -m pip --disable-pip-version-check install \
  --constraint constraints.txt --editable ".[ffcv,detection,export,dev]" >>"$log" 2>&1 || stop "Python packages" \
  "Is the package index within reach, and are 10 GB of disk free? Then run 'make setup' again."
