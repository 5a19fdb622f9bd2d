"""The demo recipe, with 5 prompts in groups of 3, on several ranks against one process: a table of what differs.

usage: demo_equality.py UNIGRPO [--steps N] [--ranks N,N] [--only NAME]    UNIGRPO: the binary

Equal means: what step 1 draws, to the bit; every step's gradient norm within 1e-5, each loss within 1e-5 and 1e-6, the
weights at the end within 1e-5 in norm.
"""

import argparse
import math
import os
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
BASE = {"grpo.prompts_per_step": 5, "grpo.group_size": 3, "run.threads": 1, "policy.dtype": "float32", "eval.prompts": "",
        "checkpoint.every": 0, "monitor.num_samples": 100, "monitor.sample_every": 1}
RECIPES = {
    "as it is": {},
    "LoRA": {"policy.train": "lora", "policy.lora.rank": 8, "grpo.text.kl_beta": 0.1},
    "frozen experts": {"policy.freeze": '["*_moe_gen*"]'},
    "two turns": {"rollout.episode": '["text", "image", "text", "image"]'},
    "two optimizer steps": {"grpo.num_minibatches": 2},
    "resampling": {"grpo.advantage.zero_std": "resample"},
    "running statistics": {"grpo.advantage.statistics": "running"},
}


# Of ranks that share sequences or layers; one process ignores it.
SHARED = {
    "sp 8": (8, {"parallel.sp": 8}),
    "sp 2": (4, {"parallel.sp": 2}),
    "tp 2": (4, {"parallel.tp": 2}),
    "tp 2, sp 2": (4, {"parallel.tp": 2, "parallel.sp": 2}),
}


def train(binary, home, size, settings, steps):
    recipe = (REPOSITORY / "recipes/shapes_demo.toml").read_text()
    if "policy.train" in settings or "policy.freeze" in settings:  # groups are of what is trained
        recipe = re.sub(r"\[\[optim\.groups\]\][^\[]*", "", recipe)
    home.parent.mkdir(exist_ok=True)
    (home.parent / "shapes_demo.toml").write_text(recipe)
    sets = [part for key, value in {**BASE, **settings, "run.num_steps": steps, "run.dir": home}.items()
            for part in ("--set", f"{key}={value}")]
    for rank, (code, _, err) in enumerate(ranks_run.run(binary, size, "train", home.parent / "shapes_demo.toml", *sets, cwd=REPOSITORY)):
        assert code == 0, f"rank {rank} of {size}: {err}"
    return home


def drawn(run, step):
    """What a step drew: (token ids as text, images and rewards) as stored."""
    return {path.name: path.read_bytes() for path in sorted((run / f"samples/step_{step:06}").iterdir())}


def apart(run, reference):
    """How far two runs are from each other."""
    rows, wanted = (tiny_run.metrics_of(folder, steady=False) for folder in (run, reference))
    norm = loss = 0.0
    steps_alike = 0
    for row, want in zip(rows, wanted, strict=True):
        for name, value in want.items():
            if name == "optim/grad_norm":
                norm = max(norm, abs(row[name] - value) / value)
            elif name.endswith("/loss"):
                loss = max(loss, (abs(row[name] - value) - 1e-6) / (abs(value) or math.inf))
        if row["step"] == steps_alike + 1 and drawn(run, row["step"]) == drawn(reference, row["step"]):
            steps_alike += 1
    (last,) = (reference / "checkpoints").glob("step_*")
    weights = [ranks_run.part_of(folder / "checkpoints" / last.name, "policy") for folder in (run, reference)]
    return {"steps drawn alike": steps_alike, "grad norm": norm, "losses": loss, "weights": ranks_run.distance(*weights)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ranks", default="2,3")
    parser.add_argument("--only")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.ranks.split(",")]
    recipes = {name: (sizes, settings) for name, settings in RECIPES.items()}
    recipes.update({name: ([size], settings) for name, (size, settings) in SHARED.items()})
    equal = True
    print(f"{'recipe':<22} ranks  steps drawn alike  grad norm  losses     weights")
    for name, (sizes, settings) in recipes.items():
        if arguments.only and name != arguments.only:
            continue
        with tempfile.TemporaryDirectory(prefix="unigrpo-demo-") as holder:
            home = pathlib.Path(holder)
            reference = train(arguments.binary, home / "one", 0, settings, arguments.steps)
            for size in sizes:
                found = apart(train(arguments.binary, home / str(size), size, settings, arguments.steps), reference)
                good = found["steps drawn alike"] > 0 and max(found["grad norm"], found["losses"], found["weights"]) <= 1e-5
                equal = equal and good
                print(f"{name:<22} {size:>5}  {found['steps drawn alike']:>17}  {found['grad norm']:<9.1e}  "
                      f"{max(found['losses'], 0):<9.1e}  {found['weights']:<9.1e}{'' if good else '  NOT EQUAL'}", flush=True)
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
