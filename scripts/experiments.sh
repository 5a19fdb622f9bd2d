#!/usr/bin/env bash
# Makes the runs of docs/EXPERIMENTS.md one after the other, in runs/exp_<row>_s<seed>, then its tables. A finished
# run (in runs/, or kept in docs/experiments.json by another machine; --again makes those anew) is skipped, an unfinished one
# goes on where it stopped: call it again until it says that all runs are there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: scripts/experiments.sh [--seeds "0 1 2"] [--only ROW]... [--steps N] [--set KEY=VALUE]... [--dry-run]
  --seeds LIST     seeds of every row (default "0 1 2")
  --only ROW       this row alone; may be given again
  --steps N        steps of the short rows, that is of all but demo (default 30, about 4 minutes on 2 cores)
  --set KEY=VALUE  a recipe key of every run; may be given again
  --again          make runs anew that only docs/experiments.json has
  --dry-run        print the commands, one a run, and run nothing
rows: ${rows[*]%%|*}
END
}

seeds="0 1 2" steps=30 dry_run=no again=no only=() extra=()
# Both penalties pull alike on average: over the times that shapes_demo.toml trains, the latent KL is |v - v_ref|^2
# times 0.13 in the mean (0.01 at the noisy end, 0.37 at the last).
velocity_mse_weight=0.01
latent_kl_weight=0.08
test_guidance=2.0

# All 490 test prompts are scored, with one image each (the demo: four).
common="checkpoint.keep_last=1 monitor.eval_prompts=assets/shapes-world/test.jsonl monitor.eval_max_prompts=0"

# ROW|RECIPE|KEYS. `base` trains nothing: it scores the starting model, with its own plans and with the right ones.
# A row without a penalty measures the drift all the same, so its weight is 0.
make_rows() {
  local short="run.num_steps=$steps checkpoint.every=10 monitor.eval_samples=1"
  local guided="monitor.eval_guidance=$test_guidance"
  rows=(
    "base||"
    "demo|shapes_demo|monitor.eval_samples=4 $guided"
    "joint|shapes_demo|$short $guided"
    "text_only|shapes_demo|$short grpo.image.weight=0"
    "image_only|shapes_demo|$short grpo.text.weight=0"
    "hack_velocity_mse|shapes_ablation|$short grpo.image.penalty=velocity_mse grpo.image.penalty_weight=$velocity_mse_weight"
    "hack_latent_kl|shapes_ablation|$short grpo.image.penalty=latent_kl grpo.image.penalty_weight=$latent_kl_weight"
    "hack_none|shapes_ablation|$short grpo.image.penalty=velocity_mse grpo.image.penalty_weight=0"
    "train_guided|shapes_demo|$short rollout.train_guidance=$test_guidance $guided"
  )
}
make_rows

while (($#)); do
  case $1 in
    --seeds | --only | --steps | --set)
      (($# > 1)) || { echo "experiments: $1 needs a value" >&2; exit 2; }
      ;;&
    --seeds) seeds=$2; shift 2 ;;
    --only) only+=("$2"); shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    --set) extra+=("$2"); shift 2 ;;
    --again) again=yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
for seed in $seeds; do
  [[ $seed =~ ^[0-9]+$ ]] || { echo "experiments: --seeds: expected whole numbers, got '$seeds'" >&2; exit 2; }
done
[[ $steps =~ ^[1-9][0-9]*$ ]] || { echo "experiments: --steps: expected a number of steps, got '$steps'" >&2; exit 2; }
make_rows
for name in "${only[@]}"; do
  [[ " ${rows[*]%%|*} " == *" $name "* ]] || { echo "experiments: no row '$name'; rows: ${rows[*]%%|*}" >&2; exit 2; }
done

unigrpo=${UNIGRPO_BINARY:-build/bin/unigrpo}
if [[ $dry_run == no && ! -x $unigrpo ]]; then
  scripts/setup.sh
  mkdir -p build
  cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
  cmake --build build -j "$jobs" --target unigrpo
fi

failed=()
# Whether another machine made the run, and its results are kept.
kept() { [[ $again == no && ! -e runs/$1 ]] && python3 tools/experiments_table.py --finished "$1"; }

# Prints a command as one could type it, and runs it unless this is a dry run. A run that was interrupted ends all.
run() {
  local name=$1 code=0
  shift
  echo "$*"
  [[ $dry_run == no ]] || return 0
  "$@" || code=$?
  ((code != 130)) || exit 130
  ((code == 0)) || failed+=("$name (exit $code)")
}

evaluate_base() {
  local name=$1 seed=$2 plan options
  for plan in own_plan true_plan; do
    if [[ -f runs/$name/eval_$plan.json ]]; then
      echo "# $name: $plan is there"
      continue
    fi
    options=()
    [[ $plan == own_plan ]] || options=(--true-plan)
    [[ $dry_run == yes ]] || mkdir -p "runs/$name"
    run "$name" "$unigrpo" eval --model assets/shapes-base --prompts assets/shapes-world/test.jsonl --num-samples 4 \
      --seed "$seed" "${options[@]}" --json "runs/$name/eval_$plan.json"
  done
}

# final/ is written after the last evaluation.
finished() { [[ -f $1/eval_after.json && -d $1/final && ($2 != *eval_guidance* || -f $1/eval_after_guided.json) ]]; }

train() {
  local name=$1 recipe=$2 keys=$3 seed=$4 arguments=() key resume=()
  if finished "runs/$name" "$keys"; then
    echo "# $name: finished"
    return
  fi
  [[ ! -f runs/$name/recipe.toml ]] || resume=(--resume)
  for key in "run.name=$name" "run.seed=$seed" $common $keys "${extra[@]}"; do
    arguments+=(--set "$key")
  done
  run "$name" "$unigrpo" train "recipes/$recipe.toml" "${arguments[@]}" "${resume[@]}"
}

for seed in $seeds; do
  for row in "${rows[@]}"; do
    IFS='|' read -r row_name recipe keys <<<"$row"
    if ((${#only[@]})) && [[ " ${only[*]} " != *" $row_name "* ]]; then continue; fi
    if kept "exp_${row_name}_s$seed"; then
      echo "# exp_${row_name}_s$seed: kept in docs/experiments.json"
    elif [[ $row_name == base ]]; then
      evaluate_base "exp_base_s$seed" "$seed"
    else
      train "exp_${row_name}_s$seed" "$recipe" "$keys" "$seed"
    fi
  done
done

[[ $dry_run == no ]] || exit 0
python3 tools/experiments_table.py
if ((${#failed[@]})); then
  printf 'experiments: failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "experiments: all runs asked for are there"
