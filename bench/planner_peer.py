"""The search of p.search0 once more, with numpy: the peer of bench_planner's second row.

usage: planner_peer.py BENCH_PLANNER [tests/data/planner]

Galvatron's search as docs/PLANNING.md tells it, its table over (layer, MB, strategy) in whole-array operations. Runs the
program and itself in turn and prints both times, the ratio and both throughputs. Needs numpy.
"""

import itertools
import json
import math
import pathlib
import subprocess
import sys
import time

import numpy

MIB = 1024 * 1024


class Model:
    def __init__(self, case, profile):
        self.case, self.profile = case, profile
        self.seq, self.hidden, self.layers = (case["model"][k] for k in ("seq", "hidden", "layers"))
        self.world, self.batch, self.k = case["world"], case["global_batch"], case["micro_batches"]
        times = profile["computation"]
        points = {name: [(int(key.split("seq")[1]), ms) for key, ms in times.items() if key.startswith(f"layertype_{name}_bsz1_")] for name in ("0", "other")}
        self.forward = numpy.polyval(numpy.polyfit(*zip(*points["0"]), 2), self.seq)
        self.ends = numpy.polyval(numpy.polyfit(*zip(*points["other"]), 1), self.seq)
        memory = profile["memory"]["layertype_0_sp"]
        largest, smallest = max(memory, key=int), min(memory, key=int)
        scale = self.seq / int(largest)
        self.parameters = memory[smallest]["parameter_size"]
        self.activation = {k: v * scale for k, v in memory[largest]["tp_activation_per_bsz_dict"].items()}
        self.other = {place: profile["memory"][f"other_memory_{place}_sp"][largest] for place in ("pp_off", "pp_on_first", "pp_on_last")}
        self.scale, self.o = scale, profile["overlap_coefficient"]["overlap_coe"]
        self.lines = {}

    def latency(self, kind, n, mb):
        if (kind, n) not in self.lines:
            table = {int(key.split("_")[3][:-2]): ms for key, ms in self.profile["sp_time"].items() if key.startswith(f"{kind}_size_{n}_")}
            self.lines[kind, n] = table, numpy.polyfit(list(table), list(table.values()), 1)
        table, line = self.lines[kind, n]
        return table[mb] if mb in table else numpy.polyval(line, mb)

    def c(self, d, consec):
        return 0 if d == 1 else 1 / self.profile["allreduce_bandwidth"][f"allreduce_size_{d}_consec_{1 if d == self.world else consec}"]

    def message(self, b):
        return b * self.seq * self.hidden * 2 / MIB

    def layer_seconds(self, s, sync):
        pp, tp, sp, dp, zero, recompute = s
        b, t, d = self.batch // self.k // dp, max(tp, sp), dp * sp
        forward = self.forward * b / t
        backward = forward * (3 if recompute else 2)
        g, c = (d - 1) / d * self.parameters / tp, self.c(d, 0 if tp > 1 else 1)
        ms = forward + backward
        if dp > 1:
            traffic, compute = g * c * sync * self.o, backward * self.o
            ms = forward + (compute + (g * sync - compute / (c * self.o)) * c if traffic > compute else traffic + backward - traffic / self.o)
        if t > 1:
            mb = self.message(b)
            ms += (6 * self.latency("allreduce", tp, mb) / 2 if tp > 1 else 4 * self.latency("all2all", sp, mb)) * (1.5 if recompute else 1)
        if zero == 3:
            ms += g / 2 * c
        if pp > 1:
            ms += pp * 2 * self.message(b) / self.profile["p2p_bandwidth"][f"pp_size_{pp}"] / self.layers
        return ms / 1000

    def share(self, s):
        q = 1 / (s[3] * s[2]) + 0.003
        if s[4] == 0:
            return 1
        return (q if s[4] == 3 else 7 / 8 * q + 1 / 8) * (1 if self.k == 1 else 5 / 4)

    def held(self, s, stage):
        return 1 if s[0] == 1 else s[0] - stage

    def layer_mb(self, s, stage):
        b, t = self.batch // self.k // s[3], max(s[1], s[2])
        return 4 * self.parameters / s[1] * self.share(s) + (self.activation["checkpoint"] / t if s[5] else self.activation[str(t)]) * b * self.held(s, stage)

    def embed(self, s, sync):
        pp, tp, sp, dp, zero, _ = s
        b, t, d = self.batch // self.k // dp, max(tp, sp), dp * sp
        seconds, mb = [0.0] * pp, [1024.0] * pp
        for stage in {0, pp - 1}:
            other = self.other["pp_off" if pp == 1 else "pp_on_first" if stage == 0 else "pp_on_last"]
            work = self.ends * b / t / (1 if pp == 1 else 2)
            message = other["model_states"][str(tp)] / 8 * self.c(d, 0 if tp > 1 else 1) * (d - 1) / d
            for share, compute in ((0.5 if zero == 3 else 0, work), ((1 if zero == 3 else 0.5) - (0 if sync else 0.5), 2 * work)):
                comm, compute = message * share, compute * self.o
                seconds[stage] += (comm + (compute - comm) / self.o if compute > comm else comm) / 1000
            if tp > 1:
                seconds[stage] += self.latency("allreduce", tp, self.message(b)) / 2 * (2 if pp == 1 else 1) / 1000
            mb[stage] += other["model_states"][str(tp)] * self.share(s) + other["activation"][str(t)] * self.scale * b * self.held(s, stage)
        return seconds, mb

    def transition(self, a, b):
        ta, tb = max(a[1], a[2]), max(b[1], b[2])
        if a == b:
            return 0
        if ta != tb:
            g = max(ta, tb)
            return (g - 1) / g * self.batch / self.k / (self.world // a[0] // g) * self.seq * self.hidden * 2 * self.c(g, 1) * 1e-7
        if a[1] != b[1]:
            return 1e-10 if a[4:] == b[4:] and b[2] > 1 else 0
        if b[4] == 3 and b[5]:
            return 3e-9
        if b[4] == 3:
            return 1e-9 if not a[5] and a[4] != 3 else 0
        return 0 if not b[5] or a[5] else 1e-9 if a[4] == 3 else 2e-9


def choose(time_of, memory, transition, layers, budgets):
    """Galvatron's table; the choice at each budget, None where none fits."""
    cells, kinds = max(budgets) + 1, len(time_of)
    f, marks = numpy.zeros((cells, kinds)), []
    for i in range(layers):
        every = f[:, :, None] + (transition if i else numpy.zeros_like(transition))
        from_, step = every.argmin(1), every.min(1)
        g, mark = numpy.full((cells, kinds), numpy.inf), numpy.full((cells, kinds), -1)
        for s in range(kinds):
            if memory[s] < cells:
                g[memory[s]:, s] = step[:cells - memory[s], s] + time_of[s]
                mark[memory[s]:, s] = from_[:cells - memory[s], s]
        f = g
        marks.append(mark)
    out = []
    for v in budgets:
        s = int(f[v].argmin()) if v >= 0 else 0
        if v < 0 or f[v, s] == numpy.inf:
            out.append(None)
            continue
        path = [s]
        for i in range(layers - 1, 0, -1):
            s, v = int(marks[i][v, s]), v - memory[s]
            path.append(s)
        out.append(path[::-1])
    return out


def step_seconds(model, plan, cut, embed):
    c, at = list(model.embed(embed, False)[0]), 0
    w = [0.0] * len(c)
    for stage, count in enumerate(cut):
        for s in plan[at:at + count]:
            c[stage] += model.layer_seconds(s, 0)
            w[stage] += model.layer_seconds(s, 1)
        at += count
    p, k = len(c), model.k
    warm, rest = min(p - 1, k - 1) * c[0], sum(c[1:])
    r2 = max(warm / 3, rest / 3) + max(warm * 2 / 3, rest * 2 / 3) + c[0] * max(0, k + 1 - p)
    return max(sum(c) + c[-1] * (k - 1), r2) + max(0, max(wi - sum(c[:i + 1]) for i, wi in enumerate(w)))


def search(case, profile):
    model, best = Model(case, profile), math.inf
    gib = case["memory_gib"] * 1024
    budget = gib - int(gib * 0.2) if gib // 1024 > 20 else gib
    for pp in (1, 2, 4, 8):
        if pp > min(model.world, model.layers, model.k):
            continue
        ranks, most = model.world // pp, max(1, min(model.batch // model.k, model.world // pp))
        every = [(pp, t if kind == "tp" else 1, t if kind == "sp" else 1, ranks // t, zero, recompute)
                 for kind, t in itertools.product(("tp", "sp"), (1, 2, 4, 8)) if t <= ranks and (kind == "tp" or t > 1)
                 for zero in ([0] if ranks // t == 1 else [2, 3]) for recompute in (False, True)]
        cut = [model.layers // pp] * (pp - 1) + [model.layers - model.layers // pp * (pp - 1)]
        for mode in ("tp", "sp", "both"):
            for cap in ([min(ranks, 8)] if mode == "sp" else [t for t in (1, 2, 4, 8) if max(1, ranks // most) <= t <= min(ranks, 8)]):
                kinds = sorted(s for s in every if max(s[1], s[2]) <= cap and s[3] <= most and (mode == "both" or (s[2] if mode == "tp" else s[1]) == 1))
                embeds = [s for s in kinds if not s[5]]
                if not kinds:
                    continue
                buffer = 0 if mode == "sp" else int(model.batch / model.k / (ranks // cap) * model.hidden * model.seq * 4 / MIB / 2)
                transition = numpy.array([[model.transition(a, b) for b in kinds] for a in kinds])
                plans = [[] for _ in embeds]
                for stage in range(pp):
                    budgets = [budget - buffer - math.ceil(model.embed(e, False)[1][stage]) for e in embeds]
                    if max(budgets) < 0:
                        plans = [None] * len(embeds)
                        break
                    found = choose([model.layer_seconds(s, 1) for s in kinds], [math.ceil(model.layer_mb(s, stage)) for s in kinds], transition, cut[stage], budgets)
                    plans = [None if plan is None or path is None else plan + [kinds[s] for s in path] for plan, path in zip(plans, found)]
                for embed, plan in zip(embeds, plans):
                    if plan is not None:
                        best = min(best, step_seconds(model, plan, cut, embed))
    return model.batch / best


def main():
    program = sys.argv[1]
    data = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "tests/data/planner")
    profiles = json.loads((data / "profiles.json").read_text(encoding="utf-8"))
    case = next(c for c in json.loads((data / "galvatron.json").read_text(encoding="utf-8"))["cases"] if c["name"] == "p.search0")
    ours, peers = [], []
    for _ in range(3):
        start = time.process_time()
        rate = search(case["input"], profiles[case["input"]["profile"]])
        peers.append(time.process_time() - start)
        rows = subprocess.run([program, str(data), "3"], check=True, capture_output=True, text=True).stdout.splitlines()
        row = next(line for line in rows if line.startswith("Galvatron search")).split()
        ours.append(float(row[3]))
    ours.sort(), peers.sort()
    print("\n".join(rows))
    print(f"numpy rewrite of the search: {peers[1]:.3f} CPU s, {rate:.8f} samples/s; {peers[1] / ours[1]:.0f} times as long")


if __name__ == "__main__":
    main()
