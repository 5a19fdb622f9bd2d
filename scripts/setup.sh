#!/usr/bin/env bash
# Installs what build and tests need, where it is missing: Debian packages, and under .venv LibTorch (the
# torch wheel), CMake and the Python packages of some tests. Says what it installs; a second run does nothing.
#
#   --optional   also what is used where it is there: Cbc (tighter bounds of `unigrpo plan` for sequences)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

# ---- Debian packages
packages=(git g++ ninja-build ccache pkg-config python3 python3-venv
          libopencv-dev libcurl4-openssl-dev openssl libssl-dev libxxhash-dev libsentencepiece-dev
          libpcre2-dev libutf8proc-dev libtomlplusplus-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libgtest-dev
          libavformat-dev libavcodec-dev libavutil-dev libswresample-dev libswscale-dev ffmpeg)  # ffmpeg: for tests alone
[[ ${1-} != --optional ]] || packages+=(coinor-libcbc-dev)

command -v dpkg-query >/dev/null ||
  fail "this is no Debian or Ubuntu system; install by hand what these packages hold: ${packages[*]}"
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
done
if ((${#missing[@]})); then
  as_root=()
  if (($(id -u) != 0)); then
    command -v sudo >/dev/null ||
      fail "needs root for: apt-get install ${missing[*]} (run that as root, then this script again)"
    as_root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# ---- .venv
# The torch wheel is built for CUDA 13. With that toolkit here its libraries serve; without one the wheels
# of those libraries come along (2 GB more), and the build leaves out the CUDA kernels.
toolkit=${CUDA_HOME:-/usr/local/cuda}
libraries=wheels
if [[ -x $toolkit/bin/nvcc ]] && "$toolkit/bin/nvcc" --version | grep -q 'release 13\.'; then
  libraries=toolkit
fi
wanted=$({ cat requirements.txt requirements-dev.txt; echo "$libraries"; } | sha256sum | cut -d' ' -f1)
stamp=.venv/setup-done
if [[ -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  exit 0
fi

if [[ ! -x .venv/bin/python ]]; then
  say "making .venv"
  python3 -m venv .venv
fi
# pip's remarks (it misses the CUDA wheels that a toolkit stands in for) are shown only when it fails.
install() {
  local remarks
  remarks=$(.venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet --progress-bar off \
    "$@" 2>&1) || fail "pip failed:"$'\n'"$remarks"
}
pinned() { grep -E "^($1)==" requirements.txt; }

if [[ $libraries == toolkit ]]; then
  mapfile -t wheels < <(pinned 'torch|nvidia-cusparselt-cu13|nvidia-nvshmem-cu13|nvidia-cufile')
  say "installing into .venv: ${wheels[*]} (the other CUDA libraries are those of $toolkit)"
  install --no-deps "${wheels[@]}"
  # A toolkit without cuDNN or NCCL beside it: then the wheels after all.
  absent=$(ldd .venv/lib/python3*/site-packages/torch/lib/libtorch_cuda.so | awk '/not found/ {print $1}')
  if [[ -n $absent ]]; then
    say "$toolkit lacks" $absent
    libraries=wheels
  fi
fi
if [[ $libraries == wheels ]]; then
  say "installing into .venv: torch and its CUDA libraries (requirements.txt, about 3 GB)"
  install -r requirements.txt
fi
mapfile -t tools < <(sed -E 's/ *#.*//; /^$/d; /^clang/d' requirements-dev.txt)
say "installing into .venv: ${tools[*]}"
install "${tools[@]}"
echo "$wanted" >"$stamp"
say "done"
