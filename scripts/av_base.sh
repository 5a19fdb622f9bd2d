#!/usr/bin/env bash
# Makes a model of the world of clips from seeds alone, after scripts/setup.sh and a build: prompts, then
# recipes/av_autoencoder.toml and recipes/av_sft.toml, then its scores on test prompts. Half an hour on one core. The
# same machine and build give the same bytes. Arguments: the folder to write (runs/av_base).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=${1:-runs/av_base}
[[ ! -e $out ]] || { echo "av_base.sh: $out exists" >&2; exit 2; }
unigrpo=build/bin/unigrpo
"$unigrpo" data av --out runs/av_world --rows 4000
"$unigrpo" sft recipes/av_autoencoder.toml
"$unigrpo" sft recipes/av_sft.toml --set "sft.output=$out"
"$unigrpo" eval --model "$out" --prompts runs/av_world/test.jsonl --max-prompts 100 --json "$out.json"
