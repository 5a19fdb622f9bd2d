#!/usr/bin/env bash
# Kills a random rank at a random moment, many times, stops one some times, and resumes each run to its end:
#   scripts/ranks_full.sh [--kills N] [--stops N] [--torchrun N] [--ranks N] [--seed N]    (100 kills and 20 stops of 4
#   ranks: about an hour)
# Ends with 0 where no committed step was lost, no process was left, all survivors ended in time with 75 and named the
# lost rank, and each resumed run has the bytes of one left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python
exec "$python" tests/faults/ranks_kills.py build/bin/unigrpo tests/data "$@"
