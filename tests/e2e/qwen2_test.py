"""A Qwen2.5 folder from one end to the other: train on sums, resume, sample, eval, export.

usage: qwen2_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
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

RECIPE = """
[run]
name = "sums"
num_steps = 2
threads = 1
[policy]
model = "{model}"
{lora}
[data]
prompts = "sums/train.jsonl"
[rollout]
episode = ["text"]
max_tokens = 6
[grpo]
prompts_per_step = 3
group_size = 4
[grpo.text]
kl_beta = 0.1
[[rewards]]
kind = "answer"
[optim]
lr = 1e-3
[checkpoint]
every = 1
[eval]
prompts = "sums/test.jsonl"
max_prompts = 4

[[eval.rewards]]
kind = "answer"
"""


class Base(unittest.TestCase):
    """A finished run of two steps, made once."""

    model, lora = "qwen2_tiny", ""

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-qwen2-")
        cls.home = pathlib.Path(cls.holder.name) / "home"
        cls.home.mkdir()
        (cls.home / "sums.toml").write_text(RECIPE.format(model=f"{DATA}/{cls.model}", lora=cls.lora))
        for arguments in (("data", "arithmetic", "--out", "sums"), ("train", "sums.toml")):
            result = tiny_run.run(BINARY, *arguments, cwd=cls.home)
            assert result.returncode == 0, result.stderr
        cls.run_folder = cls.home / "runs/sums"

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def unigrpo(self, *arguments, cwd=None, code=0):
        result = tiny_run.run(BINARY, *arguments, cwd=cwd or self.home)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def copy(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.holder.name)) / "home"
        shutil.copytree(self.home, folder)
        return folder

    def tensors(self, path):
        listing = json.loads(self.unigrpo("inspect", path, "--json").stdout)
        return {entry["name"]: (entry["dtype"], tuple(entry["shape"]), entry["sha256"]) for entry in listing["tensors"]}

    def check_metrics(self):
        rows = tiny_run.metrics_of(self.run_folder)
        self.assertEqual([row["step"] for row in rows], [0, 1])
        for row in rows:
            self.assertLess(row["text/log_prob_diff"], 1e-5)
            for name in ("reward/mean", "text/loss", "text/kl", "text/length", "optim/grad_norm"):
                self.assertTrue(math.isfinite(row[name]), name)
        self.assertEqual(rows[0]["text/kl"], 0)


class Train(Base):
    def test_rollout_and_update_agree(self):
        self.check_metrics()

    def test_the_final_folder_is_in_the_official_layout(self):
        final = self.run_folder / "final"
        self.assertEqual(tiny_run.files_in(final),
                         ["added_tokens.json", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
                          "special_tokens_map.json", "tokenizer_config.json", "vocab.json"])
        generation = json.loads((final / "generation_config.json").read_text())
        self.assertEqual(generation["episode"], ["text"])
        self.assertEqual(generation["eos_token_id"], 402)  # the base's own, for other tools
        source = self.tensors(f"{DATA}/qwen2_tiny/model.safetensors")
        written = self.tensors(final / "model.safetensors")
        self.assertEqual({n: t[:2] for n, t in written.items()}, {n: t[:2] for n, t in source.items()})

    def test_the_final_folder_loads_again(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("sample", "--model", "runs/sums/final", "--prompt", "3 + 4 =", "--out", f"{out}/a")
            (row,) = (json.loads(line) for line in (pathlib.Path(out) / "a/samples.jsonl").read_text().splitlines())
            self.assertEqual([segment["type"] for segment in row["segments"]], ["text"])
            self.unigrpo("eval", "--model", "runs/sums/final", "--prompts", "sums/test.jsonl", "--reward", "answer",
                         "--json", f"{out}/eval.json")
            self.assertEqual(json.loads((pathlib.Path(out) / "eval.json").read_text())["unscored"], 0)
        folder = self.copy()
        self.unigrpo("train", "sums.toml", "--set", "run.name=again", "--set", "policy.model=runs/sums/final", cwd=folder)
        self.assertTrue((folder / "runs/again/final/model.safetensors").exists())

    def test_a_finished_run_goes_on_as_if_it_had_never_stopped(self):
        folder, straight = self.copy(), self.copy()
        shutil.rmtree(straight / "runs")
        more = ("--set", "run.num_steps=4")
        self.unigrpo("train", "sums.toml", "--resume", *more, cwd=folder)
        self.unigrpo("train", "sums.toml", *more, cwd=straight)
        self.assertEqual(list(tiny_run.differences(folder / "runs/sums", straight / "runs/sums")), [])

    def test_a_program_with_images_is_refused_before_anything_is_written(self):
        before = tiny_run.contents_of(self.home)
        for more in ((), ("--dry-run",)):
            result = self.unigrpo("train", "sums.toml", "--set", 'rollout.episode=["text", "image"]', "--set",
                                  "run.name=drawn", *more, code=2)
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
            self.assertIn("qwen2_tiny: a Qwen2.5 model reads and writes text only", result.stderr)
        self.assertEqual(tiny_run.contents_of(self.home), before)

    def test_export_names_the_layout_that_the_model_has(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("export", "--run", "runs/sums", "--out", f"{out}/m", "--to", "qwen2")
            self.assertEqual(self.tensors(f"{out}/m/model.safetensors"), self.tensors(self.run_folder / "final/model.safetensors"))
            result = self.unigrpo("export", "--run", "runs/sums", "--out", f"{out}/b", "--to", "bagel", code=2)
            self.assertIn("--to bagel: the model of runs/sums is a qwen2 folder", result.stderr)

    def test_a_warm_start_needs_targets(self):
        result = self.unigrpo("sft", "sums.toml", "--set", "run.name=warm", "--set", "sft.output=out", cwd=self.copy(), code=2)
        self.assertIn("sums/train.jsonl:1: the row has no target, and is no prompt of the embedded world", result.stderr)


class TiedLora(Base):
    """Tied embeddings in shards, and adapters alone trained."""

    model, lora = "qwen2_tiny_tied", 'train = "lora"\n[policy.lora]\nrank = 4\nalpha = 8'

    def test_adapters_are_trained_and_merged_and_the_head_is_left_out(self):
        self.check_metrics()
        trained = self.tensors(self.run_folder / "checkpoints/step_000002/policy.safetensors")
        self.assertTrue(trained and all(".lora_" in name for name in trained))
        source = self.tensors(f"{DATA}/qwen2_tiny_tied/model.safetensors.index.json")
        final = self.tensors(self.run_folder / "final/model.safetensors")
        self.assertEqual(final.keys(), source.keys())
        self.assertNotIn("lm_head.weight", final)
        self.assertEqual(final["model.embed_tokens.weight"], source["model.embed_tokens.weight"])

    def test_the_adapter_on_the_base_says_what_the_merged_model_says(self):
        with tempfile.TemporaryDirectory() as out:
            self.unigrpo("export", "--run", "runs/sums", "--to", "peft", "--out", f"{out}/adapter")
            base = pathlib.Path(out) / "base"
            shutil.copytree(f"{DATA}/qwen2_tiny_tied", base)
            shutil.copy(self.run_folder / "final/generation_config.json", base)
            texts = []
            for model, more in (("runs/sums/final", ()), (base, ("--adapter", f"{out}/adapter"))):
                self.unigrpo("sample", "--model", model, "--prompt", "3 + 4 =", "--count", 4, "--out", f"{out}/s", *more)
                rows = (pathlib.Path(out) / "s/samples.jsonl").read_text().splitlines()
                texts.append([json.loads(row)["segments"] for row in rows])
            self.assertEqual(*texts)


class Learns(unittest.TestCase):
    def test_random_weights_learn_small_sums_from_a_rule(self):
        recipes = pathlib.Path(DATA).parent.parent / "recipes"
        with tempfile.TemporaryDirectory(prefix="unigrpo-sums-") as folder:
            for arguments in (("init", "--configs", recipes / "sums_model", "--out", "runs/sums_model", "--float32"),
                              ("data", "arithmetic", "--out", "runs/sums", "--largest", 4),
                              ("train", recipes / "qwen2_sums.toml", "--set", "run.num_steps=100",
                               "--set", "monitor.sample_every=1")):
                result = tiny_run.run(BINARY, *arguments, cwd=folder)
                self.assertEqual(result.returncode, 0, result.stderr)
            run_folder = pathlib.Path(folder) / "runs/qwen2_sums"
            rewards = [row["reward/mean"] for row in tiny_run.metrics_of(run_folder)]
            self.assertLess(sum(rewards[:10]) / 10, 0.1)
            self.assertGreater(sum(rewards[-10:]) / 10, 0.6)
            # The 22 prompts come twice in a step now and then; each row of samples.jsonl has an id of its own.
            self.assertTrue((run_folder / "report.html").exists())
            repeated = 0
            for file in run_folder.glob("samples/step_*/samples.jsonl"):
                ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
                self.assertEqual(len(set(ids)), len(ids))
                repeated += sum("@" in name for name in ids)
            self.assertGreater(repeated, 0)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
