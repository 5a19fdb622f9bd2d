"""Several ranks beside one process and beside PyTorch's fully_shard: times, bytes on the wire, memory.

usage: parallel.py UNIGRPO [--rows NAME,...] [--steps N] [--repeats N] [--peer PYTHON] [--json FILE]
UNIGRPO: the binary, started from the repository's root. Needs two cores that nothing else uses; each rank is pinned to
one and has one thread. Two things that are compared run in turn; a row shows the median over steps and repetitions
(the first step of a run does not count), the ratio as min, median, max of the repetitions. --peer: a Python with torch
2.11 and its dependencies.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = """
[run]
name = "bench"
num_steps = {steps}
threads = 1
[policy]
model = "{model}"
dtype = "float32"
[data]
prompts = "{root}/assets/shapes-world/train.jsonl"
[rollout]
episode = ["text", "image"]
num_steps = 4
max_tokens = 32
image_size = 64
[rollout.window]
mode = "all"
[grpo]
prompts_per_step = 4
group_size = 4
micro_batch_tokens = 100000
[[rewards]]
kind = "text_rules"
pattern = "[a-m]"
[monitor.drift]
enabled = false
[checkpoint]
every = 0
"""


def pinned(core):
    return lambda: os.sched_setaffinity(0, {core % os.cpu_count()})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched(rank, size, port):
    """A launcher's variables."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start_ranks(size, command, cwd, place=pinned):
    """Rank r on core r, or as `place` says of it; size 0: one process, on core 0. Returns what rank 0 printed."""
    port, ranks = free_port(), []
    for rank in range(max(size, 1)):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        if size > 0:
            env.update(launched(rank, size, port))
        ranks.append(subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, preexec_fn=place(rank),
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [rank.communicate() for rank in ranks]
    for rank, (_, stderr) in zip(ranks, outputs):
        if rank.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: exit {rank.returncode}\n{stderr[-2000:]}")
    return outputs[0][0]


def peak_of(command):
    """The most resident memory that it takes, in bytes."""
    run = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL)
    return os.wait4(run.pid, 0)[2].ru_maxrss * 1024


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.count = options, folder, 0
        self.unigrpo = pathlib.Path(options.unigrpo).resolve()
        self.place = pinned

    def train(self, size, recipe, settings, steps):
        """Metrics of all steps but the first, and the run's log."""
        self.count += 1
        sets = {"run.dir": f"{self.folder}/run-{self.count}", "run.num_steps": steps, "run.threads": 1, **settings}
        command = [self.unigrpo, "train", recipe]
        for key, value in sets.items():
            command += ["--set", f"{key}={value}"]
        start_ranks(size, command, ROOT, self.place)
        (run,) = (path.parent for path in (self.folder / f"run-{self.count}").rglob("metrics.jsonl"))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        log = (run / "log.txt").read_text()
        shutil.rmtree(self.folder / f"run-{self.count}")
        return [row for row in rows if row["step"] > 1], log

    def model(self):
        """512 x 8 in BAGEL's shape, without a large vocabulary or autoencoder."""
        model = self.folder / "model"
        if not model.exists():
            configs = self.folder / "configs"
            configs.mkdir()
            for file in (ROOT / "assets/shapes-base").iterdir():
                if file.suffix != ".safetensors":
                    shutil.copy(file, configs)
            config = json.loads((configs / "llm_config.json").read_text())
            config.update(hidden_size=512, intermediate_size=1536, num_hidden_layers=8)
            (configs / "llm_config.json").write_text(json.dumps(config))
            subprocess.run([self.unigrpo, "init", "--configs", configs, "--out", model, "--float32"], check=True,
                           stdout=subprocess.DEVNULL)
            (self.folder / "bench.toml").write_text(RECIPE.format(steps=2, model=model, root=ROOT))
        return model

    def wide(self, size, shard):
        self.model()
        return self.train(size, self.folder / "bench.toml", {"parallel.shard": shard}, self.options.steps)

    def compare(self, ours, other):
        """Both in turn; each returns {name: value}. Returns the medians of both and {name: ratios other / ours}."""
        seen = [], []
        for _ in range(self.options.repeats):
            seen[0].append(ours())
            seen[1].append(other())
        names = seen[0][0].keys() & seen[1][0].keys()
        medians = [{name: statistics.median(run[name] for run in runs) for name in runs[0]} for runs in seen]
        ratios = {name: sorted(b[name] / a[name] for a, b in zip(*seen)) for name in names}
        return *medians, {name: (r[0], statistics.median(r), r[-1]) for name, r in ratios.items()}


def median_of(rows, *names):
    return {name: statistics.median(row[name] for row in rows) for name in names}


def spread(ratio):
    return "{:.2f} ({:.2f} to {:.2f})".format(ratio[1], ratio[0], ratio[2])


def demo(bench):
    """Demo recipe, 2 ranks on 2 cores against one process on one core."""
    settings = {"monitor.drift.enabled": "false", "eval.prompts": "", "checkpoint.every": 0}
    names = ("time/step", "time/rollout", "time/update")
    run = lambda size: median_of(bench.train(size, ROOT / "recipes/shapes_demo.toml", settings, bench.options.steps)[0], *names)
    two, one, ratios = bench.compare(lambda: run(2), lambda: run(0))
    for name, goal in (("time/step", ">= 1.6"), ("time/rollout", ">= 1.8"), ("time/update", "")):
        yield f"demo, 2 ranks: {name[5:]}", f"{two[name]:.2f} s", f"{one[name]:.2f} s, 1 process", spread(ratios[name]), goal


def weights(bench):
    """512 x 8, 2 ranks: weights shared against nothing shared."""
    run = lambda shard: median_of(bench.wide(2, shard)[0], "time/step", "time/update", "parallel/bytes_sent")
    shared, none, ratios = bench.compare(lambda: run("weights"), lambda: run("none"))
    inverse = {name: tuple(1 / r for r in reversed(ratio)) for name, ratio in ratios.items()}
    for name, goal in (("time/step", "<= 1.15"), ("time/update", "")):
        yield (f'512 x 8, "weights": {name[5:]}', f"{shared[name]:.2f} s", f'{none[name]:.2f} s, "none"',
               spread(inverse[name]), goal)


def peer(bench):
    """Update of weights-shared ranks against PyTorch's fully_shard on as many rows."""
    _, log = bench.wide(2, "weights")
    tokens = int(re.search(r"tokens in the update at most +(\d+)", log)[1])
    samples, block = 16, 18
    rows, generated = tokens // 2, samples // 2 * 4 * block
    config = bench.model() / "llm_config.json"
    def ours():
        seen = bench.wide(2, "weights")[0]
        return {"seconds": statistics.median(row["time/update"] for row in seen)}
    def theirs():
        command = [bench.options.peer, ROOT / "bench/parallel_peer.py", config, rows, generated, bench.options.steps]
        return json.loads(start_ranks(2, command, ROOT).splitlines()[-1])
    own, other, ratios = bench.compare(ours, theirs)
    yield (f"512 x 8, {rows} rows a rank: update", f"{own['seconds']:.2f} s", f"{other['seconds']:.2f} s, fully_shard",
           spread(ratios["seconds"]), ">= 1")


def state(bench):
    """memory/state_bytes of the embedded model on 4 ranks."""
    settings = {"monitor.drift.enabled": "false", "eval.prompts": "", "checkpoint.every": 0, "grpo.prompts_per_step": 4,
                "grpo.group_size": 2, "optim.ema.enabled": "false"}
    recipe = ROOT / "recipes/shapes_demo.toml"
    one = bench.train(0, recipe, settings, 2)[0][-1]["memory/state_bytes"]
    four = bench.train(4, recipe, {**settings, "parallel.shard": "weights"}, 2)[0][-1]["memory/state_bytes"]
    yield 'state, "weights" on 4 ranks', f"{four / 2**20:.1f} MiB", f"{one / 2**20:.1f} MiB, 1 process", f"{four / one:.3f}", "<= 0.27"


def begin(bench):
    """Seconds from the start until rank 0 begins the first rollout, of 4 ranks beside one process; both on all cores."""
    def run(size):
        folder = bench.folder / f"begin-{time.monotonic_ns()}"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "UNIGRPO_FAULT": "rollout.begin@0=exit"}
        port, begin_s = free_port(), time.perf_counter()
        command = [bench.unigrpo, "train", ROOT / "recipes/shapes_demo.toml"]
        for setting in (f"run.dir={folder}", "run.threads=1", "monitor.drift.enabled=false", "eval.prompts="):
            command += ["--set", setting]
        ranks = [subprocess.Popen(command, env={**env, **(launched(rank, size, port) if size else {})}, cwd=ROOT,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for rank in range(max(size, 1))]
        ranks[0].wait()
        seconds = time.perf_counter() - begin_s
        for rank in ranks:
            rank.kill()
            rank.wait()
        assert list(folder.rglob("log.txt")), "it did not come to a rollout"
        return {"seconds": seconds}
    four, one, _ = bench.compare(lambda: run(4), lambda: run(0))
    yield ("start of 4 ranks until the first rollout", f"{four['seconds']:.2f} s", f"{one['seconds']:.2f} s, 1 process",
           f"+{four['seconds'] - one['seconds']:.2f} s", "<= +2 s")


SPREADS = (("none", 2, {}), ("optimizer", 2, {"shard": "optimizer"}), ("gradients", 2, {"shard": "gradients"}),
           ("weights", 2, {"shard": "weights"}), ("weights over 2 of 4", 4, {"shard": "weights", "shard_ranks": 2}),
           ("sp 2", 2, {"sp": 2}), ("tp 2", 2, {"tp": 2}))


def said_of(text):
    """(bytes that a rank sends in a step, GiB that it takes), by a dry run."""
    number, unit = re.search(r"each rank sends ([\d.]+) ([MG])B a step", text).groups()
    memory = re.search(r"\n  in all +[\d.]+ +([\d.]+)\n(?=a rank)", text)[1]
    return float(number) * {"M": 1e6, "G": 1e9}[unit], float(memory)


def wire(bench):
    """512 x 8: bytes that ranks send, and the most memory that one takes above its program's, beside the dry run's."""
    bench.model()
    empty = peak_of([bench.unigrpo.with_name("unigrpo-torch"), "train", "--help"])
    for name, size, keys in SPREADS:
        settings = {f"parallel.{key}": value for key, value in keys.items()}
        sets = [word for key, value in {**settings, "run.threads": 1}.items() for word in ("--set", f"{key}={value}")]
        dry = [bench.unigrpo, "train", bench.folder / "bench.toml", *sets, "--dry-run"]
        said = subprocess.run(list(map(str, dry)), cwd=ROOT, env={**os.environ, **launched(0, size, 1)}, check=True, capture_output=True, text=True)
        sent, gib = said_of(said.stdout)
        rows, _ = bench.train(size, bench.folder / "bench.toml", settings, 2)
        measured = rows[-1]["parallel/bytes_sent"] / size
        yield f"512 x 8, {name}: sent by a rank", f"{measured / 1e6:.1f} MB", f"{sent / 1e6:.1f} MB needed", f"{measured / sent:.3f}", "<= 1.02"
        taken = (rows[-1]["memory/peak_bytes"] - empty) / 2 ** 30
        yield f"512 x 8, {name}: memory of a rank", f"{taken:.3f} GiB", f"{gib:.3f} GiB, dry run", f"{taken / gib:.2f}", "0.85 to 1.15"


def gathers(bench):
    """512 x 8: gathers of shared weights behind the work of a micro-batch."""
    command = [bench.unigrpo.with_name("bench_parallel"), bench.model(), "--gathers", "--steps", bench.options.steps]
    for samples in (2, 8):
        run = subprocess.run(list(map(str, [*command, "--samples", samples])), check=True, capture_output=True, text=True)
        seen = json.loads(run.stdout)
        yield (f'512 x 8, "weights", {samples * 512} rows: gathers waited for', f"{seen['waited_ms']:.0f} ms",
               f"{seen['alone_ms']:.0f} ms, nothing else done", f"{seen['hidden']:.2f} hidden", ">= 0.6")


def lengths(bench):
    """An update over prompts of log-normal lengths, the longest 20 times the median, on 4 ranks: groups by lengths against
    the best static parallel.sp, both with as many tokens a rank."""
    ranks, prompts, median = 4, 16, 24
    bench.model()
    spread_of = statistics.NormalDist(0, math.log(20) / statistics.NormalDist().inv_cdf(1 - 0.5 / prompts))
    words = [max(1, round(median * math.exp(spread_of.inv_cdf((i + 0.5) / prompts)))) for i in range(prompts)]
    file = bench.folder / "lengths.jsonl"
    file.write_text("".join(json.dumps({"prompt": "red " * count}) + "\n" for count in words))
    settings = {"data.prompts": file, "rollout.episode": '["text"]', "rollout.max_tokens": 8, "grpo.prompts_per_step": prompts,
                "grpo.group_size": 2}
    # A word is three tokens. What the longest sample takes of two ranks: a static degree below 2 has no room for it.
    tokens = int(0.55 * (3 * max(words) + 20))
    profile = {"parallel.profile": pathlib.Path(bench.options.profile).resolve()} if bench.options.profile else {}
    def static(sp):
        rows = bench.train(ranks, bench.folder / "bench.toml", {**settings, "parallel.sp": sp, "grpo.micro_batch_tokens": sp * tokens},
                           bench.options.steps)[0]
        return median_of(rows, "time/update")
    def flexible():
        rows = bench.train(ranks, bench.folder / "bench.toml", {**settings, "parallel.flexible_sp": "true",
                                                                "grpo.micro_batch_tokens": tokens, **profile},
                           bench.options.steps)[0]
        print("; ".join(f"{name} {rows[-1][name]:.4g}" for name in sorted(rows[-1]) if "/plan" in name or "/groups_of" in name),
              file=sys.stderr)
        return median_of(rows, "time/update")
    best = min((2, 4), key=lambda sp: static(sp)["time/update"])
    own, other, ratios = bench.compare(flexible, lambda: static(best))
    yield (f"{prompts} log-normal lengths x 2, 4 ranks: update", f"{own['time/update']:.2f} s",
           f"{other['time/update']:.2f} s, sp = {best}", spread(ratios["time/update"]), "")


ROWS = {"demo": demo, "weights": weights, "peer": peer, "state": state, "begin": begin, "wire": wire, "gathers": gathers, "lengths": lengths}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("unigrpo")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--profile", help="folder of `unigrpo profile` of this machine, for the row of lengths")
    parser.add_argument("--json")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory(prefix="unigrpo-bench-") as folder:
        bench = Bench(options, pathlib.Path(folder))
        print("| what | ours | beside | ratio | goal |\n|---|---|---|---|---|", flush=True)
        for name in options.rows.split(","):
            for row in ROWS[name](bench):
                table.append(row)
                print("| " + " | ".join(row) + " |", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
