"""Several ranks give the result of one process.

usage: equality_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

import concurrent.futures
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
FIFTH = {"prompt": "a green square", "tag": "colors", "include": [{"class": "square", "count": 1, "color": "green"}]}
BASE = {"grpo.prompts_per_step": 5, "grpo.group_size": 3, "policy.dtype": "float32", "checkpoint.every": 0,
        "monitor.num_samples": 100, "monitor.sample_every": 100, "run.num_steps": 3}
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
MANY_STEPS = {"run.num_steps": 20 if FULL else 5}
# Text decides: a reward of 8-bit pixels takes a rounding of latents for a step of its own, in one process with other
# micro-batches as on ranks (gradient norms 1e-5 apart within 5 steps).
TEXT_REWARDS = """kind = "text_rules"
pattern = "[a-f]"
[[rewards]]
name = "vowel"
kind = "text_rules"
pattern = "[aeiou]"
weight = 0.5
"""
REWARDS = TEXT_REWARDS + """[[rewards]]
kind = "saturation"
weight = 0.0
"""
# What depends on how the step is spread over ranks, and what is noise about 0 with unchanged weights.
SPREAD = ("parallel/", "time/", "throughput/", "memory/", "optim/micro_batches")
ONE_PROCESS = 0


PNG = tiny_run.red_square()


class Equality(unittest.TestCase):
    """Each test runs one recipe in one process and on ranks, and compares all that the runs say of themselves."""

    rewards = REWARDS
    of_pixels = ()  # metrics whose value hangs on the 8-bit levels of few pixels: after step 1 alike to 1e-3 + 1e-4

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-equality-")
        cls.count = itertools.count(1)

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def fresh(self):
        folder = pathlib.Path(self.holder.name) / f"run-{next(self.count)}"
        folder.mkdir()
        tiny_run.write_inputs(folder, DATA, image_size=32)
        recipe = (folder / "tiny.toml").read_text()
        (folder / "tiny.toml").write_text(recipe.replace('kind = "saturation"\n', self.rewards))
        with (folder / "prompts.jsonl").open("a") as file:
            file.write(json.dumps(FIFTH) + "\n")
        return folder

    def train(self, size, settings, folder=None, code=0, resume=False, fault="", command="train", base=BASE):
        folder = folder or self.fresh()
        sets = [part for key, value in {**base, **settings}.items() for part in ("--set", f"{key}={value}")]
        results = ranks_run.run(BINARY, size, command, "tiny.toml", *sets, *(["--resume"] if resume else []), cwd=folder,
                                fault=fault)
        for rank, (got, _, stderr) in enumerate(results):
            if code is not None:
                self.assertEqual(got, code, f"rank {rank} of {size}: {stderr}")
        return folder / "runs/tiny"

    def check_refused(self, size, parallel, line):
        """Each rank ends with 2 and one line, which holds this one, and nothing is made."""
        with self.subTest(ranks=size, **parallel):
            folder = self.fresh()
            keys = {f"parallel.{key}": value for key, value in parallel.items()}
            sets = [part for key, value in {**BASE, **keys}.items() for part in ("--set", f"{key}={value}")]
            for code, _, stderr in ranks_run.run(BINARY, size, "train", "tiny.toml", *sets, cwd=folder):
                self.assertEqual(code, 2, stderr)
                self.assertIn(line, stderr)
                self.assertEqual(len(stderr.splitlines()), 1, stderr)
            self.assertFalse((folder / "runs").exists())

    def check_metrics(self, run, reference, same_bits=True):
        rows, wanted = tiny_run.metrics_of(run, steady=False), tiny_run.metrics_of(reference, steady=False)
        self.assertEqual([row["step"] for row in rows], [row["step"] for row in wanted])
        for row, want in zip(rows, wanted):
            names = {name for name in want if not name.startswith(SPREAD)}
            self.assertEqual({name for name in row if not name.startswith(SPREAD)}, names)
            for name in names:
                if not same_bits and name.startswith("drift/"):  # counts pixels
                    continue
                what = f"step {row['step']}, {name}: {row[name]}, one process has {want[name]}"
                first = row["step"] <= 1 and name.startswith(("reward/", "text/length", "text/entropy", "text/truncated",
                                                              "advantage/", "eval/")) and (same_bits or name != "text/entropy")
                if first or want[name] is None or row[name] is None:
                    self.assertEqual(row[name], want[name], what)
                elif self.of_pixels and name.startswith(self.of_pixels):
                    self.assertTrue(math.isclose(row[name], want[name], rel_tol=1e-3, abs_tol=1e-4), what)
                elif name == "optim/grad_norm":
                    self.assertTrue(math.isclose(row[name], want[name], rel_tol=1e-5), what)
                elif name.endswith("/log_prob_diff"):  # of two log-probs near -3 in float32, the furthest apart of all
                    self.assertTrue(abs(row[name] - want[name]) <= 5e-6, what)
                else:
                    self.assertTrue(abs(row[name] - want[name]) <= 1e-5 * abs(want[name]) + 1e-6, what)

    def check(self, run, reference, same_bits=True):
        """The equality table: what step 1 drew to the bit (or texts alone), every step's numbers, the weights at the end."""
        for file in sorted((reference / "samples/step_000001").iterdir()):
            same = (run / "samples/step_000001" / file.name).read_bytes()
            if file.suffix == ".png":
                if same_bits:
                    self.assertEqual(same, file.read_bytes(), file.name)
                continue
            for row, want in zip(same.splitlines(), file.read_bytes().splitlines(), strict=True):
                self.assertEqual(json.loads(row), json.loads(want))
        self.check_metrics(run, reference, same_bits)
        (last,) = (reference / "checkpoints").glob("step_*")
        for part in last.glob("*.safetensors"):
            if part.stem in ("policy", "ema"):
                weights = ranks_run.part_of(run / "checkpoints" / last.name, part.stem)
                self.assertLess(ranks_run.distance(weights, part), 1e-5, part.stem)
        self.assertEqual(tiny_run.files_in(run / "final"), tiny_run.files_in(reference / "final"))

    def as_one(self, settings, cases, home=None, base=BASE):
        """Compares each of `cases`, (ranks, what stands in [parallel]), with one process. They run two at a time: one
        process leaves a core idle. home(): makes a folder where the usual one will not do."""
        def train(size, parallel):
            keys = {f"parallel.{key}": value for key, value in parallel.items()}
            return self.train(size, {**settings, **keys}, folder=(home or self.fresh)(), base=base)

        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            reference, *runs = [pool.submit(train, *case) for case in ((ONE_PROCESS, {}), *cases)]
            for (size, parallel), run in zip(cases, runs):
                with self.subTest(ranks=size, **parallel):
                    self.check_case(run.result(), reference.result(), size, parallel)

    def check_case(self, run, reference, _ranks, _parallel):
        self.check(run, reference)

    def same(self, settings, sizes=(2, 3)):
        self.as_one(settings, [(size, {}) for size in sizes])

    def test_many_steps(self):
        self.same({**MANY_STEPS, "optim.ema.enabled": "true", "eval.prompts": "prompts.jsonl", "eval.every": 2,
                   "eval.keep_best": "true"}, sizes=(2, 3, 4))

    def test_where_ranks_outnumber_prompts(self):
        self.same({"grpo.group_size": 4}, sizes=(6,))

    def test_a_rank_may_hold_nothing(self):
        self.same({"grpo.prompts_per_step": 1}, sizes=(4,))

    def test_lora(self):
        self.same({"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "grpo.text.kl_beta": 0.1})

    def test_frozen_experts(self):
        self.same({"policy.freeze": '["*_moe_gen*"]'}, sizes=(2,))

    def test_tied_embeddings(self):
        self.rewards = REWARDS.partition('[[rewards]]\nkind = "saturation"')[0]
        self.same({"policy.model": f"{DATA}/qwen2_tiny_tied", "rollout.episode": '["text"]'}, sizes=(2, 4))

    def test_paired_policy(self):
        pair = pathlib.Path(self.holder.name) / "pair"
        shutil.copytree(f"{DATA}/qwen2_tiny", pair / "text")
        shutil.copytree(f"{DATA}/bagel_tiny", pair / "image")
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text/", "image": "image/"}')
        self.same({"policy.model": pair}, sizes=(2,))

    def test_several_optimizer_steps(self):
        self.same({"grpo.num_minibatches": 2})

    def test_one_micro_batch_a_row(self):
        self.same({"grpo.micro_batch_tokens": 60}, sizes=(2,))

    def test_resampling(self):
        self.same({"grpo.advantage.zero_std": "resample", "grpo.group_size": 2})

    def test_running_statistics(self):
        self.same({"grpo.advantage.statistics": "running"})

    def test_two_turns(self):
        # The second turn reads the first one's image, in 8 bits: see REWARDS.
        self.same({"rollout.episode": '["text", "image", "text", "image"]', "optim.lr": 1e-7}, sizes=(2,))

    def test_supervised(self):
        rows = [{"prompt": "a red square", "target": [{"type": "text", "text": "one square"}, {"type": "image", "path": "a.png"}]},
                {"prompt": "two turns", "target": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "again"},
                                                   {"type": "image", "path": "a.png"}]},
                {"prompt": "what is it?", "images": ["a.png"], "target": [{"type": "text", "text": "a square"}]}]
        settings = {"sft.output": "trained", "sft.batch_size": 5, "sft.timesteps_per_image": 2, "sft.prompt_dropout": 0.3,
                    "data.prompts": "rows.jsonl", "grpo.micro_batch_tokens": 100, "optim.lr": 1e-3}
        self.same_supervised(settings, rows)

    def test_supervised_on_the_embedded_world(self):
        self.same_supervised({"sft.output": "trained", "sft.batch_size": 6, "sft.num_examples": 40, "sft.edit": 0.3,
                              "sft.self_correct": 0.3, "sft.describe": 0.2, "sft.prompt_dropout": 0.3})

    def test_autoencoder(self):
        self.same_supervised({"sft.output": "trained", "sft.batch_size": 4, "sft.stage": "autoencoder", "optim.lr": 1e-4})

    def same_supervised(self, settings, rows=(), sizes=(ONE_PROCESS, 2, 5)):
        runs = []
        for size in sizes:
            folder = self.fresh()
            (folder / "a.png").write_bytes(PNG)
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            base = {"policy.dtype": "float32", "checkpoint.every": 0, "run.num_steps": 3}
            runs.append(self.train(size, settings, folder=folder, command="sft", base=base))
        for run in runs[1:]:
            self.check_metrics(run, runs[0])
            weights, wanted = (ranks_run.part_of(folder / "checkpoints/step_000003", "policy") for folder in (run, runs[0]))
            self.assertLess(ranks_run.distance(weights, wanted), 1e-5)
            self.assertEqual(tiny_run.files_in(run.parent.parent / "trained"),
                             tiny_run.files_in(runs[0].parent.parent / "trained"))

    def test_workers(self):
        self.same({"run.threads": 2}, sizes=(2,))


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
