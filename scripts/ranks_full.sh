#!/usr/bin/env bash
# What takes too long for a test of runs on several ranks.
#   scripts/ranks_full.sh [--kills N] [--stops N] [--torchrun N] [--ranks N] [--seed N]
# kills a random rank at a random moment, many times, stops one some times, and resumes each run to its end (100 kills and
# 20 stops of 4 ranks: about an hour). Ends with 0 where no committed step was lost, no process was left, all survivors
# ended in time with 75 and named the lost rank, and each resumed run has the bytes of one left alone.
#   scripts/ranks_full.sh --equality [--steps N] [--ranks N,N] [--only NAME]
# runs the demo recipe and its variants on ranks and in one process, and prints what differs (about half an hour).
#   scripts/ranks_full.sh --shards | --sharing
# runs the long form of tests/ranks/shards_test.py or sharing_test.py.
#   scripts/ranks_full.sh --faults
# runs that of tests/faults/ranks*_test.py: each event in each phase, at 2 and at 4 ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python
if [[ ${1:-} == --equality ]]; then
  exec "$python" tests/ranks/demo_equality.py build/bin/unigrpo "${@:2}"
elif [[ ${1:-} == --shards || ${1:-} == --sharing ]]; then
  UNIGRPO_RANKS_FULL=1 exec "$python" "tests/ranks/${1#--}_test.py" build/bin/unigrpo tests/data
elif [[ ${1:-} == --faults ]]; then
  export UNIGRPO_RANKS_FULL=1
  for test in ranks ranks_signals ranks_errors; do
    "$python" "tests/faults/${test}_test.py" build/bin/unigrpo tests/data
  done
  exit
fi
exec "$python" tests/faults/ranks_kills.py build/bin/unigrpo tests/data "$@"
