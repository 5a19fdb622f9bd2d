"""The tables of tools/experiments_table.py over run folders made here. usage: experiments_table_test.py"""

import contextlib
import importlib.util
import io
import json
import pathlib
import shutil
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "experiments_table.py"
spec = importlib.util.spec_from_file_location("experiments_table", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

DOCS = "".join(f"<!-- table:{name} -->\nold\n<!-- /table:{name} -->\ntext between\n"
               for name in ("base", "demo", "demo_tags", "modalities", "penalties", "cfg_scale", "tasks", "seeing",
                            "drift_monitor", "honest"))
README = "# Head\n<!-- table:demo -->\n<!-- /table:demo -->\ntail\n"


def eval_json(strict, soft, samples=4, guidance=1.0, prompts=490):
    return {"prompts": "test.jsonl", "num_prompts": prompts, "num_samples": samples, "seed": 0, "num_steps": 10,
            "cfg_scale": guidance, "overall": {"strict": strict, "soft": soft},
            "tags": {"counting": {"strict": strict, "soft": soft, "count": 2},
                     "position": {"strict": strict / 2, "soft": soft, "count": 9}}}


class ExperimentsTable(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        (self.root / "docs").mkdir()
        self.docs, self.readme = self.root / "docs" / "EXPERIMENTS.md", self.root / "README.md"
        self.docs.write_text(DOCS)
        self.readme.write_text(README)

    def tearDown(self):
        self.folder.cleanup()

    def add_run(self, name, evals, metrics=(), recipe="", torn=""):
        run = self.root / "runs" / name
        run.mkdir(parents=True)
        for key, value in evals.items():
            (run / f"eval_{key}.json").write_text(json.dumps(value))
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics) + torn)
        (run / "recipe.toml").write_text(recipe)

    def add_demo(self, seed, after):
        self.add_run(f"exp_demo_s{seed}", {"before": eval_json(0.5, 0.7), "after": eval_json(after, 0.9),
                                           "before_guided": eval_json(0.55, 0.7, guidance=2.0),
                                           "after_guided": eval_json(after + 0.01, 0.9, guidance=2.0),
                                           "before_answers": eval_json(0.6, 0.6, prompts=400),
                                           "after_answers": eval_json(after - 0.2, 0.6, prompts=400)},
                     [{"step": step} for step in range(1, 101)])

    def call(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = tool.main(["--root", str(self.root), *arguments])
        return code, out.getvalue()

    def line(self, document, start):
        found = [line for line in document.read_text().splitlines() if line.startswith(start)]
        self.assertEqual(len(found), 1, f"{start!r} in {document.read_text()}")
        return found[0]

    def test_without_runs_every_row_says_not_run(self):
        self.assertEqual(self.call()[0], 0)
        self.assertEqual(self.line(self.docs, "| text only"), "| text only | - | - | not run | not run | - |")
        self.assertEqual(self.line(self.docs, "| 0 "), "| 0 | not run |" + " - |" * 7)
        self.assertIn("| none | - | - | not run", self.docs.read_text())
        self.assertEqual(self.docs.read_text().count("text between"), 10)
        self.assertNotIn("old", self.docs.read_text())
        self.assertEqual(self.line(self.readme, "| strict |"), "| strict | - | - | - | not run | not run | not run |")
        self.assertTrue(self.readme.read_text().endswith("<!-- /table:demo -->\ntail\n"))

    def test_finished_runs_are_kept_for_other_machines(self):
        self.add_demo(0, 0.75)
        self.add_run("exp_demo_s1", {})  # not finished
        self.call()
        text = self.docs.read_text()
        shutil.rmtree(self.root / "runs")
        self.assertEqual(self.call("--finished", "exp_demo_s0")[0], 0)
        self.assertEqual(self.call("--finished", "exp_demo_s1")[0], 1)
        self.call()
        self.assertEqual(self.docs.read_text(), text)
        self.add_demo(0, 0.95)  # made again: the folder counts
        self.call()
        self.assertIn("| 0 | 100 | 0.500 | 0.950 |", self.docs.read_text())

    def test_demo_shows_each_seed_and_the_mean_of_those_that_ran(self):
        self.add_demo(0, 0.75)
        self.add_demo(2, 0.85)
        self.call()
        self.assertEqual(self.line(self.docs, "| 2 "),
                         "| 2 | 100 | 0.500 | 0.850 | +0.350 | 0.700 | 0.900 | 0.550 | 0.860 |")
        self.assertEqual(self.line(self.docs, "| mean "),
                         "| mean | - | 0.500 | 0.800 | +0.300 | 0.700 | 0.900 | 0.550 | 0.810 |")
        self.assertEqual(self.line(self.docs, "| position "),
                         "| position | 9 | 0.250 (0.250, not run, 0.250) | 0.400 (0.375, not run, 0.425) | +0.150 "
                         "| 0.700 | 0.900 |")
        self.assertEqual(self.line(self.readme, "| strict |"),
                         "| strict | 0.500 | 0.800 | +0.300 | 0.750 | not run | 0.850 |")
        self.assertIn("490 test prompts, 4 image(s) each.", self.readme.read_text())

    def test_tasks_and_seeing(self):
        self.add_demo(1, 0.75)
        self.add_run("exp_answer_s0", {"before": eval_json(0.5, 0.5), "after": eval_json(0.75, 0.75)}, [{"step": 60}])
        self.call()
        self.assertEqual(self.line(self.docs, "| questions"),
                         "| questions about an image | 60 | 0.500 (0.500, not run, not run) "
                         "| 0.750 (0.750, not run, not run) | +0.250 (+0.250, not run, not run) |")
        self.assertTrue(self.line(self.docs, "| the demo |").endswith(
            "| 0.600 | 0.550 (not run, 0.550, not run) | -0.050 (not run, -0.050, not run) |"))

    def add_watched(self, name, held_out, alarms=()):
        """held_out: strict scores after each step, from step 0 on."""
        rows = [{"step": step, "eval/strict": score} for step, score in enumerate(held_out)]
        for step, statistic, direction in alarms:  # by the steps done when the probe was taken
            rows[step + 1][f"drift_raised/{statistic}"] = direction
        self.add_run(name, {"before": eval_json(held_out[0], 0.7, prompts=244),
                            "after": eval_json(held_out[-1], 0.7, prompts=244)}, rows)

    def test_alarms_are_in_time_before_the_score_is_lost(self):
        self.add_watched("exp_drift_dark_s0", [0.4, 0.39, 0.36, 0.3, 0.1], [(2, "brightness", -1), (3, "chroma", 1)])
        self.add_watched("exp_drift_dark_s1", [0.4, 0.39, 0.36, 0.3, 0.1], [(3, "brightness", -1)])
        self.add_watched("exp_drift_dark_s2", [0.4, 0.39, 0.36, 0.38, 0.37], [])
        self.add_watched("exp_drift_saturation_s0", [0.4, 0.39, 0.36, 0.38, 0.3], [])
        for seed in range(3):
            self.add_watched(f"exp_drift_honest_s{seed}", [0.4, 0.5, 0.6], [(1, "chroma", 1)] if seed == 2 else [])
        self.call()
        lines = self.docs.read_text().splitlines()
        self.assertIn("| dark images | 0 | 2, brightness down | 3 | yes | 0.400 | 0.100 |", lines)
        self.assertIn("| dark images | 1 | 3, brightness down | 3 | no | 0.400 | 0.100 |", lines)
        self.assertIn("| dark images | 2 | none | never | nothing lost | 0.400 | 0.370 |", lines)
        self.assertIn("| saturated images | 0 | none | 4 | no | 0.400 | 0.300 |", lines)
        self.assertIn("| saturated images | 1 | not run | - | - | - | - |", lines)
        self.assertIn("| GenEval | 3 | 2 | 1 (step 1, chroma up) |", lines)
        self.assertIn("| GenEval, after two turns | 0 | - | 0 |", lines)
        before = self.docs.read_text()
        shutil.rmtree(self.root / "runs")
        self.call()
        self.assertEqual(self.docs.read_text(), before)  # all of it was kept

    def test_a_run_without_its_last_evaluation_is_in_no_mean(self):
        self.add_demo(0, 0.75)
        self.add_run("exp_demo_s1", {"before": eval_json(0.1, 0.1)}, [{"step": 1}], torn='{"step": 2, "rew')
        self.call()
        self.assertEqual(self.line(self.docs, "| 1 "), "| 1 | not run |" + " - |" * 7)
        self.assertTrue(self.line(self.docs, "| mean ").startswith("| mean | - | 0.500 | 0.750"))
        self.assertIn("exp_demo_s1: eval_after.json is missing (1 steps done)", self.call("--check")[1])

    def test_penalties_show_the_reward_beside_the_true_score(self):
        metrics = [{"step": step + 1, "reward/mean": 0.6 + step / 10, "reward/saturation": None if step == 1 else step / 10,
                    "image/velocity_mse": step / 100} for step in range(10)]
        recipe = '[grpo.image]\nclip_range = 0.001\npenalty = "velocity_mse"\npenalty_weight = 0.01\n'
        for seed in range(3):
            self.add_run(f"exp_hack_velocity_mse_s{seed}",
                         {"before": eval_json(0.5, 0.7, samples=1), "after": eval_json(0.4, 0.7, samples=1)}, metrics,
                         recipe)
        self.call()
        self.assertEqual(self.line(self.docs, "| velocity MSE"),
                         "| velocity MSE | 0.01 | 10 | 0.400 (0.400, 0.400, 0.400) | -0.100 (-0.100, -0.100, -0.100) "
                         "| 0.700 -> 1.400 | 0.167 -> 0.800 | 0.0800 |")

    def test_check_names_what_is_missing_and_what_does_not_fit(self):
        self.add_demo(0, 0.75)
        self.add_run("exp_text_only_s0", {"before": eval_json(0.5, 0.7, samples=1, prompts=100),
                                          "after": eval_json(0.6, 0.7, samples=1)})
        code, out = self.call("--check", "--seeds", "0")
        self.assertEqual(code, 1)
        self.assertIn("exp_base: not run\n", out)
        self.assertIn("exp_text_only_s0: eval_before.json scored 100 images, at least 400 are wanted\n", out)
        self.assertIn("exp_text_only_s0: these evaluations were not made alike: after, before\n", out)
        self.assertIn("docs/EXPERIMENTS.md: the tables are out of date", out)
        self.assertNotIn("exp_demo_s0", out)
        self.assertEqual(self.docs.read_text(), DOCS)  # --check writes nothing

    def test_check_is_content_when_all_is_there(self):
        for row, names in tool.ROWS.items():
            evals = {name: eval_json(0.5, 0.7, guidance=2.0 if name.endswith("_guided") else 1.0) for name in names}
            self.add_run(tool.name_of(row, 0), evals)
        self.call("--seeds", "0")
        self.assertEqual(self.call("--check", "--seeds", "0"),
                         (0, "all runs are there and the tables are up to date\n"))

    def test_markers_must_be_there_and_known(self):
        self.readme.write_text("nothing")
        with self.assertRaisesRegex(SystemExit, "README.md: expected the markers of table 'demo' once, found them 0"):
            self.call()
        self.readme.write_text(README + "<!-- table:other -->\n")
        with self.assertRaisesRegex(SystemExit, "README.md: there is no table 'other'"):
            self.call()

    def test_the_documents_of_the_repository_hold_every_table(self):
        experiments = tool.Experiments(self.root / "runs", ["0"], {})
        for name, tables in tool.documents(experiments).items():
            tool.fill((tool.ROOT / name).read_text(encoding="utf-8"), tables, name)

    def test_a_broken_evaluation_is_named(self):
        self.add_run("exp_demo_s0", {})
        (self.root / "runs/exp_demo_s0/eval_after.json").write_text("{")
        with self.assertRaisesRegex(SystemExit, "eval_after.json: "):
            self.call()


if __name__ == "__main__":
    unittest.main()
