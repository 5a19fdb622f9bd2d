#!/usr/bin/env python3
"""Rewrites the tables of docs/EXPERIMENTS.md and README.md from the runs that scripts/experiments.sh made.

usage: experiments_table.py [--check | --finished NAME] [--runs DIR] [--seeds "0 1 2"] [--root DIR]

Reads runs/exp_<row>_s<seed>/ (runs/exp_base/ for the starting model): eval_before.json, eval_after.json, their _guided and
_answers forms, metrics.jsonl, recipe.toml. What the tables need of a finished run is kept in docs/experiments.json, so that
another machine goes on from there: a run that is not in runs/ is taken from it. --finished only says by its exit code whether
that file has the run.
A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. A run that is missing is called so, and is
in no mean. --check writes nothing and prints what is missing, does not fit together or is out of date; exit code 1
where there is such a thing. Standard library only.
"""

import argparse
import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIN_IMAGES = 400
# The evaluations of a finished run, and row -> what its runs have of them. `base` has evaluations only.
SCORED = ("before", "after")
GUIDED = SCORED + ("before_guided", "after_guided")
ANSWERS = ("before_answers", "after_answers")
ROWS = {"base": ("four", "oracle_plan"), "demo": GUIDED + ANSWERS, "joint": GUIDED, "text_only": SCORED,
        "image_only": SCORED, "hack_velocity_mse": SCORED, "hack_latent_kl": SCORED, "hack_none": SCORED,
        "train_guided": GUIDED, "answer": SCORED, "edit": SCORED, "turns": SCORED + ANSWERS,
        "draw_vision": SCORED + ANSWERS}
# Runs that the drift monitor watches and that are scored as they go, under rewards that can be hacked and under an honest one.
HACKED = {"drift_saturation": "saturated images", "drift_dark": "dark images", "drift_large_jpeg": "large JPEG files",
          "drift_small_jpeg": "small JPEG files", "drift_bright": "bright images", "drift_long_text": "long texts"}
HONEST = {"drift_honest": "GenEval", "answer": "answers to questions", "edit": "the asked change",
          "turns": "GenEval, after two turns", "draw_vision": "GenEval, from the model taught to look"}
WATCHED = (*HACKED, "drift_honest")
ROWS |= {row: SCORED for row in WATCHED}
BASE = "exp_base"
NOT_RUN = "not run"
ENDS = 3  # steps that "first" and "last" values of a metric are averaged over
LOST = 0.05  # of the held-out score, before which an alarm must come


# What docs/experiments.json keeps of a run beside its evaluations.
METRICS = ("reward/mean", "reward/saturation", "image/velocity_mse")
RECIPE_KEYS = ("grpo.image.penalty_weight",)


class Run:
    """What one run folder says, or what was kept of it; every part may be missing."""

    def __init__(self, evals, steps, metrics, recipe, alarms, held_out):
        self.evals = evals      # name -> the JSON of `eval --json`
        self.steps = steps
        self.metrics = metrics  # name -> [mean of the first steps, mean of the last]
        self.recipe = recipe
        self.drift = alarms      # [step, statistic, 1 (risen) or -1 (fallen)]
        self.held_out = held_out  # [step, strict score before it] of a run that is scored as it goes

    @classmethod
    def of_folder(cls, folder):
        evals = {path.stem.removeprefix("eval_"): read_json(path) for path in sorted(folder.glob("eval_*.json"))
                 if not path.stem.startswith("eval_step_")}  # those are in the metrics
        evals = {name: result for name, result in evals.items() if result["overall"]["strict"] is not None}  # no score
        rows = read_metrics(folder / "metrics.jsonl")
        metrics = {}
        for name in METRICS:
            values = [row[name] for row in rows if row.get(name) is not None]
            if values:
                metrics[name] = [mean(values[:ENDS]), mean(values[-ENDS:])]
        recipe = read_recipe(folder / "recipe.toml")
        # A probe comes before its step's update: with one step less done than the row says.
        alarms = [[row["step"] - 1, name.removeprefix("drift_raised/"), row[name]]
                  for row in rows for name in sorted(row) if name.startswith("drift_raised/")]
        held_out = [[row["step"], row["eval/strict"]] for row in rows if row.get("eval/strict") is not None]
        return cls(evals, rows[-1]["step"] if rows else 0, metrics,
                   {key: recipe[key] for key in RECIPE_KEYS if key in recipe}, alarms, held_out)

    @classmethod
    def of_json(cls, kept):
        return cls(kept["evals"], kept["steps"], kept["metrics"], kept["recipe"], kept.get("drift", []),
                   kept.get("held_out", []))

    def to_json(self):
        return {"steps": self.steps, "metrics": self.metrics, "recipe": self.recipe, "evals": self.evals,
                "drift": self.drift, "held_out": self.held_out}

    def score(self, name, measure="strict"):
        return self.evals[name]["overall"][measure] if name in self.evals else None

    def metric(self, name, end):
        """The mean over the first or last steps that have the metric."""
        ends = self.metrics.get(name)
        return None if ends is None else ends[0 if end == "first" else 1]

    def missing(self, row):
        """Evaluations that a finished run of this row has and this one has not."""
        return [name for name in ROWS[row] if name not in self.evals]

    def lost_at(self):
        """The first step before which the held-out score had lost LOST; None where it never had."""
        scores = self.held_out + [[self.steps, self.score("after")]]
        return next((step for step, score in scores if score <= self.score("before") - LOST), None)

    def in_time(self):
        """Whether an alarm came before the held-out score had lost LOST; None where it never had."""
        lost = self.lost_at()
        return None if lost is None else bool(self.drift) and self.drift[0][0] < lost


def name_of(row, seed):
    return BASE if row == "base" else f"exp_{row}_s{seed}"


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path}: {error}")


def read_metrics(path):
    if not path.exists():
        return []
    # A line without its newline was torn by a killed process.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise SystemExit(f"{path}: {error}")


def read_recipe(path):
    """The resolved recipe as {"section.key": text}: one key a line, as we write it."""
    values, section = {}, ""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif " = " in line:
                key, value = line.split(" = ", 1)
                values[f"{section}.{key}"] = value.strip('"')
    return values


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value, digits=3, sign=False):
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def difference(after, before):
    return None if after is None or before is None else after - before


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


class Experiments:
    def __init__(self, runs, seeds, kept):
        self.seeds = seeds
        self.kept = dict(kept)
        self.runs = {}
        for row in ROWS:
            for seed in self.seeds:
                name = name_of(row, seed)
                if (runs / name).is_dir():
                    self.runs[row, seed] = Run.of_folder(runs / name)
                    if not self.runs[row, seed].missing(row):
                        self.kept[name] = self.runs[row, seed].to_json()
                elif name in kept:
                    self.runs[row, seed] = Run.of_json(kept[name])

    def run(self, row, seed):
        return self.runs.get((row, seed))

    def values(self, row, value):
        """value(run) for every seed; None where the run or the value is missing."""
        return [value(run) if (run := self.run(row, seed)) else None for seed in self.seeds]

    def scores(self, row, name, measure="strict"):
        return self.values(row, lambda run: run.score(name, measure))

    def gains(self, row, after="after", before="before"):
        return self.values(row, lambda run: difference(run.score(after), run.score(before)))

    def steps(self, row):
        steps = sorted({run.steps for seed in self.seeds if (run := self.run(row, seed)) and "after" in run.evals})
        return ", ".join(map(str, steps)) or "-"

    def cell(self, values, digits=3, sign=False):
        """Mean and each seed: 0.712 (0.705, 0.718, 0.713)."""
        if mean(values) is None:
            return NOT_RUN
        each = ", ".join(NOT_RUN if value is None else number(value, digits, sign) for value in values)
        return f"{number(mean(values), digits, sign)} ({each})"

    def means(self, row, names):
        return [number(mean(self.scores(row, name))) for name in names]

    # ---- the tables

    def base(self):
        rows = []
        run = self.run("base", self.seeds[0])
        for name, label in (("four", "the model's own plan"), ("oracle_plan", "the right plan given")):
            scores = [run.score(name, measure) if run else None for measure in ("strict", "soft")]
            rows.append([label] + [NOT_RUN if score is None else number(score) for score in scores])
        return table(["base model", "strict", "soft"], rows)

    def demo(self):
        header = ["seed", "steps", "strict before", "strict after", "gain", "soft before", "soft after",
                  "guided strict before", "guided strict after"]
        rows = []
        for seed in self.seeds:
            run = self.run("demo", seed)
            if not run or "after" not in run.evals:
                rows.append([seed, NOT_RUN] + ["-"] * 7)
                continue
            rows.append([seed, str(run.steps), number(run.score("before")), number(run.score("after")),
                         number(difference(run.score("after"), run.score("before")), sign=True),
                         number(run.score("before", "soft")), number(run.score("after", "soft")),
                         number(run.score("before_guided")), number(run.score("after_guided"))])
        columns = [self.scores("demo", "before"), self.scores("demo", "after"), self.gains("demo"),
                   self.scores("demo", "before", "soft"), self.scores("demo", "after", "soft"),
                   self.scores("demo", "before_guided"), self.scores("demo", "after_guided")]
        done = [value is not None for value in columns[1]]
        of_finished = [[v for v, ok in zip(column, done) if ok] for column in columns]
        rows.append(["mean", "-"] + [number(mean(column), sign=i == 2) for i, column in enumerate(of_finished)])
        return table(header, rows) + self.images_note("demo")

    def images_note(self, row):
        for seed in self.seeds:
            run = self.run(row, seed)
            if run and "after" in run.evals:
                result = run.evals["after"]
                note = f"\n\n{result['num_prompts']} test prompts, {result['num_samples']} image(s) each"
                guided = run.evals.get("after_guided", result)
                if guided["num_samples"] != result["num_samples"]:
                    note += f", {guided['num_samples']} with guidance"
                return note + "."
        return ""

    def demo_tags(self):
        runs = [self.run("demo", seed) for seed in self.seeds]
        tags = sorted({tag for run in runs if run for tag in run.evals.get("after", {}).get("tags", {})})
        header = ["tag", "prompts", "strict before", "strict after", "gain", "soft before", "soft after"]
        rows = []
        for tag in tags:
            def values(name, key):
                return self.values("demo", lambda run: run.evals.get(name, {}).get("tags", {}).get(tag, {}).get(key))
            gains = [difference(after, before)
                     for after, before in zip(values("after", "strict"), values("before", "strict"))]
            counts = sorted({count for count in values("after", "count") if count is not None})
            rows.append([tag or "-", ", ".join(map(str, counts)), self.cell(values("before", "strict")),
                         self.cell(values("after", "strict")), number(mean(gains), sign=True),
                         number(mean(values("before", "soft"))), number(mean(values("after", "soft")))])
        return table(header, rows or [[NOT_RUN] + ["-"] * 6])

    def modalities(self):
        rows = []
        for row, label in (("joint", "text and image"), ("text_only", "text only"), ("image_only", "image only")):
            rows.append([label, self.steps(row), number(mean(self.scores(row, "before"))),
                         self.cell(self.scores(row, "after")), self.cell(self.gains(row), sign=True),
                         number(mean(self.scores(row, "after", "soft")))])
        return table(["trained", "steps", "strict before", "strict after", "gain", "soft after"], rows)

    def penalties(self):
        rows = []
        for row, label in (("hack_velocity_mse", "velocity MSE"), ("hack_latent_kl", "latent KL"), ("hack_none", "none")):
            def change(name, digits=3):
                first = mean(self.values(row, lambda run: run.metric(name, "first")))
                last = mean(self.values(row, lambda run: run.metric(name, "last")))
                return "-" if last is None else f"{number(first, digits)} -> {number(last, digits)}"
            weights = sorted({run.recipe.get("grpo.image.penalty_weight", "-")
                              for seed in self.seeds if (run := self.run(row, seed))})
            rows.append([label, ", ".join(weights) or "-", self.steps(row), self.cell(self.scores(row, "after")),
                         self.cell(self.gains(row), sign=True), change("reward/mean"), change("reward/saturation"),
                         number(mean(self.values(row, lambda run: run.metric("image/velocity_mse", "last"))), 4)])
        return table(["penalty", "weight", "steps", "true strict after", "gain", "reward (hackable)", "saturation",
                      "velocity MSE at the end"], rows)

    def guidance(self):
        rows = []
        for row, label in (("joint", "none"), ("train_guided", "in the rollouts")):
            rows.append([label, self.steps(row), number(mean(self.scores(row, "before"))),
                         self.cell(self.scores(row, "after")), number(mean(self.scores(row, "before_guided"))),
                         self.cell(self.scores(row, "after_guided"))])
        return table(["guidance in training", "steps", "unguided before", "unguided after", "guided before",
                      "guided after"], rows)

    def tasks(self):
        rows = []
        for row, label in (("answer", "questions about an image"), ("edit", "changes of an image"),
                           ("turns", "two turns, the last image")):
            rows.append([label, self.steps(row), self.cell(self.scores(row, "before")),
                         self.cell(self.scores(row, "after")), self.cell(self.gains(row), sign=True)])
        return table(["task", "steps", "before", "after", "gain"], rows)

    def seeing(self):
        rows = []
        for row, label in (("demo", "the demo"), ("draw_vision", "the demo, from shapes-vision"), ("turns", "two turns")):
            gains = self.gains(row, "after_answers", "before_answers")
            rows.append([label, self.steps(row), self.cell(self.scores(row, "before")), self.cell(self.scores(row, "after")),
                         number(mean(self.scores(row, "before_answers"))), self.cell(self.scores(row, "after_answers")),
                         self.cell(gains, sign=True)])
        return table(["text-to-image run", "steps", "drawn right before", "after", "answers right before", "after",
                      "change"], rows)

    def drift_monitor(self):
        rows = []
        for row, label in HACKED.items():
            for seed in self.seeds:
                run = self.run(row, seed)
                if not run or run.missing(row):
                    rows.append([label, seed, NOT_RUN] + ["-"] * 4)
                    continue
                first = f"{run.drift[0][0]}, {alarm_name(run.drift[0])}" if run.drift else "none"
                lost = run.lost_at()
                rows.append([label, seed, first, "never" if lost is None else str(lost),
                             {None: "nothing lost", True: "yes", False: "no"}[run.in_time()], number(run.score("before")),
                             number(run.score("after"))])
        return table(["rewarded", "seed", "first alarm: step, statistic", f"held-out lost {LOST} before step",
                      "alarm in time", "held-out before", "after"], rows)

    def honest(self):
        rows = []
        for row, label in HONEST.items():
            runs = [run for seed in self.seeds if (run := self.run(row, seed)) and not run.missing(row)]
            alarmed = [run for run in runs if run.drift]
            told = "; ".join(f"step {run.drift[0][0]}, {alarm_name(run.drift[0])}" for run in alarmed)
            rows.append([label, str(len(runs)), self.steps(row), str(len(alarmed)) + (f" ({told})" if told else "")])
        return table(["rewarded honestly", "runs", "steps", "with an alarm"], rows)

    def readme_demo(self):
        def line(label, before, after, measure="strict"):
            b, a = self.scores("demo", before, measure), self.scores("demo", after, measure)
            b = [None if y is None else x for x, y in zip(b, a)]
            gain = [difference(y, x) for x, y in zip(b, a)]
            each = [NOT_RUN if value is None else number(value) for value in a]
            return [label, number(mean(b)), number(mean(a)), number(mean(gain), sign=True)] + each
        rows = [line("strict", "before", "after"), line("soft", "before", "after", "soft"),
                line("strict, sampled with guidance", "before_guided", "after_guided")]
        return table(["GenEval score on the test prompts", "base", "after UniGRPO", "gain"] +
                     [f"seed {seed}" for seed in self.seeds], rows) + self.images_note("demo")

    # ---- what is missing

    def problems(self):
        for row in ROWS:
            for seed in self.seeds[:1] if row == "base" else self.seeds:
                name, run = name_of(row, seed), self.run(row, seed)
                if not run:
                    yield f"{name}: not run"
                    continue
                for missing in run.missing(row):
                    done = "" if row == "base" else f" ({run.steps} steps done)"
                    yield f"{name}: eval_{missing}.json is missing{done}"
                if row not in WATCHED:
                    yield from (f"{name}: {problem}" for problem in unfit_evals(run))


def alarm_name(alarm):
    return f"{alarm[1]} {'up' if alarm[2] > 0 else 'down'}"


def unfit_evals(run):
    """Evaluations over too few images, or not made alike."""
    protocols = {}
    for name, result in run.evals.items():
        if name not in ("before", "after", "before_guided", "after_guided"):
            continue
        images = result["num_prompts"] * result["num_samples"]
        if images < MIN_IMAGES:
            yield f"eval_{name}.json scored {images} images, at least {MIN_IMAGES} are wanted"
        guided = name.endswith("_guided")
        protocols.setdefault(tuple(result[key] for key in ("prompts", "num_prompts", "num_samples", "seed", "num_steps")) +
                             ((result["cfg_scale"],) if guided else ()), []).append(name)
    lengths = {len(key) for key in protocols}
    for length in lengths:
        alike = [names for key, names in protocols.items() if len(key) == length]
        if len(alike) > 1:
            yield "these evaluations were not made alike: " + ", ".join(sorted(sum(alike, [])))


def fill(text, tables, where):
    """The document with every table written anew."""
    for name in re.findall(r"<!-- table:(\w+) -->", text):
        if name not in tables:
            raise SystemExit(f"{where}: there is no table '{name}'; there are {', '.join(tables)}")
    for name, make in tables.items():
        pattern = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.DOTALL)
        content = make() + "\n"
        text, count = pattern.subn(lambda match: match.group(1) + content + match.group(2), text)
        if count != 1:
            raise SystemExit(f"{where}: expected the markers of table '{name}' once, found them {count} times")
    return text


def documents(experiments):
    e = experiments
    return {
        "docs/EXPERIMENTS.md": {"base": e.base, "demo": e.demo, "demo_tags": e.demo_tags, "modalities": e.modalities,
                                "penalties": e.penalties, "cfg_scale": e.guidance, "tasks": e.tasks,
                                "seeing": e.seeing, "drift_monitor": e.drift_monitor, "honest": e.honest},
        "README.md": {"demo": e.readme_demo},
    }


def replace(path, text):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Tables of docs/EXPERIMENTS.md and README.md from the runs.")
    parser.add_argument("--check", action="store_true", help="write nothing, print what is missing or out of date")
    parser.add_argument("--finished", metavar="NAME", help="say whether docs/experiments.json has the run")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help="the repository")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the runs (default: ROOT/runs)")
    parser.add_argument("--seeds", default="0 1 2", help='seeds of every row (default "0 1 2")')
    options = parser.parse_args(arguments)
    keep = options.root / "docs" / "experiments.json"
    kept = read_json(keep) if keep.exists() else {}
    if options.finished:
        return 0 if options.finished in kept else 1
    experiments = Experiments(options.runs or options.root / "runs", options.seeds.split(), kept)

    problems = list(experiments.problems())
    for name, tables in documents(experiments).items():
        path = options.root / name
        old = path.read_text(encoding="utf-8")
        new = fill(old, tables, name)
        if new == old:
            continue
        if options.check:
            problems.append(f"{name}: the tables are out of date; run tools/experiments_table.py")
        else:
            replace(path, new)
            print(f"{name}: tables written")
    if experiments.kept != kept:
        if options.check:
            problems.append("docs/experiments.json: finished runs are missing; run tools/experiments_table.py")
        else:
            replace(keep, json.dumps(experiments.kept, indent=1, sort_keys=True) + "\n")
    if options.check:
        print("\n".join(problems) or "all runs are there and the tables are up to date")
        return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
