#!/bin/bash
# A step of the demo on an idle machine, beside one busy loop and beside two, all of equal priority.
#
#   bench/busy_machine.sh [--old BINARY] [--new BINARY] [--steps N] [--repeats N] [--set KEY=VALUE]...
#
# --old: an earlier `unigrpo`, measured in turn with this build's. Each run trains N steps after one that is not counted;
# a figure is the median over all of them. "of idle" is what the loops cost; a fair share of two cores would be 1.5 times
# the idle step beside one loop and 2.0 beside two. "others" says how many cores the rest of the machine took meanwhile:
# figures mean something where it is near 0.
set -euo pipefail
cd "$(dirname "$0")/.."
old="" new=build/bin/unigrpo steps=2 repeats=3 sets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --old) old=$2 ;;
    --new) new=$2 ;;
    --steps) steps=$2 ;;
    --repeats) repeats=$2 ;;
    --set) sets+=(--set "$2") ;;
    *) echo "usage: bench/busy_machine.sh [--old BINARY] [--new BINARY] [--steps N] [--repeats N] [--set KEY=VALUE]..." >&2
       exit 2 ;;
  esac
  shift 2
done

work=$(mktemp -d)
loops=()
stop_loops() {
  for pid in "${loops[@]}"; do kill "$pid" 2>/dev/null || true; done
  loops=()
}
trap 'stop_loops; rm -rf "$work"' EXIT

busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }  # of all cores

measure() {  # name, binary, loops: appends "name loops step_s..., own ticks, all ticks, seconds" to the file of results
  local run="$work/run" before after start
  rm -rf "$run"
  for ((i = 0; i < $3; ++i)); do
    (while :; do :; done) &
    loops+=($!)
  done
  before=$(busy_ticks) start=$(date +%s.%N)
  TIMEFORMAT="%U %S"
  { time "$2" train recipes/shapes_demo.toml --set run.dir="$run" --set run.num_steps=$((steps + 1)) \
      --set eval.prompts= --set checkpoint.every=0 --set monitor.sample_every=0 "${sets[@]}" >"$work/log" 2>&1; } \
    2>"$work/time" || { cat "$work/log" >&2; exit 1; }
  after=$(busy_ticks)
  local end loop_ticks=0
  end=$(date +%s.%N)
  for pid in "${loops[@]}"; do loop_ticks=$((loop_ticks + $(awk '{ print $14 + $15 }' "/proc/$pid/stat"))); done
  stop_loops
  wait 2>/dev/null || true
  echo "$1 $3 $run $before $((after - loop_ticks)) $start $end $(cat "$work/time")" >"$work/last"
  python3 - "$work/last" >>"$work/results" <<'PYTHON'
import json, os, sys
name, loops, run, before, after, start, end, user, system = open(sys.argv[1]).read().split()
rows = [json.loads(line) for line in open(run + "/metrics.jsonl")][1:]
seconds = float(end) - float(start)
own = float(user) + float(system)
busy = (float(after) - float(before)) / os.sysconf("SC_CLK_TCK")
print(json.dumps({"name": name, "loops": int(loops), "steps": [row["time/step"] for row in rows],
                  "rollout": [row["time/rollout"] for row in rows], "update": [row["time/update"] for row in rows],
                  "others": (busy - own) / seconds}))
PYTHON
}

for ((repeat = 0; repeat < repeats; ++repeat)); do
  for load in 0 1 2; do
    if [ -n "$old" ]; then measure old "$old" "$load"; fi
    measure new "$new" "$load"
  done
done

python3 - "$work/results" <<'PYTHON'
import json, os, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
print(f"{os.cpu_count()} cores; seconds of a step, medians (least .. most)")
print(f"{'build':<6} {'loops':>5} {'step':>8} {'':>18} {'of idle':>8} {'rollout':>8} {'update':>8} {'others':>7}")
idle = {}
for name in ("old", "new"):
    for loops in (0, 1, 2):
        mine = [row for row in rows if row["name"] == name and row["loops"] == loops]
        if not mine:
            continue
        steps, rollout, update = ([s for row in mine for s in row[key]] for key in ("steps", "rollout", "update"))
        median = statistics.median(steps)
        idle.setdefault(name, median)
        others = statistics.median(row["others"] for row in mine)
        print(f"{name:<6} {loops:>5} {median:>8.2f} {f'({min(steps):.2f} .. {max(steps):.2f})':>18} "
              f"{median / idle[name]:>8.2f} {statistics.median(rollout):>8.2f} {statistics.median(update):>8.2f} "
              f"{others:>7.2f}")
if len(idle) == 2:
    print(f"idle step, old over new: {idle['old'] / idle['new']:.2f}")
PYTHON
