#!/usr/bin/env bash
# What only a CUDA GPU can show, in 8 minutes at most: the kernels beside the CPU's, the device suite, the official
# code's numbers, the log-prob noise between rollout and update, ten steps of the demo, equal bytes of runs with
# run.deterministic, and bench_device. Last line "gpu_check: ok, N checks" or what failed; exit 0, 1, or 2 without a GPU.
#
#   scripts/gpu_check.sh                # builds the cuda preset first, where this is a source tree (not in the 8 minutes)
#   scripts/gpu_check.sh --bundle DIR   # needs nvcc and no GPU: what a GPU machine without network or compilers needs
#   DIR/scripts/gpu_check.sh            # there. LibTorch: from Torch_DIR, else from the Python package "torch"
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { echo "usage: scripts/gpu_check.sh [--bundle DIR]" >&2; exit 2; }
programs=(unigrpo unigrpo-torch unigrpo-reward-worker test_kernels test_device bench_device)
build=build-cuda
fail() { echo "gpu_check: $*"; exit 1; }

build_programs() {  # with where the tests find their files
  cmake --preset cuda -DUNIGRPO_FILES="$1" >"$build.log" 2>&1 || { cat "$build.log" >&2; fail "cmake --preset cuda failed"; }
  cmake --build $build -j "$jobs" --target "${programs[@]}" >>"$build.log" 2>&1 ||
    { tail -40 "$build.log" >&2; fail "the build failed ($build.log)"; }
}

# Libraries that a program needs and that are neither LibTorch's, CUDA's nor the C library's own.
own_libraries() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(torch|nvidia|cuda[^/]*)/|/lib(torch|c10|cuda|cudnn|cublas|cufft|cufile|cupti|curand|cusolver|cusparse|nv|nccl)[^/]*$|/lib(gomp|c|m|dl|rt|pthread|resolv)\.so[^/]*$' || true
}

bundle() {
  local folder=$1 library
  [[ ! -e $folder || -z $(ls -A "$folder") ]] || { echo "gpu_check: $folder is not empty" >&2; exit 2; }
  build_programs .
  mkdir -p "$folder"/{bin,lib,scripts,tests/data,assets,recipes}
  for program in "${programs[@]}"; do strip -o "$folder/bin/$program" "$build/bin/$program"; done
  while read -r library; do cp -L "$library" "$folder/lib/"; done < <(own_libraries "${programs[@]/#/$build/bin/}")
  cp scripts/gpu_check.sh scripts/common.sh "$folder/scripts/"
  cp -r tests/data/{vectors.json,bagel_tiny,bagel_half_billion} "$folder/tests/data/"
  cp -r assets/shapes-base assets/shapes-world "$folder/assets/"
  cp recipes/shapes_demo.toml "$folder/recipes/"
  (cd "$folder" && tar -czf files.tar.gz bin lib tests assets recipes && rm -r bin lib tests assets recipes)
  echo "gpu_check: $folder, $(du -sm "$folder" | cut -f1) MB"
}

while (($#)); do
  case $1 in
    --bundle) [[ ${2-} ]] || usage; bundle "$2"; exit 0 ;;
    *) usage ;;
  esac
done

nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || { echo "gpu_check: no CUDA GPU here" >&2; exit 2; }
if [[ -f CMakeLists.txt ]]; then
  build_programs "$root"
  bin=$build/bin
else
  bin=bin
  [[ -d bin ]] || tar -xzf files.tar.gz
  torch=${Torch_DIR:+$Torch_DIR/../../..}
  torch=${torch:-$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null)} ||
    fail "no LibTorch: set Torch_DIR, or install the Python package torch"
  LD_LIBRARY_PATH=$torch/lib:$(printf '%s:' "$torch"/../nvidia/*/lib)/usr/local/cuda/lib64:$root/lib
  export LD_LIBRARY_PATH
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ends=$((SECONDS + 480))
checks=0
# A check: a name and a command, which has the time that is left.
check() {
  local name=$1 status=0 begun=$SECONDS
  shift
  ((SECONDS < ends)) || fail "$name: the 8 minutes are over"
  timeout $((ends - SECONDS)) "$@" >"$work/log" 2>&1 || status=$?
  if ((status)); then
    tail -60 "$work/log"
    fail "$name failed (exit $status, ${*@Q})"
  fi
  checks=$((checks + 1))
  echo "ok   $name, $((SECONDS - begun)) s"
}
train() {  # folder, then further settings
  "$bin/unigrpo" train recipes/shapes_demo.toml --set policy.device=cuda --set "run.dir=$1" \
    --set eval.prompts= --set checkpoint.every=0 --set monitor.sample_every=0 "${@:2}"
}
same_bytes() {
  local i first
  for i in 1 2 3 4 5 6 7 8 9 10; do
    train "$work/run_$i" --set run.num_steps=2 --set run.deterministic=true --set grpo.prompts_per_step=2
    (cd "$work/run_$i/final" && sha256sum *.safetensors) >"$work/sums_$i"
    cmp "$work/sums_1" "$work/sums_$i" || return 1
    rm -rf "$work/run_$i"
  done
}
noise_is_small() {  # of float32: rollout and update differ in the order of sums alone
  local line
  line=$(grep -h 'log-prob noise between rollout and update' "$work/demo/log.txt" | head -1)
  echo "$line"
  awk -v text="$(sed -E 's/.*text ([0-9.e+-]+).*/\1/' <<<"$line")" -v image="$(sed -E 's/.*image ([0-9.e+-]+).*/\1/' <<<"$line")" \
    'BEGIN {exit !(text != "" && text + 0 < 1e-3 && image + 0 < 1e-4)}'
}
half_billion() {
  mkdir "$work/configs"
  cp tests/data/bagel_half_billion/*.json tests/data/bagel_tiny/{vocab.json,merges.txt,tokenizer_config.json,added_tokens.json,special_tokens_map.json} "$work/configs/"
  "$bin/unigrpo" init --configs "$work/configs" --out "$work/model"
}
shown() { "$@" | tee "$work/table"; }

check "kernels are the CPU's" "$bin/test_kernels" --gtest_brief=1 --gtest_filter='CudaKernels.*'
check "device suite" "$bin/test_device" --gtest_brief=1
check "selftest --vectors" "$bin/unigrpo" selftest --vectors tests/data/vectors.json --device cuda
check "selftest --bagel" "$bin/unigrpo" selftest --bagel tests/data/bagel_tiny --device cuda
export -f train same_bytes noise_is_small half_billion shown
export bin work
check "ten steps of the demo" bash -ec 'train "$work/demo" --set run.num_steps=10'
check "log-prob noise of float32" bash -ec noise_is_small
cat "$work/log"
check "ten deterministic runs, equal bytes" bash -ec same_bytes
check "a random BAGEL of 0.5B" bash -ec half_billion
check "bench_device" bash -ec 'shown "$bin/bench_device" "$work/model"'
cat "$work/table"
check "bench_device --graphs" bash -ec 'shown "$bin/bench_device" "$work/model" --graphs --no-eager'
cat "$work/table"
echo "gpu_check: ok, $checks checks"
