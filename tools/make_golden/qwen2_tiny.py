"""Makes tests/data/qwen2_tiny and tests/data/qwen2_tiny_tied: tiny random Qwen2 checkpoints and their logits.

usage: qwen2_tiny.py DATA    DATA: tests/data

Needs `transformers` 4 (made with 4.57.6), `torch` and `safetensors`, which nothing else here does: use an environment of
its own. The tokenizer files are those of DATA/bagel_tiny. golden.safetensors holds, for each text i, `input_ids.i` [T] and
`logits.i` [T, V]: what Qwen2ForCausalLM computes on the CPU in float32.
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
TEXTS = ["<|im_start|>3 + 4 =<|im_end|><|im_start|>7<|im_end|>", "<|im_start|>The sum of 12 and 9 is 21.<|im_end|>", "+"]
# Key biases and weights of this size give logits of a few units, so that an error anywhere shows.
WEIGHT_STD, BIAS_STD = 0.15, 0.5


def make(folder, source, seed, **sizes):
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, folder / name)
    config = Qwen2Config(vocab_size=408, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=1000000.0,
                         bos_token_id=400, eos_token_id=402, use_sliding_window=False, torch_dtype="float32",
                         attn_implementation="eager", **sizes)
    model = Qwen2ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * draw if "norm" in name else (BIAS_STD if name.endswith("bias") else WEIGHT_STD) * draw)
    # The tied one comes in shards, so that both ways in are tested.
    model.save_pretrained(folder, max_shard_size="50KB" if config.tie_word_embeddings else "5GB")
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False)
    golden = {}
    for i, text in enumerate(TEXTS):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            golden[f"logits.{i}"] = model(ids[None]).logits[0].contiguous()
        golden[f"input_ids.{i}"] = ids
        print(folder.name, ids.tolist(), "largest logit", golden[f"logits.{i}"].abs().max().item())
    save_file(golden, folder / "golden.safetensors")


def main():
    data = pathlib.Path(sys.argv[1])
    make(data / "qwen2_tiny", data / "bagel_tiny", seed=1, tie_word_embeddings=False)
    # A width of heads that is not hidden_size / num_attention_heads.
    make(data / "qwen2_tiny_tied", data / "bagel_tiny", seed=2, tie_word_embeddings=True, head_dim=16)
    assert "lm_head.weight" in load_file(data / "qwen2_tiny" / "model.safetensors")


if __name__ == "__main__":
    main()
