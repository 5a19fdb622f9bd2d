"""What a run promises about itself: it goes on as if it had never stopped, from the files that it began with alone; it
says what made it, what it lacks, and when nothing is learned.

usage: runs_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""
WORKER = pathlib.Path(__file__).resolve().parents[2] / "plugins/python_judge/unigrpo_worker.py"

# Has no score for the samples from down_from on up to down_to, counted over its life.
JUDGE = """#!/usr/bin/env python3
import pathlib
import unigrpo_worker
from unigrpo_worker import Score


def make(settings):
    with open(pathlib.Path(__file__).parent / "starts.txt", "a") as file:
        file.write("start\\n")
    judged = 0

    def score(samples):
        nonlocal judged
        scores = []
        for sample in samples:
            down = settings["down_from"] <= judged < settings["down_to"]
            scores.append(Score(reasons={"judge": "out for lunch"}) if down else Score({"judge": 0.5 + judged / 1000}))
            judged += 1
        return scores
    return score


unigrpo_worker.serve(make, name="judge", batch_size=1, dimensions=[{"name": "judge"}])
"""
PLUGIN = """
[[{table}]]
kind = "plugin"
name = "judge"
path = "judge.py"
[{table}.settings]
down_from = {down_from}
down_to = {down_to}
"""
EVAL = '\n[eval]\nprompts = "prompts.jsonl"\nevery = {every}\nkeep_best = true\n'


class Base(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="unigrpo-runs-")
        self.addCleanup(holder.cleanup)
        self.holder = pathlib.Path(holder.name)

    def home(self, name="home", num_steps=2, extra="", model=None):
        """A folder with tiny.toml, prompts.jsonl, the model as m and a judge."""
        folder = self.holder / name
        folder.mkdir()
        tiny_run.write_inputs(folder, DATA, num_steps=num_steps, extra=extra)
        recipe = (folder / "tiny.toml").read_text()
        (folder / "tiny.toml").write_text(recipe.replace(f"{DATA}/bagel_tiny", "m"))
        shutil.copytree(f"{DATA}/{model or 'bagel_tiny'}", folder / "m")
        (folder / "judge.py").write_text(JUDGE)
        (folder / "judge.py").chmod(0o755)
        shutil.copy(WORKER, folder)
        return folder

    def unigrpo(self, folder, *arguments, code=0, fault=""):
        result = tiny_run.run(BINARY, *arguments, cwd=folder, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def train(self, folder, *arguments, **options):
        return self.unigrpo(folder, "train", "tiny.toml", *arguments, **options)

    def refused(self, folder, *arguments):
        """The error line of a command that must not do anything."""
        before = tiny_run.contents_of(folder)
        line = self.unigrpo(folder, *arguments, code=2).stderr
        self.assertEqual(len(line.splitlines()), 1, line)
        self.assertEqual(tiny_run.contents_of(folder), before)
        return line

    def rows(self, folder, name="tiny"):
        return tiny_run.metrics_of(folder / "runs" / name)

    def log(self, folder):
        return (folder / "runs/tiny/log.txt").read_text()


class Inputs(Base):
    def test_a_changed_file_of_the_base_is_refused_on_resume_and_on_export(self):
        folder = self.home()
        self.train(folder)
        more = ("train", "tiny.toml", "--resume", "--set", "run.num_steps=3")
        for name in ("ema.safetensors", "ae.safetensors", "config.json", "vocab.json", "vit_config.json"):
            file = folder / "m" / name
            kept = file.read_bytes()
            file.write_bytes(kept[:-2] + bytes([kept[-2] ^ 1]) + kept[-1:])
            for arguments in (more, ("export", "--run", "runs/tiny", "--out", "out")):
                line = self.refused(folder, *arguments)
                self.assertIn(f"m/{name}: not the file that the run runs/tiny began with", line)
            file.write_bytes(kept)
        (folder / "m/tokenizer.json").write_text("{}")
        self.assertIn("m/tokenizer.json: was not there when the run runs/tiny began", self.refused(folder, *more))
        (folder / "m/tokenizer.json").rename(folder / "m/README.md")  # what no loader reads may change
        self.unigrpo(folder, *more)
        self.unigrpo(folder, "export", "--run", "runs/tiny", "--out", "out")

    def test_changed_prompts_and_plugins_are_refused(self):
        folder = self.home(extra=EVAL.format(every=1) + PLUGIN.format(table="eval.rewards", down_from=0, down_to=0))
        shutil.copy(folder / "prompts.jsonl", folder / "test.jsonl")
        recipe = (folder / "tiny.toml").read_text()
        (folder / "tiny.toml").write_text(recipe.replace('[eval]\nprompts = "prompts', '[eval]\nprompts = "test'))
        self.train(folder)
        for name in ("prompts.jsonl", "test.jsonl", "judge.py"):
            kept = (folder / name).read_text()
            (folder / name).write_text(kept + "\n")
            line = self.refused(folder, "train", "tiny.toml", "--resume", "--set", "run.num_steps=3")
            self.assertIn(f"{name}: not the file that the run runs/tiny began with", line)
            (folder / name).write_text(kept)
        self.train(folder, "--resume", "--set", "run.num_steps=3")

    def test_what_only_moved_goes_on(self):
        folder, whole = self.home(), self.home("whole", num_steps=4)
        self.train(whole)
        self.train(folder)
        (folder / "m").rename(folder / "base")
        (folder / "prompts.jsonl").rename(folder / "p.jsonl")
        (folder / "runs/tiny").rename(folder / "runs/z")
        self.train(folder, "--resume", "--set", "run.num_steps=3", "--set", "run.name=z", "--set", "policy.model=base",
                   "--set", "data.prompts=p.jsonl")
        (folder / "runs/z").rename(folder / "elsewhere")
        # Its own recipe goes on where it lies.
        self.unigrpo(folder, "train", "elsewhere/recipe.toml", "--resume", "--set", "run.num_steps=4")
        self.assertEqual(os.listdir(folder / "runs"), [])
        self.assertEqual(tiny_run.metrics_of(folder / "elsewhere"), self.rows(whole))
        self.assertEqual((folder / "elsewhere/final/ema.safetensors").read_bytes(),
                         (whole / "runs/tiny/final/ema.safetensors").read_bytes())

    def test_equal_weights_are_equal_bytes_whatever_the_run_is_called(self):
        folder = self.home()
        self.train(folder, "--set", "run.name=a")
        self.train(folder, "--set", "run.dir=other/b")
        one, other = (tiny_run.contents_of(folder / name / "final") for name in ("runs/a", "other/b"))
        self.assertEqual(one, other)

    def test_export_says_which_steps_there_are(self):
        folder = self.home(num_steps=3)
        self.train(folder)
        line = self.refused(folder, "export", "--run", "runs/tiny", "--step", 1, "--out", "out")
        self.assertIn("runs/tiny/checkpoints: no checkpoint of step 1; there are those of steps 2, 3", line)


class Record(Base):
    def test_run_json_tells_what_made_the_run_and_another_build_is_warned_of(self):
        folder = self.home()
        self.train(folder, "--set", "run.num_steps=1")
        file = folder / "runs/tiny/run.json"
        record = json.loads(file.read_text())
        for key in ("version", "commit", "libtorch", "cpu"):
            self.assertTrue(record[key], key)
        self.assertEqual((record["threads"], record["step"], record["resumed"]), (1, 0, []))
        self.assertRegex(record["start"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertTrue(record["command"].endswith("train tiny.toml --set run.num_steps=1"), record["command"])
        self.assertEqual(record["inputs"]["data.prompts"]["path"], "prompts.jsonl")
        self.assertEqual(len(record["inputs"]["policy.model/ema.safetensors"]["sha256"]), 64)

        self.train(folder, "--resume", "--set", "run.num_steps=2")
        self.assertNotIn("another build", self.log(folder))
        record = json.loads(file.read_text())
        self.assertEqual([launch["step"] for launch in record["resumed"]], [1])
        record["resumed"][0]["commit"] = "0123456789ab"
        file.write_text(json.dumps(record))
        result = self.train(folder, "--resume", "--set", "run.num_steps=3")
        self.assertIn("warning: the run was made by another build: commit 0123456789ab, now ", result.stderr)
        self.assertIn("another build", self.log(folder))

    def test_messages_name_the_way_that_works(self):
        folder = self.home()
        result = self.train(folder, "--set", "optim.lr=2e-3")
        goes_on = "unigrpo train runs/tiny/recipe.toml --resume"
        self.assertIn(f"all 2 steps are done, the model is runs/tiny/final; {goes_on} --set run.num_steps=N",
                      result.stderr)
        line = self.refused(folder, "train", "tiny.toml", "--resume", "--set", "run.num_steps=3")
        self.assertIn(f"these keys differ: optim.lr. `{goes_on}` goes on; it may change run.num_steps, ", line)
        self.unigrpo(folder, *goes_on.split()[1:], "--set", "run.num_steps=3")
        self.assertEqual(len(self.rows(folder)), 3)


class Schedule(Base):
    COSINE = ("--set", "optim.schedule=cosine")

    def test_a_longer_run_keeps_its_rates_and_says_so(self):
        for schedule in ("cosine", "linear"):
            folder = self.home(schedule, num_steps=4)
            kind = ("--set", f"optim.schedule={schedule}")
            self.train(folder, *kind)
            rates = [row["optim/lr"] for row in self.rows(folder)]
            result = self.train(folder, *kind, "--set", "run.num_steps=6", "--resume")
            self.assertEqual([row["optim/lr"] for row in self.rows(folder)][:5], rates + [0])
            self.assertIn(f"the {schedule} schedule keeps the 4 steps that the run began with", result.stderr)
            self.assertIn("of step 5 is 0; with optim.schedule_steps = 6 it would be", result.stderr)

    def test_a_length_of_its_own_makes_a_longer_run_one_that_was_left_alone(self):
        own = (*self.COSINE, "--set", "optim.schedule_steps=4")
        folder, whole, short = self.home(), self.home("whole", num_steps=4), self.home("short", num_steps=4)
        self.train(folder, *own)
        self.train(folder, *own, "--set", "run.num_steps=4", "--resume")
        self.train(whole, *self.COSINE)
        self.assertEqual(self.rows(folder), self.rows(whole))
        # A run that is stopped and then ends earlier.
        self.train(short, *self.COSINE, code=-signal.SIGKILL, fault="rollout.begin:3=kill")
        self.train(short, *self.COSINE, "--set", "run.num_steps=3", "--resume")
        self.assertEqual(self.rows(short), self.rows(whole)[:3])


class Evaluation(Base):
    def judged(self, name, down_from, down_to, num_steps=3):
        extra = EVAL.format(every=1) + PLUGIN.format(table="eval.rewards", down_from=down_from, down_to=down_to)
        folder = self.home(name, num_steps=num_steps, extra=extra)
        self.train(folder)
        return folder

    def eval(self, folder, name):
        return json.loads((folder / f"runs/tiny/eval_{name}.json").read_text())

    def test_a_judge_that_fails_for_a_while_makes_no_score(self):
        folder = self.judged("half", 6, 12)  # of 4 samples each: before 0-3, then steps 1, 2 and 3
        self.assertEqual([self.eval(folder, name)["unscored"] for name in ("before", "step_000001", "step_000002",
                                                                           "step_000003", "after")], [0, 2, 4, 0, 0])
        for name in ("step_000001", "step_000002"):
            result = self.eval(folder, name)
            self.assertIsNone(result["overall"]["strict"])
            self.assertIsNone(result["rewards"]["judge"])
            self.assertEqual(result["missing"]["judge"]["reason"], "out for lunch")
        rows = self.rows(folder)
        self.assertEqual([row["step"] for row in rows], [0, 1, 2, 3])
        self.assertEqual(["eval/strict" in row for row in rows], [True, False, False, True])
        self.assertEqual(["eval/judge" in row for row in rows], [True, False, False, True])
        log = self.log(folder)
        self.assertIn("eval step_000001: no score; 2 of 4 samples have no score by 'judge' (the first: out for lunch)",
                      log)
        self.assertIn("the evaluation after step 2 has no score", log)
        self.assertEqual(log.count("best score so far"), 1)
        self.assertNotIn("0.000", log)

    def test_a_judge_that_is_down_at_first_makes_no_gain_and_keeps_no_best(self):
        folder = self.judged("first", 0, 4)
        self.assertIsNone(self.eval(folder, "before")["overall"]["strict"])
        self.assertIsNotNone(self.eval(folder, "after")["overall"]["strict"])
        self.assertNotIn("eval/strict", self.rows(folder)[0] if self.rows(folder)[0]["step"] == 0 else {})
        folder = self.judged("never", 0, 1000)
        self.assertFalse((folder / "runs/tiny/best").exists())
        self.assertFalse(any(key.startswith("eval/") for row in self.rows(folder) for key in row))

    def test_its_rewards_are_made_once_a_run(self):
        folder = self.judged("once", 0, 0)
        self.assertEqual((folder / "starts.txt").read_text(), "start\n")

    def test_one_missing_score_is_counted_and_left_out(self):
        folder = self.judged("one", 4, 5)
        result = self.eval(folder, "step_000001")
        self.assertAlmostEqual(result["overall"]["strict"], 0.506)  # of 0.505, 0.506, 0.507
        self.assertEqual(result["unscored"], 1)
        self.assertIn("1 of 4 samples have no score by 'judge'", self.log(folder))


class Steps(Base):
    def test_they_count_the_same_everywhere(self):
        judge = PLUGIN.format(table="rewards", down_from=7, down_to=8)  # the second of step 2
        folder = self.home(num_steps=3, extra=judge)
        result = self.train(folder, "--set", "rewards.0.weight=0", "--set", "monitor.sample_every=2")
        run = folder / "runs/tiny"
        self.assertEqual([row["step"] for row in self.rows(folder)], [1, 2, 3])
        self.assertEqual([line.split()[1] for line in result.stdout.splitlines() if line.startswith("step ")],
                         ["1/3", "2/3", "3/3"])
        self.assertEqual(sorted(os.listdir(run / "samples")), ["step_000001", "step_000002"])
        self.assertEqual(os.listdir(run / "failures"), ["step_000002.jsonl"])
        self.assertEqual(json.loads((run / "failures/step_000002.jsonl").read_text())["step"], 2)
        self.assertEqual(sorted(os.listdir(run / "checkpoints")), [".lock", "step_000002", "step_000003"])


class Silence(Base):
    def test_a_reward_that_never_fires_and_texts_that_are_cut_off_are_told(self):
        rules = '\n[[rewards]]\nkind = "text_rules"\npattern = "no model writes this"\n'
        folder, killed = (self.home(name, num_steps=6, extra=rules) for name in ("whole", "killed"))
        silent = ("--set", "rewards.0.weight=0", "--set", "rollout.max_tokens=1", "--set", "monitor.drift.enabled=false")
        result = self.train(folder, *silent)
        rows = self.rows(folder)
        alarms = {key: row[key] for row in rows for key in row if key.startswith("drift_raised/")}
        self.assertEqual(alarms, {"drift_raised/reward_spread": -1, "drift_raised/reward/text_rules_spread": -1,
                                  "drift_raised/truncated_ratio": 1})
        self.assertEqual({row["step"] for row in rows for key in row if key.startswith("drift_raised/")}, {5})
        for text in (result.stderr, self.log(folder)):
            self.assertIn("warning: alarm at step 5: for 5 steps no prompt's samples had different rewards", text)
            self.assertIn("warning: alarm at step 5: every text of the last 5 steps was cut off by "
                          "rollout.max_tokens = 1", text)
        self.assertIn('"statistic":"reward_spread"', (folder / "runs/tiny/report.html").read_text().replace(": ", ":"))

        self.train(killed, *silent, code=-signal.SIGKILL, fault="rollout.begin:4=kill")
        self.train(killed, *silent, "--resume")
        self.assertEqual(self.rows(killed), rows)

    def test_an_alarm_can_end_the_run(self):
        rules = '\n[[rewards]]\nkind = "text_rules"\npattern = "no model writes this"\n'
        folder = self.home(num_steps=9, extra=rules)
        result = self.train(folder, "--set", "rewards.0.weight=0", "--set", "monitor.drift.action=stop", code=1)
        self.assertIn("(monitor.drift.action = stop); --resume goes on from step 5", result.stderr)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
