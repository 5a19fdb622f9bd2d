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
  --steps N        steps of the short rows, joint to draw_vision (default 20, about 3 minutes on one core)
  --set KEY=VALUE  a recipe key of every run; may be given again
  --again          make runs anew that only docs/experiments.json has
  --dry-run        print the commands, one a run, and run nothing
rows: ${rows[*]%%|*}
END
}

seeds="" steps=20 dry_run=no again=no only=() extra=()
# Both penalties pull alike on average: over the times that shapes_demo.toml trains, the latent KL is |v - v_ref|^2
# times 0.13 in the mean (0.01 at the noisy end, 0.37 at the last).
velocity_mse_weight=0.01
latent_kl_weight=0.08
test_guidance=2.0

# Nothing is scored while a run trains, but for those that the drift monitor watches: the base is the same for all, so it is scored once,
# each way.
common="checkpoint.keep_last=1 eval.prompts="
tasks=runs/shapes_tasks  # images with questions, images to change

# How models are scored: all 490 test prompts (or 400 rows of a task), the demo with four images each.
test="--prompts assets/shapes-world/test.jsonl"
declare -A ways=(
  [four]="$test --num-samples 4"
  [one]="$test"
  [oracle_plan]="$test --num-samples 4 --oracle-plan"
  [guided]="$test --cfg-scale $test_guidance"
  [answers]="--prompts $tasks/answer_test.jsonl --reward answer --episode text --num-samples 4"
  [edit]="--prompts $tasks/edit_test.jsonl --reward edit --num-samples 4"
  [turns]="$test --episode text,image,text,image --num-samples 2"
)

# ROW|RECIPE|KEYS|EVALUATIONS, each NAME=WAY. `base` trains nothing: it is the starting model, runs/exp_base; that of the tasks
# with images is runs/exp_looks.
# A row without a penalty measures the drift all the same, so its weight is 0.
make_rows() {
  local short="run.num_steps=$steps checkpoint.every=10"
  # Half the recipe's rates, so that a run is scored often on its way down; four images a prompt, so that a loss of 0.05 stands out.
  local watched="run.num_steps=14 checkpoint.every=10 eval.prompts=assets/shapes-world/validation.jsonl eval.every=2"
  watched+=" monitor.drift.max_share=1"  # a probe every step
  watched+=" eval.samples=4 eval.cfg_scale=0 optim.ema.enabled=false grpo.image.penalty_weight=0"
  watched+=" optim.lr=1.5e-4 optim.groups.0.lr=1e-4 optim.groups.1.lr=1e-4 optim.groups.2.lr=1e-4"
  rows=(
    "base|||four oracle_plan"
    "demo|shapes_demo||after=four after_guided=guided after_answers=answers"
    "joint|shapes_demo|$short|after=one after_guided=guided"
    "text_only|shapes_demo|$short grpo.image.weight=0|after=one"
    "image_only|shapes_demo|$short grpo.text.weight=0|after=one"
    "hack_velocity_mse|shapes_ablation|$short grpo.image.penalty=velocity_mse grpo.image.penalty_weight=$velocity_mse_weight|after=one"
    "hack_latent_kl|shapes_ablation|$short grpo.image.penalty=latent_kl grpo.image.penalty_weight=$latent_kl_weight|after=one"
    "hack_none|shapes_ablation|$short grpo.image.penalty=velocity_mse grpo.image.penalty_weight=0|after=one"
    "train_guided|shapes_demo|$short rollout.rollout_cfg_scale=$test_guidance|after=one after_guided=guided"
    "draw_vision|shapes_demo|$short policy.model=assets/shapes-vision|after=one after_answers=answers"
    "answer|shapes_answer||after=answers"
    "edit|shapes_edit||after=edit"
    "turns|shapes_turns||after=turns after_answers=answers"
    "drift_saturation|shapes_demo|$watched rewards.0.kind=saturation|"
    "drift_dark|shapes_demo|$watched rewards.0.kind=brightness rewards.0.weight=-1|"
    "drift_large_jpeg|shapes_demo|$watched rewards.0.kind=jpeg rewards.0.jpeg_prefer=large|"
    "drift_small_jpeg|shapes_demo|$watched rewards.0.kind=jpeg|"
    "drift_bright|shapes_demo|$watched rewards.0.kind=brightness|"
    "drift_long_text|shapes_demo|$watched rewards.0.kind=text_rules rewards.0.weight=-1 rewards.0.max_tokens=40 rewards.0.overlong_cache=40 rewards.0.modality=text optim.lr=3e-4|"
    "drift_honest|shapes_demo|$watched|"
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
seeds=${seeds:-0 1 2}
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
  echo "$@"
  [[ $dry_run == no ]] || return 0
  "$@" || code=$?
  ((code != 130)) || exit 130
  ((code == 0)) || failed+=("$name (exit $code)")
}

# Scores MODEL in a way and writes FILE, unless that is there.
evaluate() {
  local model=$1 way=$2 file=$3
  [[ ! -f $file ]] || return 0
  [[ $way != answers && $way != edit ]] || make_tasks
  [[ $dry_run == yes ]] || mkdir -p "$(dirname "$file")"
  # shellcheck disable=SC2086
  run "$file" "$unigrpo" eval --model "$model" ${ways[$way]} --json "$file"
}

make_tasks() {
  [[ -f $tasks/edit_test.jsonl ]] || run tasks "$unigrpo" data shapes --tasks 2000 --out "$tasks"
}

train() {
  local name=$1 recipe=$2 keys=$3 seed=$4 arguments=() key resume=()
  if [[ -d runs/$name/final ]]; then
    echo "# $name: trained"
    return
  fi
  [[ $recipe != shapes_answer && $recipe != shapes_edit ]] || make_tasks
  [[ ! -f runs/$name/recipe.toml ]] || resume=(--resume)
  for key in "run.name=$name" "run.seed=$seed" $common $keys "${extra[@]}"; do
    arguments+=(--set "$key")
  done
  run "$name" "$unigrpo" train "recipes/$recipe.toml" "${arguments[@]}" "${resume[@]}"
}

# A run's evaluations, and beside each that of the model which it starts from, in the same way.
evaluate_run() {
  local name=$1 recipe=$2 keys=$3 evaluation way after base model
  shift 3
  model=$(sed -n 's/^model = "\(.*\)"/\1/p' "recipes/$recipe.toml")
  [[ $keys != *policy.model=* ]] || read -r model _ <<<"${keys#*policy.model=}"
  for evaluation in "$@"; do
    way=${evaluation#*=} after=runs/$name/eval_${evaluation%=*}.json base=runs/exp_${model##*-}/eval_${evaluation#*=}.json
    evaluate "runs/$name/final" "$way" "$after"
    evaluate "$model" "$way" "$base"
    run "$name" cp "$base" "${after/eval_after/eval_before}"
  done
}

for seed in $seeds; do
  for row in "${rows[@]}"; do
    IFS='|' read -r row_name recipe keys evaluations <<<"$row"
    if ((${#only[@]})) && [[ " ${only[*]} " != *" $row_name "* ]]; then continue; fi
    name=exp_${row_name}_s$seed
    [[ $row_name != base ]] || name=exp_base
    if kept "$name"; then
      echo "# $name: kept in docs/experiments.json"
    elif [[ $row_name == base ]]; then
      for way in $evaluations; do evaluate assets/shapes-base "$way" "runs/$name/eval_$way.json"; done
    else
      train "$name" "$recipe" "$keys" "$seed"
      # shellcheck disable=SC2086
      evaluate_run "$name" "$recipe" "$keys" $evaluations
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
