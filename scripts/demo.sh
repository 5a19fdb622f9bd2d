#!/usr/bin/env bash
# Set-up, build, and the demo run: recipes/shapes_demo.toml trains the embedded model by UniGRPO. Arguments go
# to `unigrpo train`, e.g. --set run.seed=1, or --resume to go on with the newest demo run.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scripts/setup.sh
mkdir -p build
cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
cmake --build build -j "$jobs" --target unigrpo

# Each run gets a folder of its own: runs/shapes_demo, runs/shapes_demo_2, ... unless the arguments name one.
run_dir= resume=no
for argument in "$@"; do
  argument=${argument#--set=}
  case $argument in
    run.name=*) run_dir=runs/${argument#run.name=} ;;
    run.dir=*) run_dir=${argument#run.dir=} ;;
    --resume) resume=yes ;;
  esac
done
choice=()
if [[ -z $run_dir ]]; then
  name=shapes_demo newest=shapes_demo number=1
  while [[ -e runs/$name ]]; do
    newest=$name
    number=$((number + 1))
    name=shapes_demo_$number
  done
  [[ $resume == no ]] || name=$newest
  run_dir=runs/$name
  choice=(--set "run.name=$name")
fi

build/bin/unigrpo train recipes/shapes_demo.toml "${choice[@]}" "$@"
echo "demo: open $run_dir/report.html in a browser"
