#!/usr/bin/env bash
# What takes too long for a test of runs on several ranks.
#   scripts/ranks_full.sh [--kills N] [--stops N] [--torchrun N] [--ranks N] [--seed N]
# kills a random rank at a random moment, many times, stops one some times, and resumes each run to its end (100 kills and
# 20 stops of 4 ranks: about an hour). Ends with 0 where no committed step was lost, no process was left, all survivors
# ended in time with 75 and named the lost rank, and each resumed run has the bytes of one left alone.
#   scripts/ranks_full.sh --equality [--steps N] [--ranks N,N] [--only NAME]
# runs the demo recipe and its variants on ranks and in one process, and prints what differs (about half an hour).
#   scripts/ranks_full.sh --tests [NAME ...]
# runs the long form of tests/ranks/NAME_test.py: equality, shards, sharing, pipeline, flexible and rewards.
#   scripts/ranks_full.sh --faults
# runs that of tests/faults/ranks*_test.py: each event in each phase, at 2 and at 4 ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python
if [[ ${1:-} == --equality ]]; then
  exec "$python" tests/ranks/demo_equality.py build/bin/unigrpo "${@:2}"
elif [[ ${1:-} == --tests || ${1:-} == --faults ]]; then
  export UNIGRPO_RANKS_FULL=1
  files=("${@:2}")
  [[ $1 == --tests ]] && ((${#files[@]} == 0)) && files=(equality shards sharing pipeline flexible rewards)
  files=("${files[@]/#/ranks/}")
  [[ $1 == --faults ]] && files=(faults/ranks faults/ranks_signals faults/ranks_errors)
  failed=0
  for file in "${files[@]}"; do
    echo "== tests/${file}_test.py"
    "$python" "tests/${file}_test.py" build/bin/unigrpo tests/data || failed=1
  done
  exit "$failed"
fi
exec "$python" tests/faults/ranks_kills.py build/bin/unigrpo tests/data "$@"
