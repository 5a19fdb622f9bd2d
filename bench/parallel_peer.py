"""PyTorch's fully_shard over a plain module of a BAGEL-shaped model: one step, as bench/parallel.py starts it on each rank.

usage (under a launcher's variables): parallel_peer.py CONFIG ROWS GENERATED STEPS    needs torch 2.11 with its dependencies

CONFIG: an llm_config.json. Each layer has an expert for understanding and one for generation rows (norms, projections,
MLP), as BAGEL's; attention is causal over all rows. A micro-batch has ROWS rows, of which the last GENERATED belong to
the second expert; a step is one micro-batch, forward with recomputation, backward, AdamW. Rank 0 prints the median
seconds of a step and the peak resident memory above that before the model, in bytes.
"""

import json
import os
import resource
import statistics
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Expert(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, head = c["hidden_size"], c["hidden_size"] // c["num_attention_heads"]
        self.norm, self.post = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.q = nn.Linear(hidden, hidden)
        self.k, self.v = (nn.Linear(hidden, head * c["num_key_value_heads"]) for _ in range(2))
        self.o = nn.Linear(hidden, hidden, bias=False)
        self.gate, self.up = (nn.Linear(hidden, c["intermediate_size"], bias=False) for _ in range(2))
        self.down = nn.Linear(c["intermediate_size"], hidden, bias=False)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.experts = nn.ModuleList([Expert(c), Expert(c)])

    def forward(self, parts):
        def heads(name, count):
            rows = torch.cat([getattr(e, name)(e.norm(x)) for e, x in zip(self.experts, parts)])
            return rows.view(1, rows.shape[0], count, -1).transpose(1, 2)
        q, k, v = heads("q", self.heads), heads("k", self.kv_heads), heads("v", self.kv_heads)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        seen = seen.transpose(1, 2).reshape(sum(len(x) for x in parts), -1).split([len(x) for x in parts])
        out = []
        for expert, x, a in zip(self.experts, parts, seen):
            x = x + expert.o(a)
            h = expert.post(x)
            out.append(x + expert.down(F.silu(expert.gate(h)) * expert.up(h)))
        return tuple(out)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm, self.head = nn.RMSNorm(c["hidden_size"]), nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def forward(self, ids, latents):
        parts = self.embed(ids), latents
        for layer in self.layers:
            parts = checkpoint(layer, parts, use_reentrant=False)
        return self.head(self.norm(parts[0])), parts[1]


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(config, rows, generated, steps):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    with open(config) as file:
        c = json.load(file)
    before = resident()
    model = Model(c)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in (*model.layers, model):
        module.set_force_sum_reduction_for_comms(True)  # Gloo has no average
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(c["vocab_size"], (rows - generated,))
    latents = torch.randn(generated, c["hidden_size"])
    seconds = []
    for _ in range(steps + 1):
        dist.barrier()
        start = time.perf_counter()
        logits, velocity = model(ids, latents)
        (F.cross_entropy(logits, ids) + velocity.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_bytes": peak - before}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
