"""The binary as a user runs it: train, resume, sample, eval, export, on a tiny model.

usage: train_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""
EVAL = '\n[eval]\nprompts = "prompts.jsonl"\nmax_prompts = 2\n'


def one_line(text):
    return len(text.splitlines()) == 1 and text.endswith("\n")


class Base(unittest.TestCase):
    """A folder with tiny.toml and a finished run of 4 steps, made once; tests that change it take a copy."""

    lora = False

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-e2e-")
        cls.home = pathlib.Path(cls.holder.name) / "home"
        cls.home.mkdir()
        extra = '\n[policy.lora]\nrank = 4\nalpha = 8\n' if cls.lora else EVAL
        tiny_run.write_inputs(cls.home, DATA, extra=extra)
        if cls.lora:
            recipe = (cls.home / "tiny.toml").read_text()
            (cls.home / "tiny.toml").write_text(recipe.replace("[policy]\n", '[policy]\ntrain = "lora"\n'))
        cls.trained = tiny_run.run(BINARY, "train", "tiny.toml", cwd=cls.home)
        assert cls.trained.returncode == 0, cls.trained.stderr
        cls.run_folder = cls.home / "runs/tiny"

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def copy(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.holder.name)) / "home"
        shutil.copytree(self.home, folder)
        return folder

    def unigrpo(self, *arguments, cwd=None, code=0):
        result = tiny_run.run(BINARY, *arguments, cwd=cwd or self.home)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def refused(self, *arguments, cwd=None):
        """The error line of a command that must not do anything."""
        cwd = cwd or self.home
        before = tiny_run.contents_of(cwd)
        result = self.unigrpo(*arguments, cwd=cwd, code=2)
        self.assertTrue(one_line(result.stderr), result.stderr)
        self.assertEqual(tiny_run.contents_of(cwd), before)
        return result.stderr

    def tensors(self, path):
        listing = json.loads(self.unigrpo("inspect", path, "--json").stdout)
        return {entry["name"]: (entry["dtype"], tuple(entry["shape"]), entry["sha256"]) for entry in listing["tensors"]}


class Train(Base):
    def test_the_run_folder_holds_what_was_promised(self):
        files = tiny_run.files_in(self.run_folder)
        for name in ["recipe.toml", "log.txt", "metrics.jsonl", "report.html", "eval_before.json", "eval_after.json",
                     "run.json",
                     "samples/step_000001/samples.jsonl", "samples/step_000002/samples.jsonl",
                     "samples/before/samples.jsonl", "samples/after/samples.jsonl",
                     "final/ema.safetensors", "final/ae.safetensors", "final/config.json", "final/vocab.json",
                     "final/generation_config.json"]:
            self.assertIn(name, files)
        self.assertEqual(len(list((self.run_folder / "tensorboard").glob("*tfevents*"))), 1)
        self.assertEqual(sorted(os.listdir(self.run_folder / "checkpoints")), [".lock", "step_000003", "step_000004"])
        for step in ("step_000003", "step_000004"):
            self.assertEqual(sorted(os.listdir(self.run_folder / "checkpoints" / step)),
                             ["ema.safetensors", "manifest.json", "optimizer.safetensors", "policy.safetensors",
                              "state.json"])
        self.assertEqual([name for name in files if "tmp" in name or "trash" in name], [])
        self.assertEqual(self.trained.stderr.count("committed step"), 4)

    def test_metrics_count_up_and_unchanged_weights_have_ratio_one(self):
        rows = tiny_run.metrics_of(self.run_folder, steady=False)
        self.assertEqual([row["step"] for row in rows], [1, 2, 3, 4])
        for row in rows:
            for name in ["reward/mean", "reward/std", "reward/saturation", "advantage/zero_std_ratio", "text/loss",
                         "text/kl", "text/approx_kl", "text/clip_fraction", "text/entropy", "text/length",
                         "text/truncated_ratio", "image/loss", "image/approx_kl", "image/clip_fraction",
                         "image/velocity_mse", "optim/lr", "optim/grad_norm", "optim/skipped", "time/rollout",
                         "time/reward", "time/update", "time/step", "throughput/tokens_per_s",
                         "throughput/images_per_s", "memory/peak_bytes"]:
                self.assertTrue(math.isfinite(row[name]), name)
            self.assertLess(row["text/log_prob_diff"], 1e-5)
            self.assertLess(row["image/log_prob_diff"], 1e-5)
        self.assertEqual(rows[0]["image/velocity_mse"], 0)
        self.assertGreater(rows[3]["image/velocity_mse"], 0)
        self.assertGreater(rows[0]["reward/std"], 0)

    def test_samples_lie_beside_their_images(self):
        folder = self.run_folder / "samples/step_000002"
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertEqual([segment["type"] for segment in row["segments"]], ["text", "image"])
            width, height, pixels = tiny_run.read_png(folder / row["segments"][1]["path"])
            self.assertEqual((width, height), (64, 64))
            self.assertGreater(len(set(pixels)), 8)
            self.assertAlmostEqual(row["reward"], row["scores"]["saturation"])

    def test_the_same_recipe_gives_the_same_run(self):
        folder = self.copy()
        shutil.rmtree(folder / "runs")
        self.unigrpo("train", "tiny.toml", cwd=folder)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.run_folder)), [])

    def test_another_seed_gives_another_run(self):
        folder = self.copy()
        shutil.rmtree(folder / "runs")
        self.unigrpo("train", "tiny.toml", "--set", "run.seed=1", "--set", "run.num_steps=1", cwd=folder)
        self.assertNotEqual(tiny_run.metrics_of(folder / "runs/tiny")[0], tiny_run.metrics_of(self.run_folder)[0])


class Resume(Base):
    def test_a_finished_run_goes_on_to_more_steps_as_if_it_had_never_stopped(self):
        folder, straight = self.copy(), self.copy()
        shutil.rmtree(straight / "runs")
        more = ("--set", "run.num_steps=6")
        self.unigrpo("train", "tiny.toml", "--resume", *more, cwd=folder)
        self.unigrpo("train", "tiny.toml", *more, cwd=straight)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", straight / "runs/tiny")), [])

    def test_a_finished_run_without_more_steps_stays_as_it_is(self):
        folder = self.copy()
        self.unigrpo("train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.run_folder)), [])

    def test_an_empty_folder_starts_at_zero(self):
        folder = self.copy()
        shutil.rmtree(folder / "runs")
        self.unigrpo("train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.run_folder)), [])

    def test_another_recipe_is_refused_with_the_keys_that_differ(self):
        line = self.refused("train", "tiny.toml", "--resume", "--set", "optim.lr=2e-3", "--set", "grpo.group_size=4",
                            "--set", "run.num_steps=9", "--set", "checkpoint.every=2")
        different, allowed = line.split(" goes on; it may change ")
        self.assertIn("optim.lr", different)
        self.assertIn("grpo.group_size", different)
        self.assertNotIn("run.num_steps", different)
        self.assertNotIn("checkpoint.every", different)
        self.assertIn("run.num_steps", allowed)
        self.assertIn("[checkpoint]", allowed)

    def test_a_run_of_another_device_goes_on(self):
        folder = self.copy()
        saved = folder / "runs/tiny/recipe.toml"
        text = saved.read_text().replace('device = "cpu"', 'device = "cuda:1"').replace("graphs = false", "graphs = true")
        saved.write_text(text)
        self.assertIn("cuda:1", text)
        self.assertIn("graphs = true", text)
        self.unigrpo("train", "tiny.toml", "--resume", "--set", "run.num_steps=5", cwd=folder)
        self.assertEqual(len(tiny_run.metrics_of(folder / "runs/tiny")), 5)

    def test_a_device_that_is_not_here_is_refused_before_anything_is_made(self):
        folder = self.copy()
        shutil.rmtree(folder / "runs")
        for device in ("cuda", "cuda:0", "cuda:127"):
            line = self.refused("train", "tiny.toml", "--set", f'policy.device="{device}"', cwd=folder)
            self.assertIn(f'tiny.toml: policy.device: "{device}" ', line)
        self.assertFalse((folder / "runs").exists())

    def test_a_folder_in_use_is_refused_without_resume(self):
        self.assertIn("runs/tiny", self.refused("train", "tiny.toml"))

    def test_a_damaged_newest_checkpoint_is_passed_over(self):
        folder = self.copy()
        file = folder / "runs/tiny/checkpoints/step_000004/policy.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        result = self.unigrpo("train", "tiny.toml", "--resume", cwd=folder)
        self.assertIn("step_000004/policy.safetensors", result.stderr)
        self.assertEqual((folder / "runs/tiny/final/ema.safetensors").read_bytes(),
                         (self.run_folder / "final/ema.safetensors").read_bytes())
        self.assertEqual(tiny_run.metrics_of(folder / "runs/tiny"), tiny_run.metrics_of(self.run_folder))


class Inspect(Base):
    def test_a_run_folder_says_how_far_it_is(self):
        text = self.unigrpo("inspect", "runs/tiny").stdout
        for line in ["runs/tiny: run, 4 of 4 steps done\n", "  checkpoints        step 3, 4\n",
                     "  evaluations        after, before\n", "  model folders      final\n"]:
            self.assertIn(line, text)

    def test_a_checkpoint_says_what_it_holds(self):
        folder = "runs/tiny/checkpoints/step_000003"
        self.assertIn(f"{folder}: checkpoint after 3 steps, ", self.unigrpo("inspect", folder).stdout)
        listing = json.loads(self.unigrpo("inspect", folder, "--json").stdout)
        self.assertEqual((listing["kind"], listing["step"]), ("checkpoint", 3))
        self.assertEqual([part["name"] for part in listing["parts"]], ["ema", "optimizer", "policy"])
        self.assertIn("the newest is runs/tiny/checkpoints/step_000004", self.refused("inspect", "runs/tiny/checkpoints"))

    def test_a_damaged_checkpoint_is_refused_with_the_file(self):
        folder = self.copy()
        file = folder / "runs/tiny/checkpoints/step_000003/ema.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        said = self.refused("inspect", "runs/tiny/checkpoints/step_000003", cwd=folder)
        self.assertIn("step_000003/ema.safetensors: SHA-256 is", said)


class FinalModel(Base):
    def test_sample_draws_and_the_seed_decides(self):
        with tempfile.TemporaryDirectory() as out:
            for name, seed in (("a", 0), ("b", 0), ("c", 1)):
                self.unigrpo("sample", "--model", "runs/tiny/final", "--prompt", "a red circle", "--count", 2,
                             "--seed", seed, "--out", f"{out}/{name}")
            a, b, c = (tiny_run.contents_of(f"{out}/{name}") for name in "abc")
        self.assertEqual(a, b)
        self.assertEqual(a.keys(), c.keys())
        images = [name for name in a if name.endswith(".png")]
        self.assertEqual(len(images), 2)
        self.assertNotEqual(a[images[0]], a[images[1]])
        for name in images:
            self.assertNotEqual(a[name], c[name])

    def test_eval_twice_gives_the_same_but_for_the_seconds(self):
        with tempfile.TemporaryDirectory() as out:
            for name, seed in (("a", 0), ("b", 0), ("c", 1)):
                self.unigrpo("eval", "--model", "runs/tiny/final", "--prompts", "prompts.jsonl", "--seed", seed,
                             "--json", f"{out}/{name}.json", "--out", f"{out}/{name}")
            results = [json.loads(pathlib.Path(f"{out}/{name}.json").read_text()) for name in "abc"]
            a, b, c = (tiny_run.contents_of(f"{out}/{name}") for name in "abc")
        for result in results:
            self.assertGreater(result.pop("seconds"), 0)
        self.assertEqual(results[0], results[1])
        self.assertEqual(a, b)
        self.assertTrue(all(a[name] != c[name] for name in a if name.endswith(".png")))
        self.assertEqual(results[0]["num_prompts"], 4)
        self.assertEqual({tag: entry["count"] for tag, entry in results[0]["tags"].items()},
                         {"colors": 1, "counting": 1, "single_object": 1, "two_object": 1})
        for part in ("overall", "overall_by_tag"):
            self.assertTrue(0 <= results[0][part]["strict"] <= results[0][part]["soft"] <= 1)
        self.assertEqual(len([name for name in a if name.endswith(".png")]), 4)

    def test_eval_names_the_line_that_the_reward_cannot_judge(self):
        with tempfile.TemporaryDirectory() as out:
            prompts = pathlib.Path(out) / "p.jsonl"
            prompts.write_text('{"prompt": "a star", "include": [{"class": "star", "count": 1}]}\n{"prompt": "x"}\n')
            self.assertIn("p.jsonl:2:", self.refused("eval", "--model", "runs/tiny/final", "--prompts", prompts))

    def test_a_model_that_is_not_there_is_named(self):
        line = self.refused("sample", "--model", "no/such/model", "--prompt", "x", "--out", "o")
        self.assertIn("no/such/model", line)

    def test_export_writes_the_final_model_again_or_the_raw_weights(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("export", "--run", "runs/tiny", "--out", f"{out}/ema")
            self.unigrpo("export", "--run", "runs/tiny", "--out", f"{out}/raw", "--raw")
            final = self.tensors(self.run_folder / "final/ema.safetensors")
            self.assertEqual(self.tensors(f"{out}/ema/ema.safetensors"), final)
            raw = self.tensors(f"{out}/raw/ema.safetensors")
            self.assertEqual(raw.keys(), final.keys())
            trained = self.tensors(self.run_folder / "checkpoints/step_000004/policy.safetensors")
            self.assertEqual({name: raw[name] for name in trained}, trained)
            source = self.tensors(f"{DATA}/bagel_tiny/ema.safetensors")
            self.assertEqual({n: t[1] for n, t in final.items()}, {n: t[1] for n, t in source.items()})
            self.unigrpo("sample", "--model", f"{out}/ema", "--prompt", "a star", "--out", f"{out}/s")

    def test_export_of_an_earlier_step(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("export", "--run", "runs/tiny", "--out", f"{out}/m", "--raw", "--step", 3)
            trained = self.tensors(self.run_folder / "checkpoints/step_000003/policy.safetensors")
            model = self.tensors(f"{out}/m/ema.safetensors")
            self.assertEqual({name: model[name] for name in trained}, trained)

    def test_export_refuses_what_it_cannot_do(self):
        self.assertIn("runs/tiny/final", self.refused("export", "--run", "runs/tiny", "--out", "runs/tiny/final"))
        self.assertIn("peft", self.refused("export", "--run", "runs/tiny", "--out", "adapter", "--to", "peft"))
        self.assertIn("runs", self.refused("export", "--run", "runs", "--out", "model"))


class Lora(Base):
    lora = True

    def test_only_adapters_are_trained_and_the_base_is_merged_at_the_end(self):
        trained = self.tensors(self.run_folder / "checkpoints/step_000004/policy.safetensors")
        self.assertTrue(trained)
        self.assertTrue(all(".lora_A." in name or ".lora_B." in name for name in trained))
        final = self.tensors(self.run_folder / "final/ema.safetensors")
        self.assertEqual(final.keys(), self.tensors(f"{DATA}/bagel_tiny/ema.safetensors").keys())
        rows = tiny_run.metrics_of(self.run_folder)
        self.assertTrue(all(row["text/log_prob_diff"] < 1e-5 and row["image/log_prob_diff"] < 1e-5 for row in rows))

    def test_the_adapter_on_the_base_draws_what_the_merged_model_draws(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("export", "--run", "runs/tiny", "--to", "peft", "--out", f"{out}/adapter")
            self.assertEqual(sorted(os.listdir(f"{out}/adapter")),
                             ["adapter_config.json", "adapter_model.safetensors", "generation_config.json"])
            config = json.loads(pathlib.Path(f"{out}/adapter/adapter_config.json").read_text())
            self.assertEqual((config["r"], config["lora_alpha"]), (4, 8))
            base = pathlib.Path(out) / "base-model"  # the same, but sampled as the run's own model is
            shutil.copytree(f"{DATA}/bagel_tiny", base)
            shutil.copy(self.run_folder / "final/generation_config.json", base)
            common = ("--prompt", "a star", "--out")
            self.unigrpo("sample", "--model", "runs/tiny/final", *common, f"{out}/merged")
            self.unigrpo("sample", "--model", base, "--adapter", f"{out}/adapter", *common, f"{out}/adapted")
            self.unigrpo("sample", "--model", base, *common, f"{out}/base")
            images = []
            for name in ("merged", "adapted", "base"):
                (file,) = pathlib.Path(f"{out}/{name}").glob("*.png")
                images.append(tiny_run.read_png(file)[2])
        furthest = max(abs(a - b) for a, b in zip(images[0], images[1]))
        self.assertLessEqual(furthest, 1)  # one grey level of rounding
        self.assertGreater(max(abs(a - b) for a, b in zip(images[0], images[2])), 1)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
