"""Plans of four ranks, predicted and run: a profile of this machine, the planner's choice, and six plans written by hand.

usage: plans.py UNIGRPO [--steps N] [--repeats N] [--keep FOLDER]
UNIGRPO: the binary, started from the repository's root. Needs an idle machine. Rank r is pinned to core r mod the number
of cores; where ranks outnumber cores each has its share of one and no more (a quota, which needs root and cgroup v1 or v2),
since on a core that two share what one does not use would speed up the other. The model is profiled by one process with
such a share. Plans run in turn; "measured" is the median of `time/update` over steps (but the first of a run) and
repetitions.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import parallel
from parallel import ROOT, Bench

RANKS = 4
LAYERS = 8
SAMPLES = 16  # of an optimizer step, as the recipe of parallel.py has it
SETTINGS = {"grpo.image.penalty": "none", "monitor.sample_every": 1000}


def strategy(pp=1, tp=1, sp=1, zero=0):
    return {"pp": pp, "tp": tp, "sp": sp, "dp": RANKS // (pp * tp * sp), "zero": zero, "recompute": False}


def plan_of(stages, layers, micro_batches, embed_zero=0):
    return {"format": "unigrpo-plan/1", "world": RANKS, "global_batch": SAMPLES, "micro_batches": micro_batches,
            "schedule": "1f1b", "partition": [LAYERS // stages] * stages,
            "embed": {"tp": 1, "sp": 1, "zero": embed_zero}, "layers": layers}


def by_hand():
    half = LAYERS // 2
    return {
        "data parallel, ZeRO-1": plan_of(1, [{**strategy(zero=1), "repeat": LAYERS}], 1, 1),
        "data parallel, ZeRO-3": plan_of(1, [{**strategy(zero=3), "repeat": LAYERS}], 1, 3),
        "tp 2 x dp 2": plan_of(1, [{**strategy(tp=2, zero=1), "repeat": LAYERS}], 1, 1),
        "sp 2 x dp 2": plan_of(1, [{**strategy(sp=2, zero=1), "repeat": LAYERS}], 1, 1),
        "2 stages x dp 2": plan_of(2, [{**strategy(pp=2, zero=1), "repeat": LAYERS}], 4, 1),
        "dp 4, then tp 2 x dp 2": plan_of(1, [{**strategy(zero=1), "repeat": half},
                                             {**strategy(tp=2, zero=1), "repeat": half}], 1, 1),
    }


class Quotas:
    """A control group for each rank, with a rank's part of a core."""

    PERIOD_US = 2000  # the least quota is half of it

    def __init__(self, ranks):
        first = pathlib.Path("/sys/fs/cgroup/cpu")
        self.groups = [(first if first.is_dir() else first.parent) / f"unigrpo-{os.getpid()}-{rank}" for rank in range(ranks)]
        quota = self.PERIOD_US * os.cpu_count() // ranks
        for group in self.groups:
            group.mkdir()
            if first.is_dir():
                (group / "cpu.cfs_period_us").write_text(str(self.PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {self.PERIOD_US}")

    def place(self, rank):
        pin = parallel.pinned(rank)
        return lambda: (pin(), (self.groups[rank] / "cgroup.procs").write_text(str(os.getpid())))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for group in self.groups:
            group.rmdir()


class Plans(Bench):
    def say(self, *command):
        run = subprocess.run([str(self.unigrpo), *map(str, command)], cwd=ROOT, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: exit {run.returncode}\n{run.stderr[-2000:]}")
        return run.stdout

    def profile(self):
        """Links among four ranks, and the model in one process with a rank's share of a core."""
        self.model()
        recipe, out = self.folder / "bench.toml", self.folder / "profile"
        parallel.start_ranks(RANKS, [self.unigrpo, "profile", "--hardware", "--out", out, "--max-mb", "128"], ROOT, self.place)
        sets = [word for key, value in {**SETTINGS, "run.threads": 1}.items() for word in ("--set", f"{key}={value}")]
        parallel.start_ranks(0, [self.unigrpo, "profile", "--model", recipe, "--mode", "batch", "--out", out, *sets], ROOT, self.place)
        return out

    def judged(self, plan, profile):
        """A plan's file with what it is predicted to take."""
        self.count += 1
        file, out = self.folder / f"asked-{self.count}.json", self.folder / f"plan-{self.count}.json"
        file.write_text(json.dumps(plan))
        self.say("plan", self.folder / "bench.toml", "--import", file, "--profile", profile, "--json", out)
        return out

    def run_plan(self, file, tokens):
        """Seconds of the updates, and the most memory that a rank took, MiB."""
        plan = json.loads(file.read_text())
        sets = SAMPLES // plan["micro_batches"] // max(1, min(layer["dp"] for layer in plan["layers"]))
        rows, _ = self.train(RANKS, self.folder / "bench.toml",
                             {**SETTINGS, "parallel.plan": file, "grpo.micro_batch_tokens": max(1, sets) * tokens},
                             self.options.steps)
        return [row["time/update"] for row in rows], max(row["memory/peak_bytes"] for row in rows) / 2 ** 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("unigrpo")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", help="an empty folder for profile and plans, which stay there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unigrpo-plans-") as folder, contextlib.ExitStack() as stack:
        bench = Plans(options, pathlib.Path(options.keep or folder).resolve())
        if RANKS > os.cpu_count():
            bench.place = stack.enter_context(Quotas(RANKS)).place
        profile = bench.profile()
        chosen = bench.folder / "chosen.json"
        print(bench.say("plan", bench.folder / "bench.toml", "--profile", profile, "--json", chosen, "--batch", SAMPLES), file=sys.stderr)
        plans = {"the planner's": chosen, **{name: bench.judged(plan, profile) for name, plan in by_hand().items()}}
        tokens = 32 + 16 * 4 + 24  # a sample's: text, images as they are trained, boundaries and the prompt
        seconds = {name: [] for name in plans}
        memory = {}
        for _ in range(options.repeats):
            for name, file in plans.items():
                times, memory[name] = bench.run_plan(file, tokens)
                seconds[name] += times
                print(f"{name}: {times}", file=sys.stderr, flush=True)
        empty = parallel.peak_of([bench.unigrpo.with_name("unigrpo-torch"), "train", "--help"]) / 2 ** 20
        print("| plan | predicted, ms | measured, ms | measured / predicted | memory predicted, MiB | above the program's, MiB |\n|---|---|---|---|---|---|")
        for name, file in plans.items():
            predicted = json.loads(file.read_text())["predicted"]
            measured = 1000 * statistics.median(seconds[name])
            print(f"| {name} | {predicted['step_ms']:.0f} | {measured:.0f} | {measured / predicted['step_ms']:.2f} | "
                  f"{max(predicted['memory_mb']):.0f} | {memory[name] - empty:.0f} |", flush=True)


if __name__ == "__main__":
    main()
