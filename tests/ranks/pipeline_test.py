"""Ranks that have a stage of the layers each (parallel.plan) give the result of one process, which ignores stages.

usage: pipeline_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

import json
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
import tiny_run  # noqa: E402

BINARY = DATA = ""
EMA = {"optim.ema.enabled": "true"}
SHORT = {"grpo.micro_batch_tokens": 60}  # a micro-batch a row or two, so that stages interleave
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
ONE_PROCESS = equality_test.ONE_PROCESS


class Pipeline(resume_test.Resume):
    """Borrows the comparison and the stops; has tests of its own."""

    def plan(self, stages, schedule="1f1b", others=None, **layer):
        """A file with a layer for each digit, its stage; what else stands in each, and in `others` by layer."""
        file = pathlib.Path(self.holder.name) / f"plan-{next(self.count)}.json"
        layers = [{"stage": int(stage), **layer, **(others or {}).get(i, {})} for i, stage in enumerate(stages)]
        file.write_text(json.dumps({"layers": layers, "schedule": schedule}))
        return file

    @staticmethod
    def keys(parallel):
        return {f"parallel.{key}": value for key, value in parallel.items()}

    def check_case(self, run, reference, size, parallel):
        """Also ranks.json: as many stages as the plan has."""
        plan = parallel["plan"].read_text()
        with self.subTest(plan=plan):
            self.check(run, reference)
            mesh = json.loads((run / "ranks.json").read_text())["mesh"]
            self.assertEqual(mesh["stages"], json.loads(plan)["layers"][-1]["stage"] + 1)
            self.assertEqual(size, mesh["stages"] * mesh["data"] * mesh["sequence"] * mesh["tensor"])

    def test_two_stages(self):
        self.as_one({**SHORT, **EMA, "eval.prompts": "prompts.jsonl", "eval.every": 2},
                    [(2, {"plan": self.plan("001")}), (2, {"plan": self.plan("011", "gpipe")})])

    def test_three_stages(self):
        self.as_one({**SHORT, "policy.recompute": "true"}, [(3, {"plan": self.plan("012")})])

    def test_stages_of_ranks_that_share_layers_or_sequences(self):
        self.as_one(SHORT, [(4, {"plan": self.plan("001", tp=2)}),
                            (4, {"plan": self.plan("001", others={1: {"sp": 2}, 2: {"shard": "weights"}})})] +
                    FULL * [(4, {"plan": self.plan("011", "gpipe", sp=2)}), (8, {"plan": self.plan("001", tp=2)})])

    def test_stages_of_ranks_with_samples_of_their_own(self):
        plan = self.plan("011")
        self.as_one({**SHORT, **EMA}, [(4, {"plan": plan}), (4, {"plan": plan, "shard": "weights"})] +
                    FULL * [(4, {"plan": plan, "shard": shard}) for shard in ("optimizer", "gradients")] +
                    FULL * [(8, {"plan": self.plan("011", tp=2, shard="weights"), "shard": "weights"})])

    def test_a_pipeline_may_have_fewer_micro_batches_than_another(self):
        self.as_one({**SHORT, "grpo.prompts_per_step": 1, "grpo.group_size": 3},
                    [(4, {"plan": self.plan("001"), "shard": "weights"})])

    def test_tied_embeddings(self):
        self.rewards = equality_test.REWARDS.partition('[[rewards]]\nkind = "saturation"')[0]
        text = {**SHORT, **EMA, "policy.model": f"{DATA}/qwen2_tiny_tied", "rollout.episode": '["text"]'}
        self.as_one(text, [(2, {"plan": self.plan("01")}), (4, {"plan": self.plan("01"), "shard": "weights"})] +
                    FULL * [(4, {"plan": self.plan("01", tp=2)})])

    def test_lora_and_its_reference(self):
        lora = {"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "grpo.text.kl_beta": 0.1,
                "policy.lora.dropout": 0.3}
        self.as_one({**SHORT, **lora}, [(2, {"plan": self.plan("001")})])

    def test_a_frozen_copy_as_reference(self):
        self.as_one({**SHORT, "grpo.text.kl_beta": 0.1, "policy.freeze": '["*layers.0.*"]'},
                    [(2, {"plan": self.plan("011")})])

    def test_several_optimizer_steps(self):
        self.as_one({**SHORT, "grpo.num_minibatches": 2}, [(2, {"plan": self.plan("001", "gpipe")})])

    def test_killed_and_resumed(self):
        pipeline = {**self.keys({"plan": self.plan("001")}), "grpo.micro_batch_tokens": 60, "run.num_steps": 4}
        left_alone = self.train(2, pipeline, base=resume_test.BASE)
        folder = self.fresh()
        self.train(2, pipeline, folder=folder, fault="update.micro_batch@1:20=kill", code=None, base=resume_test.BASE)
        self.assertFalse((folder / "runs/tiny/final").exists())
        self.same_bytes(self.train(2, pipeline, folder=folder, resume=True, base=resume_test.BASE), left_alone)

    def test_saved_by_stages_resumed_by_others(self):
        short = {"run.num_steps": 3, "checkpoint.keep_last": 1}
        reference = self.train(ONE_PROCESS, short, base=resume_test.BASE)
        pipeline = (4, {"plan": self.plan("001", tp=2)})
        other = (2, {"plan": self.plan("011", "gpipe")})
        for first, then in ((pipeline, other), (pipeline, (ONE_PROCESS, {})),
                            *FULL * (((2, {"shard": "weights"}), pipeline),)):
            with self.subTest(saved_on=first, resumed_on=then):
                folder = self.fresh()
                self.train(first[0], {**short, "checkpoint.keep_last": 100, **self.keys(first[1])}, folder=folder,
                           fault="optim.before@0:2=kill", code=None, base=resume_test.BASE)
                self.assertEqual(self.steps(folder / "runs/tiny"), [1])
                run = self.train(then[0], {**short, **self.keys(then[1])}, folder=folder, resume=True,
                                 base=resume_test.BASE)
                self.check(run, reference)

    def test_a_gradient_that_is_not_finite_on_one_stage_makes_all_skip(self):
        run = self.train(2, {**SHORT, "run.num_steps": 3, **self.keys({"plan": self.plan("001")})}, fault="grad.reduced@1:2=nan",
                         base=resume_test.BASE)
        rows = tiny_run.metrics_of(run)
        self.assertEqual([row["optim/skipped"] for row in rows], [0, 1, 1])
        self.assertIsNone(rows[1]["optim/grad_norm"])
        weights = [ranks_run.part_of(run / f"checkpoints/step_{step:06}", "policy") for step in (1, 2, 3)]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[1], weights[2])

    def test_a_signal_to_one_stage_stops_all(self):
        pipeline = {**self.keys({"plan": self.plan("001")}), "checkpoint.every": 0}
        folder, results = self.interrupted(pipeline, 2, 1, "update.micro_batch@1:3", signal.SIGTERM)
        self.assertEqual([code for code, _, _ in results], [130, 130], results)

    def test_a_rank_holds_its_stage_alone(self):
        def held(size, settings):
            run = self.train(size, {**EMA, "run.num_steps": 1, **settings})
            return tiny_run.metrics_of(run, steady=False)[-1]["memory/state_bytes"]
        self.assertLess(held(3, self.keys({"plan": self.plan("012")})), 0.6 * held(ONE_PROCESS, {}))

    def test_what_cannot_be_in_stages(self):
        plan = self.plan("001")
        for size, settings, line in (
                (3, {"plan": plan}, "2 stages do not divide 3 ranks"),
                (2, {"plan": self.plan("001", tp=2)}, "tp = 2 x sp = 1 does not divide 1 ranks of a stage"),
                (2, {"plan": self.plan("010")}, "layers[2]: 'stage' is 0; expected 1 as before or 2"),
                (3, {"plan": self.plan("0012")}, "has 3 (num_hidden_layers)"),
                (2, {"plan": self.plan("001", "zb")}, "expected 1f1b or gpipe"),
                (2, {"plan": plan, "rollout": "tp"}, 'parallel.rollout: "tp" with '),
                (2, {"plan": plan, "exact_reduction": "true"}, "parallel.exact_reduction: expected layers of one stage"),
                (2, {"plan": plan, "flexible_sp": "true"}, "parallel.plan"),
                (4, {"plan": plan, "shard": "weights", "shard_ranks": 4}, "4 does not divide the 2 ranks")):
            with self.subTest(ranks=size, plan=settings["plan"].read_text(), line=line):
                self.refused(size, "train", settings, line)
        self.refused(2, "sft", {"plan": plan}, "`unigrpo sft` has none")

    def refused(self, size, command, settings, line):
        folder = self.fresh()
        sets = [part for key, value in {**equality_test.BASE, **self.keys(settings)}.items()
                for part in ("--set", f"{key}={value}")]
        if command == "sft":
            sets += ["--set", "sft.output=trained"]
        for code, _, stderr in ranks_run.run(BINARY, size, command, "tiny.toml", *sets, cwd=folder):
            self.assertEqual(code, 2, stderr)
            self.assertIn(line, stderr)
            self.assertEqual(len(stderr.splitlines()), 1, stderr)
        self.assertFalse((folder / "runs").exists())


load_tests = ranks_run.own_tests(Pipeline)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
