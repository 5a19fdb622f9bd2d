"""Recipes with [[tasks]]: several tasks in one step, each alone as without them, resumed, on several ranks, and refused.

usage: tasks_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
"""

import json
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""

COMMON = """
[run]
name = "{name}"
num_steps = 4
threads = 1
[policy]
model = "{model}"
[rollout]
num_steps = 4
max_tokens = 6
[rollout.window]
width = 2
[grpo]
prompts_per_step = {prompts}
group_size = 3
num_minibatches = {minibatches}
advantage.statistics = "running"
[optim]
lr = 1e-3
ema.enabled = true
[checkpoint]
every = 1
[monitor]
sample_every = 2
num_samples = 4
"""
REWARDS = """
[[rewards]]
kind = "saturation"
[[rewards]]
kind = "text_rules"
name = "rules"
min_tokens = 2
max_tokens = 5
"""
DRAW = """
[[tasks]]
name = "draw"
prompts = "draw.jsonl"
rewards = ["saturation"]
eval_prompts = "draw.jsonl"
"""
SAY = """
[[tasks]]
name = "say"
prompts = "say.jsonl"
episode = ["text"]
rewards = ["rules"]
max_tokens = 4
"""
RECIPES = {
    "both": REWARDS + DRAW + "share = 2\n" + SAY + "share = [[0, 1], [2, 2], [3, 0.5]]\n",
    "draw": REWARDS + DRAW.replace('eval_prompts = "draw.jsonl"\n', ""),
    "say": REWARDS + SAY,
    # The same two without [[tasks]].
    "draw_plain": '[data]\nprompts = "draw.jsonl"\n[[rewards]]\nkind = "saturation"\n',
    "say_plain": '[data]\nprompts = "say.jsonl"\n[[rewards]]\nkind = "text_rules"\nname = "rules"\nmin_tokens = 2\n'
                 "max_tokens = 5\n",
}


class Tasks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-tasks-")
        cls.runs = {}

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def fresh(self, name, prompts=6, minibatches=2):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.holder.name))
        text = COMMON.format(name=name, model=f"{DATA}/bagel_tiny", prompts=prompts, minibatches=minibatches)
        extra = RECIPES[name]
        if name == "say_plain":  # what the task sets of its own
            text = text.replace("max_tokens = 6", 'max_tokens = 4\nepisode = ["text"]')
        (folder / "recipe.toml").write_text(text + extra)
        (folder / "draw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_run.PROMPTS))
        (folder / "say.jsonl").write_text("".join(json.dumps({"prompt": f"say {word}"}) + "\n" for word in "abcde"))
        return folder

    def unigrpo(self, folder, *arguments, code=0, fault=""):
        result = tiny_run.run(BINARY, *arguments, cwd=folder, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def trained(self, name):
        if name not in self.runs:
            folder = self.fresh(name)
            self.unigrpo(folder, "train", "recipe.toml")
            self.runs[name] = folder / "runs" / name
        return self.runs[name]

    def refused(self, folder, *arguments):
        line = self.unigrpo(folder, "train", "recipe.toml", *arguments, code=2).stderr
        self.assertEqual(len(line.splitlines()), 1, line)
        self.assertFalse((folder / "runs").exists())
        return line

    def test_each_task_alone_is_a_recipe_without_tasks_to_the_bit(self):
        for name in ("draw", "say"):
            with self.subTest(task=name):
                alone, plain = self.trained(name), self.trained(name + "_plain")
                for file in tiny_run.files_in(plain):
                    if file.startswith(("final/", "samples/")):
                        self.assertEqual((alone / file).read_bytes(), (plain / file).read_bytes(), file)
                rows = tiny_run.metrics_of(alone)
                self.assertIn(f"task/{name}/reward/mean", rows[0])
                bare = [{key: value for key, value in row.items() if not key.startswith("task/")} for row in rows]
                self.assertEqual(bare, tiny_run.metrics_of(plain))
                for row in rows:
                    self.assertEqual(row[f"task/{name}/reward/mean"], row["reward/mean"])
                    self.assertEqual(row[f"task/{name}/prompts"], 6)

    def test_a_task_whose_others_have_no_share_is_alone_too(self):
        folder = self.fresh("both")
        self.unigrpo(folder, "train", "recipe.toml", "--set", "tasks.0.share=0", "--set", "tasks.1.share=1", "--set",
                     "tasks.0.eval_prompts=", "--set", "monitor.drift.enabled=false")
        plain = self.fresh("say_plain")
        self.unigrpo(plain, "train", "recipe.toml", "--set", "monitor.drift.enabled=false")
        name = "final/ema.safetensors"
        # The divisor of the update's text loss is a mean over tokens, so that the other task's length is of no moment.
        self.assertEqual((folder / "runs/both" / name).read_bytes(), (plain / "runs/say_plain" / name).read_bytes())

    def test_both_in_one_step_with_metrics_of_each(self):
        run = self.trained("both")
        rows = [row for row in tiny_run.metrics_of(run) if "loss" not in row and row["step"] > 0]
        self.assertEqual([row["step"] for row in rows], [1, 2, 3, 4])
        # 6 prompts by shares 2 : 1, 2 : 1.5, 2 : 2, 2 : 0.5
        self.assertEqual([row["task/draw/prompts"] for row in rows], [4, 3, 3, 5])
        self.assertEqual([row["task/say/prompts"] for row in rows], [2, 3, 3, 1])
        for row in rows:
            draw, say = row["task/draw/prompts"], row["task/say/prompts"]
            both = (draw * row["task/draw/reward/mean"] + say * row["task/say/reward/mean"]) / 6
            self.assertAlmostEqual(row["reward/mean"], both, places=9)
            self.assertEqual(row["task/draw/reward/saturation"], row["reward/saturation"])
            self.assertEqual(row["task/say/reward/rules"], row["reward/rules"])
            self.assertNotIn("task/say/reward/saturation", row)
            self.assertLessEqual(row["task/say/text/length"], 4)
            self.assertGreater(row["optim/grad_norm"], 0)
        self.assertTrue((run / "eval_task_draw_before.json").exists())
        self.assertTrue((run / "eval_task_draw_after.json").exists())
        log = (run / "log.txt").read_text()
        self.assertIn("draw: 4 x 3 = 12", log)
        self.assertIn("eval draw/after", log)
        self.assertTrue((run / "checkpoints/step_000004/reward_statistics_draw.safetensors").exists())
        self.assertTrue((run / "checkpoints/step_000004/reward_statistics_say.safetensors").exists())
        self.assertIn("task/draw/reward/mean", (run / "report.html").read_text())

    def test_a_killed_run_goes_on_to_the_same_bytes(self):
        left_alone = self.trained("both")
        for fault in ("update.micro_batch:5", "rollout.begin:4"):
            with self.subTest(fault=fault):
                folder = self.fresh("both")
                result = tiny_run.run(BINARY, "train", "recipe.toml", cwd=folder, fault=fault + "=kill")
                self.assertNotEqual(result.returncode, 0)
                self.unigrpo(folder, "train", "runs/both/recipe.toml", "--resume")
                self.assertEqual(list(tiny_run.differences(folder / "runs/both", left_alone)), [])

    def test_more_steps_follow_the_schedule_from_where_they_are(self):
        folder = self.fresh("both")
        self.unigrpo(folder, "train", "recipe.toml", "--set", "run.num_steps=2")
        self.unigrpo(folder, "train", "runs/both/recipe.toml", "--resume", "--set", "run.num_steps=4")
        run = folder / "runs/both"
        self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                         (self.trained("both") / "final/ema.safetensors").read_bytes())
        self.assertTrue((run / "eval_task_draw_after.json").exists())
        self.assertEqual(json.loads((run / "eval_task_draw_after.json").read_text()),
                         {**json.loads((self.trained("both") / "eval_task_draw_after.json").read_text()),
                          "seconds": json.loads((run / "eval_task_draw_after.json").read_text())["seconds"]})

    def test_other_tasks_are_another_run(self):
        folder = self.fresh("both")
        self.unigrpo(folder, "train", "recipe.toml", "--set", "run.num_steps=1")
        line = self.unigrpo(folder, "train", "runs/both/recipe.toml", "--resume", "--set", "tasks.0.share=3", code=2)
        self.assertIn("tasks.0.share", line.stderr)
        (folder / "say.jsonl").write_text('{"prompt": "another"}\n')
        line = self.unigrpo(folder, "train", "runs/both/recipe.toml", "--resume", code=2)
        self.assertIn("say.jsonl", line.stderr)

    def test_on_two_ranks_as_on_one(self):
        one = self.fresh("both")
        self.unigrpo(one, "train", "recipe.toml", "--set", "monitor.drift.enabled=false")
        two = self.fresh("both")
        for code, _, err in ranks_run.run(BINARY, 2, "train", "recipe.toml", "--set", "monitor.drift.enabled=false", cwd=two):
            self.assertEqual(code, 0, err)
        name = "runs/both/final/ema.safetensors"
        self.assertLess(ranks_run.distance(two / name, one / name), 1e-5)
        rows = [[{key: value for key, value in row.items() if key.startswith("task/")}
                 for row in tiny_run.metrics_of(folder / "runs/both")] for folder in (one, two)]
        self.assertEqual(rows[0][1].keys(), rows[1][1].keys())
        for a, b in zip(*rows):
            for key in a:
                self.assertAlmostEqual(a[key], b[key], places=4, msg=key)

    def test_sums_in_pairs_are_those_of_one_process(self):
        exact = ("--set", "parallel.exact_reduction=true", "--set", "monitor.drift.enabled=false")
        folders = {}
        for size in (1, 2):
            folders[size] = self.fresh("both")
            for code, _, err in ranks_run.run(BINARY, size, "train", "recipe.toml", *exact, cwd=folders[size]):
                self.assertEqual(code, 0, err)
        name = "runs/both/final/ema.safetensors"
        self.assertEqual((folders[2] / name).read_bytes(), (folders[1] / name).read_bytes())

    def test_a_dry_run_counts_all_tasks(self):
        text = self.unigrpo(self.fresh("both"), "train", "recipe.toml", "--dry-run").stdout
        self.assertIn("draw: 4 a step, 4 prompts", text)
        self.assertIn("say: 2 a step, 5 prompts", text)
        self.assertIn("6 x 3 = 18", text)

    def test_an_empty_prompt_file_is_named_with_its_task(self):
        folder = self.fresh("both")
        (folder / "say.jsonl").write_text("\n")
        self.assertRegex(self.refused(folder), r"recipe\.toml:\d+:11: tasks\.1\.prompts: say\.jsonl: empty")

    def test_an_episode_that_the_model_cannot_do(self):
        folder = self.fresh("both")
        text = (folder / "recipe.toml").read_text().replace(f"{DATA}/bagel_tiny", f"{DATA}/qwen2_tiny")
        text = text.replace('name = "draw"', 'name = "draw"\nepisode = ["image"]').replace('eval_prompts = "draw.jsonl"\n', "")
        (folder / "recipe.toml").write_text(text)
        place = text[:text.index('["image"]')].count("\n") + 1
        self.assertIn(f"recipe.toml:{place}:11: tasks.0.episode: ", self.refused(folder))
        line = self.unigrpo(folder, "train", "recipe.toml", "--dry-run", code=2).stderr
        self.assertIn(f"recipe.toml:{place}:11: tasks.0.episode: ", line)

    def test_what_the_parser_refuses_has_line_and_column(self):
        for old, new, told in (
                ('name = "say"', 'name = "draw"', r":\d+:8: tasks\.1\.name: expected a name of its own"),
                ("share = 2", "share = -2", r":\d+:9: tasks\.0\.share: expected a number"),
                ("share = 2", "share = nan", r":\d+:9: tasks\.0\.share: expected a number"),
                ("[2, 2]", "[0, 2]", r":\d+:18: tasks\.1\.share\.1: expected a point"),
                ('["rules"]', '["ruler"]', r":\d+:11: tasks\.1\.rewards: expected names of \[\[rewards\]\]"),
                ("[[tasks]]", '[data]\nprompts = "draw.jsonl"\n[[tasks]]', r":\d+:11: data\.prompts: expected no such key")):
            with self.subTest(new=new):
                folder = self.fresh("both")
                text = (folder / "recipe.toml").read_text()
                self.assertIn(old, text)
                (folder / "recipe.toml").write_text(text.replace(old, new, 1))
                self.assertRegex(self.refused(folder), "recipe.toml" + told)

    def test_plan_lists_the_modules_of_each_task_and_follows_the_schedule(self):
        folder = self.fresh("both")
        (folder / "cluster.toml").write_text("nodes = 1\ngpus_per_node = 2\nmemory_gib = 80\n")
        text = self.unigrpo(folder, "plan", "recipe.toml", "--cluster", "cluster.toml").stdout
        for module in ("decode draw", "denoise draw", "decode say", "update"):
            self.assertIn(module, text)
        self.assertNotIn("denoise say", text)
        for line in ("from step 1 on, prompts: draw 4, say 2", "from step 2 on, prompts: draw 3, say 3",
                     "from step 4 on, prompts: draw 5, say 1"):
            self.assertIn(line, text)


if __name__ == "__main__":
    BINARY, DATA = (str(pathlib.Path(argument).resolve()) for argument in sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
