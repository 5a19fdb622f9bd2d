#!/usr/bin/env bash
# A random BAGEL of Qwen2.5-0.5B's sizes with both experts in bf16: makes it, draws one image of 256x256 pixels in 49 steps,
# and takes one LoRA step on a group of two. Says how long each took and how much memory. About 2.5 GB of disk in $1.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
folder=${1:?usage: scripts/half_billion.sh FOLDER}
unigrpo=${UNIGRPO_BINARY:-build/bin/unigrpo}

measured() {
  python3 - "$@" <<'PY'
import resource, subprocess, sys, time
start = time.time()
code = subprocess.call(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
print(f"-- {' '.join(sys.argv[2:3])}: {time.time() - start:.0f} s, peak resident memory so far {peak:.2f} GiB", flush=True)
sys.exit(code)
PY
}

mkdir -p "$folder"
if [[ ! -f $folder/model/ema.safetensors ]]; then
  rm -rf "$folder/model" "$folder/configs"
  mkdir "$folder/configs"
  cp tests/data/bagel_half_billion/*.json "$folder/configs/"
  for file in vocab.json merges.txt tokenizer_config.json added_tokens.json special_tokens_map.json; do
    cp "tests/data/bagel_tiny/$file" "$folder/configs/"
  done
  measured "$unigrpo" init --configs "$folder/configs" --out "$folder/model"
fi
rm -rf "$folder/sample" "$folder/run"
measured "$unigrpo" sample --model "$folder/model" --dtype bfloat16 --prompt "a red circle" --out "$folder/sample"
measured "$unigrpo" train recipes/bagel_7b_geneval_lora.toml --set "policy.model=$folder/model" --set "run.dir=$folder/run" \
  --set run.num_steps=1 --set "data.prompts=assets/shapes-world/train.jsonl" --set rollout.system_prompt= \
  --set rollout.image_size=256 --set rollout.max_tokens=32 --set grpo.prompts_per_step=1 --set grpo.group_size=2 \
  --set 'rewards=[{kind = "geneval"}]' --set eval.prompts= --set grpo.num_minibatches=1 --set monitor.drift.enabled=false --set policy.lora.rank=16 --set policy.lora.alpha=32 --set checkpoint.every=0
