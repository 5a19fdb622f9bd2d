"""Ranks of which the last ones judge what the others draw (parallel.reward_ranks) give the result of one process, which
ignores the key.

usage: rewards_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import equality_test  # noqa: E402
import ranks_run  # noqa: E402
import resume_test  # noqa: E402

BINARY = DATA = ""
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
STEPS = equality_test.MANY_STEPS
JUDGE = {"reward_ranks": 1}


class Rewards(resume_test.Resume):
    """Borrows the comparison and the stops; has tests of its own."""

    of_pixels = ("reward/clip_score",)

    def setUp(self):
        network = f'[[rewards]]\nkind = "clip_score"\nmodel = "{pathlib.Path(DATA).resolve()}/clip_tiny"\nweight = 0.0\n'
        self.rewards = equality_test.REWARDS + network

    def test_a_network_and_rules(self):
        self.as_one({**STEPS, "optim.ema.enabled": "true", "eval.prompts": "prompts.jsonl", "eval.every": 2},
                    [(2, JUDGE), (4, JUDGE), (4, {"reward_ranks": 2, "shard": "weights"})] +
                    FULL * [(3, {"reward_ranks": 2}), (8, {"reward_ranks": 3})])

    def test_judges_train_where_samples_are_dealt_anew(self):
        self.as_one({**STEPS, "grpo.micro_batch_tokens": 120}, [(4, {**JUDGE, "flexible_sp": "true"})] +
                    FULL * [(3, {**JUDGE, "flexible_sp": "true", "shard": "weights"})])

    def test_groups_that_are_drawn_again(self):
        self.as_one({"grpo.advantage.zero_std": "resample"}, [(3, JUDGE)])

    def test_a_signal_to_a_judge_or_one_that_draws(self):
        judge = {"checkpoint.every": 0, "parallel.reward_ranks": 1}
        left_alone = self.train(3, judge, base=resume_test.BASE)
        for rank, point, number in ((2, "reward.received@2:4", signal.SIGTERM),
                                    (0, "rollout.denoising_step@0:6", signal.SIGINT)):
            with self.subTest(point=point):
                folder, results = self.interrupted(judge, 3, rank, point, number)
                self.assertEqual([code for code, _, _ in results], [130] * 3, results)
                run = self.train(3, judge, folder=folder, resume=True, base=resume_test.BASE)
                self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                                 (left_alone / "final/ema.safetensors").read_bytes())

    def test_a_judge_or_a_rank_that_draws_is_lost(self):
        for point, lost in (("reward.received@2:4=kill", 2), ("rollout.denoising_step@0:6=exit", 0)):
            with self.subTest(point=point):
                folder = self.fresh()
                sets = [part for key, value in {**resume_test.BASE, "parallel.reward_ranks": 1}.items()
                        for part in ("--set", f"{key}={value}")]
                results = ranks_run.run(BINARY, 3, "train", "tiny.toml", *sets, cwd=folder, fault=point)
                for rank, (code, _, stderr) in enumerate(results):
                    if rank != lost:
                        self.assertEqual(code, 75, stderr)
                        self.assertIn(f"rank {lost} is lost: ", stderr)

    def test_what_cannot_be(self):
        for size, settings, line in (
                (2, {"reward_ranks": 2}, "parallel.reward_ranks: 2 of 2 ranks leave none to draw; expected at most 1"),
                (4, {"reward_ranks": 1, "tp": 2}, "parallel.tp: expected 1 with reward_ranks"),
                (2, {"reward_ranks": -1}, "parallel.reward_ranks")):
            self.check_refused(size, settings, line)


load_tests = ranks_run.own_tests(Rewards)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
