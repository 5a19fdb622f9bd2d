"""Ranks that are grouped anew for each micro-batch, by the lengths of its samples (parallel.flexible_sp), give the result of
one process, which ignores the key.

usage: flexible_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import equality_test  # noqa: E402
import ranks_run  # noqa: E402
import resume_test  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
ONE_PROCESS = equality_test.ONE_PROCESS
STEPS = equality_test.MANY_STEPS
FLEXIBLE = {"parallel.flexible_sp": "true"}
LONG_TEXT = "a red circle left of a blue square, " * 12


class Flexible(resume_test.Resume):
    """Borrows the comparison and the stops; has tests of its own."""

    prompts = None

    def fresh(self):
        folder = super().fresh()
        if self.prompts:
            (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in self.prompts))
        return folder

    def check_plan(self, run):
        """What the plan says of itself: the limit is kept, and each of the step's samples is in one group."""
        rows = tiny_run.metrics_of(run, steady=False)
        self.assertTrue(rows)
        for row in rows:
            if row["step"] == 0:
                continue
            self.assertLessEqual(row["parallel/plan_tokens_per_rank"], row["parallel/plan_tokens_limit"], row)
            self.assertGreaterEqual(row.get("parallel/plan_gap", 0), -1e-9)
            self.assertGreaterEqual(row["time/plan"], 0)
            groups = {name: row[name] for name in row if name.startswith("parallel/groups_of_")}
            self.assertEqual(sum(groups.values()), row["optim/micro_batches"], row)
        return rows

    def degrees(self, rows):
        return {int(name.rpartition("_")[2]) for row in rows for name in row if name.startswith("parallel/groups_of_")}

    def as_one(self, settings, cases, home=None, base=equality_test.BASE):
        """Returns which degrees each case chose."""
        self.chosen = []
        super().as_one({**settings, **FLEXIBLE}, cases, home, base)
        return self.chosen

    def check_case(self, run, reference, _ranks, _parallel):
        self.check(run, reference)
        self.chosen.append(self.degrees(self.check_plan(run)))

    def test_all_short(self):
        """Room for all: what a group of one rank can do is cheapest there."""
        for degrees in self.as_one({**STEPS, "optim.ema.enabled": "true"}, [(2, {}), (4, {})] + FULL * [(3, {}), (8, {})]):
            self.assertIn(1, degrees)

    def test_one_long_and_many_short(self):
        """The long prompt has more tokens than a rank may have: several share it, the others go on alone."""
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        settings = {**STEPS, "grpo.micro_batch_tokens": 120}
        two, four = self.as_one(settings, [(2, {}), (4, {})])
        self.assertEqual(two, {1, 2})
        self.assertTrue(1 in four and max(four) > 1, four)

    def test_all_alike(self):
        """All as long as the memory of two ranks."""
        self.prompts = [LONG_TEXT[:400]] * 5
        for degrees in self.as_one({**STEPS, "grpo.micro_batch_tokens": 100}, [(2, {}), (4, {})]):
            self.assertTrue(min(degrees) > 1, degrees)

    def test_with_shards(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        cases = [(4, {"shard": "weights"}), (2, {"shard": "gradients"})]
        if FULL:
            cases += [(4, {"shard": "optimizer"}), (4, {"shard": "weights", "shard_ranks": 2}),
                      (4, {"shard": "weights", "reduce": "last"}), (2, {"shard": "weights"})]
        for degrees in self.as_one({**STEPS, "grpo.micro_batch_tokens": 120, "grpo.num_minibatches": 2,
                                    "optim.ema.enabled": "true"}, cases):
            self.assertTrue(1 in degrees and max(degrees) > 1, degrees)

    def test_lora_with_dropout_and_a_reference(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        lora = {"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "policy.lora.dropout": 0.3,
                "grpo.text.kl_beta": 0.1}
        (degrees,) = self.as_one({**lora, "grpo.micro_batch_tokens": 120}, [(4, {})])
        self.assertGreater(max(degrees), 1)

    def test_recomputed_layers_and_a_penalty(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        (degrees,) = self.as_one({"policy.recompute": "true", "grpo.image.penalty": "velocity_mse",
                     "grpo.micro_batch_tokens": 120}, [(4, {"shard": "weights"})])
        self.assertGreater(max(degrees), 1)

    def test_two_turns(self):
        """A step: the second turn reads the first one's image in 8 bits."""
        (degrees,) = self.as_one({"run.num_steps": 1, "rollout.episode": '["text", "image", "text", "image"]',
                     "grpo.micro_batch_tokens": 80}, [(2, {})])
        self.assertGreater(max(degrees), 1)

    def test_a_pair(self):
        pair = pathlib.Path(self.holder.name) / "pair"
        shutil.copytree(f"{DATA}/qwen2_tiny", pair / "text")
        shutil.copytree(f"{DATA}/bagel_tiny", pair / "image")
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text/", "image": "image/"}')
        (degrees,) = self.as_one({"policy.model": pair, "grpo.micro_batch_tokens": 15}, [(2, {})])
        self.assertGreater(max(degrees), 1)

    def test_a_text_model(self):
        self.rewards = equality_test.REWARDS.partition('[[rewards]]\nkind = "saturation"')[0]
        (degrees,) = self.as_one({"policy.model": f"{DATA}/qwen2_tiny_tied", "rollout.episode": '["text"]',
                     "grpo.micro_batch_tokens": 10}, [(4, {})])
        self.assertGreater(max(degrees), 1)

    def test_killed_and_resumed_to_the_same_bytes(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        settings = {**FLEXIBLE, "grpo.micro_batch_tokens": 120, "parallel.shard": "weights"}
        left_alone = self.train(4, settings, base=resume_test.BASE)
        folder = self.fresh()
        self.train(4, settings, folder=folder, fault="update.micro_batch@1:5=kill", code=None, base=resume_test.BASE)
        self.assertFalse((folder / "runs/tiny/final").exists())
        self.same_bytes(self.train(4, settings, folder=folder, resume=True, base=resume_test.BASE), left_alone)

    def test_a_signal_stops_all_in_one_place(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        settings = {**FLEXIBLE, "checkpoint.every": 0, "grpo.micro_batch_tokens": 120}
        left_alone = self.train(2, settings, base=resume_test.BASE)
        folder, results = self.interrupted(settings, 2, 1, "update.micro_batch@1:3", signal.SIGTERM)
        self.assertEqual([code for code, _, _ in results], [130, 130], results)
        run = self.train(2, settings, folder=folder, resume=True, base=resume_test.BASE)
        self.assertEqual((run / "final/ema.safetensors").read_bytes(), (left_alone / "final/ema.safetensors").read_bytes())

    def test_resumed_under_another_shape(self):
        self.prompts = ["a", "b c", LONG_TEXT, "red", "green"]
        base = {**resume_test.BASE, "grpo.micro_batch_tokens": 120}
        reference = self.train(ONE_PROCESS, {"checkpoint.keep_last": 1}, base=base)
        flexible = {**FLEXIBLE, "parallel.shard": "weights"}
        shapes = ((4, flexible, 2, {"parallel.sp": 2}), (2, {"parallel.sp": 2}, 4, flexible), (4, flexible, ONE_PROCESS, {}))
        for first, before, then, after in shapes if FULL else shapes[:2]:
            with self.subTest(saved_on=first, resumed_on=then):
                folder = self.fresh()
                self.train(first, before, folder=folder, fault="optim.before@0:4=kill", code=None, base=base)
                self.assertEqual(self.steps(folder / "runs/tiny"), [1, 2, 3])
                run = self.train(then, {**after, "checkpoint.keep_last": 1}, folder=folder, resume=True, base=base)
                self.check(run, reference)

    def test_what_is_refused(self):
        nowhere = pathlib.Path(self.holder.name) / "no-profile"
        nowhere.mkdir(exist_ok=True)
        for size, settings, line in (
                (2, {"flexible_sp": "true", "sp": 2}, "parallel.sp: expected 1"),
                (2, {"flexible_sp": "true", "tp": 2}, "parallel.tp: expected 1"),
                (2, {"flexible_sp": "true", "plan": "plan.json"}, "parallel.plan: expected an empty string"),
                (2, {"flexible_sp": "true", "exact_reduction": "true"}, "parallel.exact_reduction: expected false"),
                (2, {"flexible_sp": '"yes"'}, "parallel.flexible_sp"),
                (2, {"profile": "somewhere"}, "parallel.profile: expected flexible_sp = true"),
                (2, {"flexible_sp": "true", "profile": nowhere}, "computation_profiling_*_all.json is missing")):
            self.check_refused(size, settings, line)

    def test_a_refused_key_has_its_line_and_column(self):
        folder = self.fresh()
        with (folder / "tiny.toml").open("a") as file:
            file.write("[parallel]\nflexible_sp = true\n  tp = 2\n")
        lines = (folder / "tiny.toml").read_text().splitlines()
        for code, _, stderr in ranks_run.run(BINARY, 2, "train", "tiny.toml", cwd=folder):
            self.assertEqual(code, 2, stderr)
            self.assertIn(f"tiny.toml:{len(lines)}:", stderr)
            self.assertIn("parallel.tp", stderr)


load_tests = ranks_run.own_tests(Flexible)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
