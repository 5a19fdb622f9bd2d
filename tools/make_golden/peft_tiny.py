"""Makes tests/data/peft: what PEFT writes about adapters of tests/data/qwen2_tiny, and what it computes with them.

usage: peft_tiny.py DATA    DATA: tests/data

Needs `peft` (made with 0.21.2), `transformers` 5 (made with 5.24.0), `torch` and `safetensors`, which nothing else here does:
use an environment of its own. Folders: adapters as `save_pretrained` writes them, of seeded random values; beside each
golden.safetensors: `logits` [T, V] of PEFT's model in float32 on the CPU for `input_ids` [T]. `pissa_converted` is PEFT's own
conversion of a PiSSA adapter into plain LoRA. configs.json: adapter_config.json by name, of adapters that are never loaded.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import peft
import torch
from safetensors.torch import save_file
from transformers import Qwen2ForCausalLM

IDS = [401, 23, 7, 199, 402, 401, 5]
TARGETS = ["q_proj", "down_proj"]


def model_of(data, config):
    torch.manual_seed(7)
    base = Qwen2ForCausalLM.from_pretrained(data / "qwen2_tiny", dtype=torch.float32, attn_implementation="eager").eval()
    return peft.get_peft_model(base, config)


def train(model):
    """Moves the adapter as training would."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)


def save(data, name, model, **options):
    folder = data / "peft" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "qwen2_tiny"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0].contiguous()
    save_file({"input_ids": torch.tensor(IDS), "logits": logits}, folder / "golden.safetensors")
    return config


def main():
    data = pathlib.Path(sys.argv[1])
    plain = dict(r=2, lora_alpha=6, target_modules=TARGETS, task_type="CAUSAL_LM")
    configs = {}

    for name, extra in [("plain", {}), ("layer", {"layers_to_transform": [1]}),
                        ("embeddings", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]})]:
        model = model_of(data, peft.LoraConfig(**{**plain, **extra}))
        train(model)
        save(data, name, model)

    with tempfile.TemporaryDirectory() as start:
        model = model_of(data, peft.LoraConfig(**plain, init_lora_weights="pissa"))
        model.peft_config["default"].init_lora_weights = True  # PEFT's recipe: the initial adapter says so
        model.save_pretrained(start + "/initial")
        model.peft_config["default"].init_lora_weights = "pissa"
        train(model)
        model.save_pretrained(start + "/trained")
        configs["pissa"] = json.loads(pathlib.Path(start, "trained/adapter_config.json").read_text())
        save(data, "pissa_converted", model, path_initial_model_for_weight_conversion=start + "/initial")

    others = {
        "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
        "olora": {"init_lora_weights": "olora"},
        "corda": {"init_lora_weights": "corda", "corda_config": peft.tuners.lora.config.CordaConfig()},
        "loftq": {"init_lora_weights": "loftq", "loftq_config": peft.tuners.lora.config.LoftQConfig()},
        "lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": peft.tuners.lora.config.LoraGAConfig()},
        "gaussian": {"init_lora_weights": "gaussian"},
        "eva": {"init_lora_weights": "eva", "eva_config": peft.tuners.lora.config.EvaConfig()},
        "orthogonal": {"init_lora_weights": "orthogonal"},
        "mica": {"init_lora_weights": "mica"},
        "false": {"init_lora_weights": False},
        "alora": {"alora_invocation_tokens": [401, 23]},
        "trainable_tokens": {"trainable_token_indices": [5, 6]},
        "layers": {"layers_to_transform": [0]},
        "pattern": {"layers_to_transform": [0, 1], "layers_pattern": "h"},
        "excluded": {"exclude_modules": ["down_proj"]},
        "parameters": {"target_parameters": ["mlp.experts.down_proj"]},
        "replicated": {"layer_replication": [[0, 2], [1, 2]]},
        "bias": {"lora_bias": True},
        "qalora": {"use_qalora": True},
    }
    for name, extra in others.items():
        with tempfile.TemporaryDirectory() as folder:
            peft.LoraConfig(**{**plain, "inference_mode": True, **extra}).save_pretrained(folder)
            configs[name] = json.loads(pathlib.Path(folder, "adapter_config.json").read_text())
    (data / "peft/configs.json").write_text(json.dumps(configs, indent=1) + "\n")


if __name__ == "__main__":
    main()
