#!/usr/bin/env bash
# Formats our C++ with the pinned clang-format. --check: only tells which files are not formatted.
# --tidy [FILE...]: clang-tidy over the sources (after a release build; default: every .cpp file).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/setup.sh
if [[ ! -x .venv/bin/clang-format || ! -x .venv/bin/clang-tidy ]]; then
  mapfile -t tools < <(grep '^clang' requirements-dev.txt)
  echo "format: installing into .venv: ${tools[*]}" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input "${tools[@]}"
fi

case ${1-} in
  '') git ls-files -z '*.h' '*.hpp' '*.cpp' '*.cu' | xargs -0 .venv/bin/clang-format -i ;;
  --check) git ls-files -z '*.h' '*.hpp' '*.cpp' '*.cu' | xargs -0 .venv/bin/clang-format --dry-run -Werror ;;
  --tidy)
    shift
    [[ -f build/compile_commands.json ]] || { echo "format: build first (scripts/test.sh)" >&2; exit 2; }
    (($#)) || mapfile -t -d '' files < <(git ls-files -z 'src/*.cpp' 'kernels/*.cpp')
    # The compile commands are g++'s: its precompiled header and flags mean nothing to clang.
    printf '%s\0' "${files[@]:-$@}" | xargs -0 -n 1 -P "$jobs" .venv/bin/clang-tidy -p build --quiet \
      --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument
    ;;
  *) echo "usage: scripts/format.sh [--check | --tidy [FILE...]]" >&2; exit 2 ;;
esac
