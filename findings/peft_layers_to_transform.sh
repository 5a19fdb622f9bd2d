#!/usr/bin/env bash
# PEFT 0.21.2 (with transformers 5.24.0 and the `torch` 2.11.0 wheel of PyPI, Linux x86-64, Python 3.10 to 3.14)
#
# LoraConfig(layers_to_transform=[1]) adapts layer 1 alone only where target_modules holds suffixes ("q_proj"). Where it
# holds whole module names ("model.layers.0.q_proj"), as tools write them that know which modules they adapt, a name that
# matches as it is counts and layers_to_transform is not asked: every layer is adapted, with no warning.
# adapter_config.json says [1] all the same, so that a reader who trusts the key and one who trusts the tensors load
# different models. (check_target_module_exists in tuners_utils.py looks at layers in the branch of the suffixes alone. A
# regular expression in target_modules is refused beside the key.)
#
# Seen:
#   target_modules ['q_proj']: layers [1]
#   target_modules ['model.layers.0.q_proj', ...]: layers [0, 1, 2]
#
# Needs python3 with venv, 8 GB of disk, and the network: a download of about 3 GB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet torch==2.11.0 peft==0.21.2 transformers==5.24.0

cat > layers.py <<'PY'
import peft
import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4)}) for _ in range(3)])


def layers(targets):
    model = peft.get_peft_model(Model(), peft.LoraConfig(target_modules=targets, layers_to_transform=[1]))
    return [i for i in range(3) if any(f"layers.{i}.q_proj.lora_A" in name for name, _ in model.named_parameters())]


print(f"target_modules ['q_proj']: layers {layers(['q_proj'])}")
print(f"target_modules ['model.layers.0.q_proj', ...]: layers {layers([f'model.layers.{i}.q_proj' for i in range(3)])}")
PY
seen=$(venv/bin/python -W ignore layers.py)
echo "$seen"
[[ $seen == "target_modules ['q_proj']: layers [1]
target_modules ['model.layers.0.q_proj', ...]: layers [0, 1, 2]" ]]
