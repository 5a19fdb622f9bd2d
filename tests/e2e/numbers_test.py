"""What a run writes down is what it did: metrics, advantages, moving averages, refusals, on a tiny model.

usage: numbers_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""
QUICK = {"run.num_steps": 1, "monitor.sample_every": 0, "monitor.report": "false", "monitor.tensorboard": "false",
         "monitor.drift.enabled": "false"}


class Numbers(unittest.TestCase):
    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="unigrpo-numbers-"))
        self.addCleanup(shutil.rmtree, self.home)
        tiny_run.write_inputs(self.home, DATA)

    def unigrpo(self, *arguments, code=0, fault=""):
        result = tiny_run.run(BINARY, *arguments, cwd=self.home, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def train(self, settings, code=0, fault="", command="train"):
        sets = []
        for key, value in {**QUICK, **settings}.items():
            sets += ["--set", f"{key}={value}"]
        return self.unigrpo(command, "tiny.toml", *sets, code=code, fault=fault)

    def rows(self):
        return tiny_run.metrics_of(self.home / "runs/tiny", steady=False)

    def samples(self, step=1):
        file = self.home / f"runs/tiny/samples/step_{step:06}/samples.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def refused(self, settings, *words, command="train"):
        before = tiny_run.contents_of(self.home)
        line = self.train(settings, code=2, command=command).stderr
        self.assertEqual(len(line.splitlines()), 1, line)
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(tiny_run.contents_of(self.home), before)

    def checkpoint(self, step):
        return self.home / f"runs/tiny/checkpoints/step_{step:06}"

    def counters(self, step):
        return json.loads((self.checkpoint(step) / "state.json").read_text())["counters"]

    # ---- moving average ----

    def test_a_moving_average_that_is_off_is_nowhere(self):
        self.train({"optim.ema.enabled": "false", "run.num_steps": 2})
        self.assertNotIn("ema.safetensors", os.listdir(self.checkpoint(2)))
        self.assertEqual([key for key in self.counters(2) if key.startswith("ema")], [])
        self.unigrpo("export", "--run", "runs/tiny", "--out", "model")
        self.train({"optim.ema.enabled": "false", "run.num_steps": 2}, code=2)  # the folder is in use
        sets = [part for key, value in {**QUICK, "optim.ema.enabled": "false", "run.num_steps": 3}.items()
                for part in ("--set", f"{key}={value}")]
        self.unigrpo("train", "tiny.toml", *sets, "--resume")
        self.assertEqual(len(self.rows()), 3)

    def test_a_step_without_finite_gradients_moves_neither_weights_nor_average(self):
        self.train({"run.num_steps": 3, "checkpoint.keep_last": 3}, fault="grad.reduced:2=nan")
        for name in ("policy.safetensors", "ema.safetensors", "optimizer.safetensors"):
            one, two, three = ((self.checkpoint(step) / name).read_bytes() for step in (1, 2, 3))
            self.assertEqual(one, two, name)
            self.assertNotEqual(two, three, name)
        self.assertEqual([self.counters(step)["ema.num_updates"] for step in (1, 2, 3)], ["1", "1", "2"])
        self.assertEqual([row["optim/skipped"] for row in self.rows()], [0, 1, 1])
        self.assertIsNone(self.rows()[1]["optim/grad_norm"])

    # ---- metrics ----

    def test_throughput_counts_images_and_is_absent_without_any(self):
        for episode, images in ('["text"]', 0), ('["image"]', 1), ('["image", "text", "image"]', 2):
            shutil.rmtree(self.home / "runs", ignore_errors=True)
            reward = "saturation" if images else "text_rules"
            (self.home / "tiny.toml").write_text((self.home / "tiny.toml").read_text().replace('"saturation"', f'"{reward}"')
                                                 .replace('"text_rules"', f'"{reward}"'))
            self.train({"rollout.episode": episode})
            row = self.rows()[0]
            for prefix, seconds in ("throughput/", None), ("throughput/rollout_", row["time/rollout"]):
                self.assertEqual(prefix + "images_per_s" in row, images > 0, episode)
                self.assertEqual(prefix + "tokens_per_s" in row, "text" in episode, episode)
                if images and seconds:
                    self.assertAlmostEqual(row[prefix + "images_per_s"] * seconds, 6 * images, places=5)
            if images:
                self.assertLess(row["throughput/images_per_s"] * row["time/step"], 6 * images * 1.001 + 6)

    def test_a_step_without_advantages_has_nothing_that_a_clip_held_back(self):
        text = (self.home / "tiny.toml").read_text()
        (self.home / "tiny.toml").write_text(text.replace('kind = "saturation"', 'kind = "geneval"\nmetric = "strict"'))
        self.train({"grpo.num_minibatches": 2, "grpo.image.penalty": '"none"', "run.num_steps": 2, "optim.lr": 3e-3})
        for row in self.rows():
            self.assertEqual(row["advantage/zero_std_ratio"], 1)  # the untrained model draws no circle
            self.assertEqual(row["image/clip_fraction"], 0)
            self.assertEqual(row["text/clip_fraction"], 0)
            self.assertNotIn("text/kl", row)  # no reference was asked
            self.assertEqual(row["reward/std"], 0)

    # ---- advantages ----

    def test_samples_have_the_advantage_of_each_modality(self):
        self.train({"rewards.0.modality": '"image"', "monitor.sample_every": 1, "monitor.num_samples": 6})
        rows = self.samples()
        self.assertEqual({row["advantage"]["text"] for row in rows}, {0})
        self.assertGreater(max(row["advantage"]["image"] for row in rows), 0.5)
        shutil.rmtree(self.home / "runs")
        self.train({"rollout.episode": '["image"]', "monitor.sample_every": 1})
        self.assertEqual(set(self.samples()[0]["advantage"]), {"image"})

    def test_truncated_texts_are_penalized_before_groups_are_judged_to_be_without_spread(self):
        text = (self.home / "tiny.toml").read_text()
        (self.home / "tiny.toml").write_text(text.replace('kind = "saturation"', 'kind = "geneval"\nmetric = "strict"'))
        self.train({"grpo.text.truncated": "penalize", "grpo.advantage.zero_std": "drop", "rollout.max_tokens": 2,
                    "monitor.sample_every": 1, "monitor.num_samples": 6, "run.num_steps": 1})
        row = self.rows()[0]
        self.assertEqual(row["text/truncated_ratio"], 1)
        self.assertEqual(row["advantage/zero_std_ratio"], 0)
        self.assertGreater(row["optim/micro_batches"], 0)
        for sample in self.samples():
            self.assertEqual(sample["advantage"], {"text": -1, "image": 0})

    # ---- memory ----

    @unittest.skipIf(os.environ.get("UNIGRPO_SANITIZED"), "a sanitizer takes memory of its own")
    def test_the_dry_run_says_what_a_run_takes(self):
        """Peak resident memory over that of the program alone, on the embedded model, within 10%."""
        assets = pathlib.Path(DATA).parent.parent / "assets"
        text = (self.home / "tiny.toml").read_text()
        for old, new in ((f"{DATA}/bagel_tiny", f"{assets}/shapes-base"), ("prompts.jsonl", f"{assets}/shapes-world/train.jsonl"),
                         ("max_tokens = 6", "max_tokens = 24"), ("width = 2", 'mode = "all"'), ("saturation", "geneval")):
            text = text.replace(old, new)
        (self.home / "tiny.toml").write_text(text)
        program = pathlib.Path(BINARY).with_name("unigrpo-torch")
        empty = self.peak(program, "train", "--help")
        for train in ("full", "lora"):
            for average in ("true", "false"):
                sets = []
                for key, value in {**QUICK, "run.num_steps": 2, "policy.train": train,
                                   "optim.ema.enabled": average}.items():
                    sets += ["--set", f"{key}={value}"]
                shutil.rmtree(self.home / "runs", ignore_errors=True)
                measured = self.peak(program, "train", "tiny.toml", *sets) - empty
                table = self.unigrpo("train", "tiny.toml", *sets, "--dry-run").stdout.split("\nmemory")[1]
                line = {words[0]: words for words in map(str.split, table.splitlines()) if words}
                said = float(line["in"][2]) - float(line.get("reserve", [0, 0])[1])  # the reserve is a GPU's
                self.assertAlmostEqual(said * 2 ** 30 / measured, 1, delta=0.1, msg=f"{train}, average {average}")

    def peak(self, *arguments):
        process = subprocess.Popen(list(map(str, arguments)), cwd=self.home, env=tiny_run.environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        self.assertEqual(status, 0, arguments)
        return usage.ru_maxrss * 1024

    # ---- what cannot work is refused, and nothing made ----

    def test_patterns_without_a_match_are_refused(self):
        self.refused({"policy.freeze": '["vit_modle.*"]'}, "policy.freeze: 'vit_modle.*' fits no parameter")
        self.refused({"policy.freeze": '["vit_model.*", "vit_model.*.bias"]'}, "that an earlier pattern left")
        self.refused({"policy.freeze": '["*"]'}, "policy.freeze", "nothing to train")
        self.refused({"policy.train": "lora", "policy.freeze": '["vit_model.*"]'}, "policy.freeze", "policy.lora.targets")
        self.refused({"policy.train": "lora", "policy.lora.targets": '["*_proj.weight", "nothing"]'}, "'nothing' fits no")

    def test_settings_that_cannot_train_are_refused(self):
        self.refused({"grpo.num_minibatches": 3}, "grpo.num_minibatches", "at most prompts_per_step = 2")
        self.refused({"rollout.temperature": 1e-38}, "rollout.temperature", "expected ")
        self.refused({"rollout.sde.noise_level": 1e-30}, "rollout.sde.noise_level", "expected ")
        self.refused({"rollout.num_steps": 1, "rollout.window.width": 1}, "rollout.num_steps", "at least 2")
        self.refused({"rollout.sde.kind": "cps", "rollout.window.mode": "fixed", "rollout.window.first": 2},
                     "rollout.window", "rollout.num_steps - 1 = 3")
        self.refused({"grpo.text.kl_beta": 0.1, "grpo.text.kl_estimator": "k1"}, "grpo.text.kl_estimator")


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
