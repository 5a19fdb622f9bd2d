"""Ranks that hold a share of the optimizer's state, of gradients, of weights give the result of one process.

usage: shards_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

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
LEVELS = ("optimizer", "gradients", "weights")
EMA = {"optim.ema.enabled": "true"}
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
ONE_PROCESS = equality_test.ONE_PROCESS
NOT_ALIKE = ("time/", "throughput/", "memory/", "parallel/")


class Shards(resume_test.Resume):
    """Borrows the comparison and the stops; has tests of its own."""

    def levels(self, *sizes):
        return [(size, {"shard": level}) for size in sizes for level in LEVELS]

    def test_every_level(self):
        self.as_one({**EMA, **equality_test.MANY_STEPS, "eval.prompts": "prompts.jsonl", "eval.every": 2,
                     "eval.keep_best": "true"}, self.levels(2, 3, 4) if FULL else self.levels(2, 3))

    def test_hybrid(self):
        cases = [(4, {"shard": level, "shard_ranks": 2}) for level in (LEVELS if FULL else ("weights",))]
        self.as_one(EMA, cases)

    def test_reduced_once(self):
        cases = [(2, {"shard": "weights", "reduce": "last"}), (3, {"shard": "gradients", "reduce": "last"})]
        self.as_one({"grpo.micro_batch_tokens": 60}, cases)

    def test_other_numbers_of_micro_batches(self):
        """Five prompts on three ranks: two, two and one; some ranks join the others' passes with nothing."""
        self.as_one({"grpo.micro_batch_tokens": 60, "grpo.text.kl_beta": 0.1, "grpo.image.penalty_weight": 0.05},
                    self.levels(3) if FULL else [(3, {"shard": "weights"})])

    def test_where_ranks_outnumber_prompts(self):
        self.as_one({"grpo.group_size": 4}, [(6, {"shard": "weights"})])

    def test_a_rank_may_hold_nothing(self):
        self.as_one({"grpo.prompts_per_step": 1}, self.levels(4) if FULL else [(4, {"shard": "weights"})])

    def test_lora(self):
        settings = {"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "grpo.text.kl_beta": 0.1}
        self.as_one(settings, self.levels(2, 3) if FULL else [(2, {"shard": "weights"})])

    def test_lora_with_dropout(self):
        """Ranks change no mask: it belongs to a sequence and a token."""
        settings = {"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "policy.lora.dropout": 0.3}
        self.as_one(settings, [(2, {"shard": "none"}), (3, {"shard": "weights"})])
        self.as_one({**settings, "grpo.micro_batch_tokens": 60}, [(2, {"shard": "none"})])

    def test_frozen_experts(self):
        self.as_one({"policy.freeze": '["*_moe_gen*"]', **EMA}, self.levels(2) if FULL else [(2, {"shard": "weights"}),
                                                                                            (3, {"shard": "gradients"})])

    def test_several_optimizer_steps(self):
        self.as_one({"grpo.num_minibatches": 2, **EMA},
                    self.levels(2, 3) if FULL else [(2, {"shard": "weights"}), (2, {"shard": "optimizer"})])

    def test_two_turns(self):
        # The second turn reads the first one's image in 8 bits: weights hardly move (see equality_test.py).
        settings = {"rollout.episode": '["text", "image", "text", "image"]', "optim.lr": 1e-7}
        self.as_one(settings, [(2, {"shard": "weights"})])

    @unittest.skipUnless(FULL, "long")
    def test_resampling_and_running_statistics(self):
        for settings in ({"grpo.advantage.zero_std": "resample", "grpo.group_size": 2},
                         {"grpo.advantage.statistics": "running"}):
            self.as_one(settings, self.levels(2, 3))

    def texts_of(self, model):
        """A home whose model writes text alone."""
        def home():
            folder = self.fresh()
            recipe = (folder / "tiny.toml").read_text()
            recipe = recipe.replace(f"{DATA}/bagel_tiny", f"{DATA}/{model}").replace(equality_test.REWARDS, equality_test.TEXT_REWARDS)
            recipe = recipe.replace("[rollout]\n", '[rollout]\nepisode = ["text"]\n').replace("[rollout.window]\nwidth = 2\n", "")
            (folder / "tiny.toml").write_text(recipe)
            return folder
        return home

    def test_tied_embeddings(self):
        """On two ranks: with a head this wide a row's bits depend on how many rows there are, in one process too."""
        self.as_one(EMA, self.levels(2) if FULL else [(2, {"shard": "weights"})], home=self.texts_of("qwen2_tiny_tied"))

    def paired(self):
        folder = self.fresh()
        pair = folder / "pair"
        shutil.copytree(f"{DATA}/qwen2_tiny", pair / "text")
        shutil.copytree(f"{DATA}/bagel_tiny", pair / "image")
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text/", "image": "image/"}')
        recipe = (folder / "tiny.toml").read_text()
        (folder / "tiny.toml").write_text(recipe.replace(f"{DATA}/bagel_tiny", "pair"))
        return folder

    def test_paired_policy(self):
        self.as_one({}, self.levels(2, 3) if FULL else [(2, {"shard": "weights"}), (3, {"shard": "weights"})], home=self.paired)

    def test_supervised(self):
        settings = {"sft.output": "trained", "sft.batch_size": 6, "sft.num_examples": 40, "sft.edit": 0.3,
                    "sft.self_correct": 0.3, "sft.describe": 0.2, "sft.prompt_dropout": 0.3, "grpo.micro_batch_tokens": 100}
        base = {"policy.dtype": "float32", "checkpoint.every": 0, "run.num_steps": 4}
        reference = self.train(ONE_PROCESS, settings, command="sft", base=base)
        name = "checkpoints/step_000004"
        for size, level in ((2, "weights"), (5, "weights"), (3, "optimizer")):
            with self.subTest(ranks=size, shard=level):
                run = self.train(size, {**settings, "parallel.shard": level}, command="sft", base=base)
                self.check_metrics(run, reference)
                weights, wanted = (ranks_run.part_of(each / name, "policy") for each in (run, reference))
                self.assertLess(ranks_run.distance(weights, wanted), 1e-5)

    def test_what_a_rank_holds_is_its_share(self):
        def held(size, shard):
            folder = self.fresh()
            recipe = (folder / "tiny.toml").read_text()
            model = pathlib.Path(DATA).parent.parent / "assets/shapes-base"
            (folder / "tiny.toml").write_text(recipe.replace(f"{DATA}/bagel_tiny", str(model)))
            run = self.train(size, {**EMA, "run.num_steps": 1, "parallel.shard": shard}, folder=folder)
            return tiny_run.metrics_of(run, steady=False)[-1]["memory/state_bytes"]
        self.assertLessEqual(held(4, "weights"), 0.27 * held(ONE_PROCESS, "none"))

    def test_a_weight_in_bf16_follows_its_master(self):
        """Rounding decides, so that runs are near each other, no more; the same ranks give the same bytes."""
        settings = {"policy.dtype": "bfloat16", "parallel.shard": "weights"}
        first, second = self.train(2, settings), self.train(2, settings)
        self.same_bytes(second, first)
        lost = [row["optim/lost_updates"] for row in tiny_run.metrics_of(first)]
        self.assertTrue(all(0 < share < 1 for share in lost), lost)

    def test_killed_and_resumed_to_the_same_bytes(self):
        for level in LEVELS if FULL else ("weights",):
            base = {**resume_test.BASE, "parallel.shard": level}
            left_alone = self.train(3, {}, base=base)
            for fault in ("update.micro_batch@1:5=kill", "unit.gather@2:40=kill", "save.manifest@0:3=kill"):
                if level != "weights" and fault.startswith("unit"):
                    continue
                with self.subTest(shard=level, fault=fault):
                    folder = self.fresh()
                    self.train(3, {}, folder=folder, fault=fault, code=None, base=base)
                    self.assertFalse((folder / "runs/tiny/final").exists())
                    self.same_bytes(self.train(3, {}, folder=folder, resume=True, base=base), left_alone)

    def test_a_signal_within_a_pass_drops_the_step_on_all(self):
        base = {**resume_test.BASE, "parallel.shard": "weights", "checkpoint.every": 0}
        left_alone = self.train(2, {}, base=base)
        for rank, point in ((1, "unit.gather@1:9"), (0, "policy.layer@0:100"), (1, "update.micro_batch@1:3")):
            with self.subTest(point=point):
                folder, results = self.interrupted({"checkpoint.every": 0, "parallel.shard": "weights"}, 2, rank, point,
                                                   signal.SIGTERM)
                self.assertEqual([code for code, _, _ in results], [130, 130], results)
                run = self.train(2, {}, folder=folder, resume=True, base=base)
                self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                                 (left_alone / "final/ema.safetensors").read_bytes())

    def test_saved_on_some_ranks_and_levels_resumed_on_others(self):
        reference = self.train(ONE_PROCESS, {"checkpoint.keep_last": 1}, base=resume_test.BASE)
        for (first, level), (then, other) in (((3, "weights"), (2, "optimizer")), ((2, "gradients"), (0, "none")),
                                              ((0, "none"), (3, "weights"))):
            with self.subTest(saved_on=first, shard=level, resumed_on=then, then=other):
                folder = self.fresh()
                self.train(first, {"parallel.shard": level}, folder=folder, fault="optim.before@0:4=kill", code=None,
                           base=resume_test.BASE)
                self.assertEqual(self.steps(folder / "runs/tiny"), [1, 2, 3])
                run = self.train(then, {"parallel.shard": other, "checkpoint.keep_last": 1}, folder=folder, resume=True,
                                 base=resume_test.BASE)
                self.check(run, reference)

    def test_a_gradient_that_is_not_finite_on_one_rank_makes_all_skip(self):
        self.all_skip({**resume_test.BASE, "parallel.shard": "weights"})

    def test_exact_reduction_gives_the_same_bytes(self):
        exact = {**EMA, "parallel.exact_reduction": "true"}
        cases = [(2, "none"), (2, "weights"), (4, "none"), (4, "weights")] + ([(1, "none"), (8, "gradients")] if FULL else [])
        variants = [{}, {"grpo.num_minibatches": 2, "grpo.text.kl_beta": 0.1}] if FULL else [{"grpo.num_minibatches": 2}]
        for settings in variants:
            one = self.train(ONE_PROCESS, {**exact, **settings})
            for size, level in cases:
                with self.subTest(ranks=size, shard=level, **settings):
                    run = self.train(size, {**exact, **settings, "parallel.shard": level})
                    for file in tiny_run.files_in(one):
                        if file.startswith(("final/", "samples/")):
                            self.assertEqual((run / file).read_bytes(), (one / file).read_bytes(), file)
                    self.assertEqual(*([{key: value for key, value in row.items() if not key.startswith(NOT_ALIKE)}
                                        for row in tiny_run.metrics_of(folder, steady=False)] for folder in (run, one)))
        self.check(one, self.train(ONE_PROCESS, {**EMA, **settings}))

    def test_exact_reduction_says_what_it_needs(self):
        for size, settings, wanted in (
                (3, {}, "expected 1, 2, 4, 8, ... ranks, got 3"),
                (2, {"parallel.shard": "weights", "parallel.shard_ranks": 1}, "tp = 1, sp = 1 and shard_ranks = 0, got 1, 1 and 1"),
                (2, {"parallel.reduce": "last"}, 'expected reduce = "each" with it'),
                (2, {"grpo.advantage.zero_std": "resample"}, 'expected another zero_std than "resample"')):
            folder = self.fresh()
            sets = [part for key, value in {"parallel.exact_reduction": "true", **settings}.items()
                    for part in ("--set", f"{key}={value}")]
            for code, _, stderr in ranks_run.run(BINARY, size, "train", "tiny.toml", *sets, cwd=folder):
                self.assertEqual(code, 2, stderr)
                self.assertIn("parallel.exact_reduction", stderr)
                self.assertIn(wanted, stderr)
            self.assertFalse((folder / "runs").exists())

    def test_shard_ranks_that_do_not_divide_are_refused(self):
        folder = self.fresh()
        results = ranks_run.run(BINARY, 3, "train", "tiny.toml", "--set", "parallel.shard=weights", "--set",
                                "parallel.shard_ranks=2", cwd=folder)
        for code, _, stderr in results:
            self.assertEqual(code, 2, stderr)
            self.assertIn("parallel.shard_ranks: 2 does not divide", stderr)
        self.assertFalse((folder / "runs").exists())


load_tests = ranks_run.own_tests(Shards)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
