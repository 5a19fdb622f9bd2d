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
        self.assertEqual([row["step"] for row in rows], [1, 2])
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
            self.assertEqual(json.loads(pathlib.Path(f"{out}/adapter/adapter_config.json").read_text())["task_type"],
                             "CAUSAL_LM")
            self.unigrpo("export", "--run", "runs/sums", "--out", f"{out}/model")
            wanted = (self.run_folder / "final/generation_config.json").read_text()
            for folder in ("adapter", "model"):
                self.assertEqual(pathlib.Path(f"{out}/{folder}/generation_config.json").read_text(), wanted)
            base = pathlib.Path(out) / "base"
            shutil.copytree(f"{DATA}/qwen2_tiny_tied", base)
            shutil.copy(self.run_folder / "final/generation_config.json", base)
            texts = []
            for model, more in (("runs/sums/final", ()), (base, ("--adapter", f"{out}/adapter"))):
                samples = f"{out}/samples{len(texts)}"
                self.unigrpo("sample", "--model", model, "--prompt", "3 + 4 =", "--count", 4, "--out", samples, *more)
                rows = (pathlib.Path(samples) / "samples.jsonl").read_text().splitlines()
                texts.append([json.loads(row)["segments"] for row in rows])
            self.assertEqual(*texts)


class OtherToolsSettings(unittest.TestCase):
    """generation_config.json as transformers writes it, and a tag that is a special token."""

    def copy(self, home, settings):
        folder = pathlib.Path(home) / "model"
        shutil.copytree(f"{DATA}/qwen2_tiny", folder)
        (folder / "generation_config.json").write_text(json.dumps(settings))
        return folder

    def texts(self, home, *options):
        out = tempfile.mkdtemp(dir=home)
        result = tiny_run.run(BINARY, "sample", "--model", "model", "--prompt", "3 + 4 =", "--count", 3, "--out", out, *options,
                              cwd=home)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(row)["segments"][0] for row in (pathlib.Path(out) / "samples.jsonl").read_text().splitlines()]
        return rows, result.stderr

    def test_greedy_files_give_one_text_of_their_length(self):
        for settings in ({"do_sample": False, "max_new_tokens": 4}, {"do_sample": False, "temperature": 0, "max_new_tokens": 4},
                         {"do_sample": False, "temperature": None, "max_new_tokens": 4}):
            with tempfile.TemporaryDirectory() as home:
                self.copy(home, settings)
                rows, stderr = self.texts(home)
                self.assertEqual([row["text"] for row in rows], [rows[0]["text"]] * 3)
                self.assertLessEqual(rows[0]["num_tokens"], 4)
                self.assertEqual(stderr, "")

    def test_what_does_not_act_is_told_once(self):
        with tempfile.TemporaryDirectory() as home:
            self.copy(home, {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "eos_token_id": [402, 400]})
            rows, stderr = self.texts(home, "--max-tokens", 4)
            self.assertGreater(len({row["text"] for row in rows}), 1)
            self.assertEqual(len(stderr.splitlines()), 1)
            self.assertIn("eos_token_id = [402,400]", stderr)
            self.assertNotIn("top_", stderr)

    def test_what_leaves_tokens_out_acts(self):
        with tempfile.TemporaryDirectory() as home:
            self.copy(home, {"do_sample": True, "top_k": 1})
            greedy, _ = self.texts(home, "--max-tokens", 6, "--temperature", 0)
            for arguments in ((), ("--top-k", 0, "--top-p", 0), ("--top-k", 0, "--min-p", 1)):
                with self.subTest(arguments):
                    rows, stderr = self.texts(home, "--max-tokens", 6, *arguments)
                    self.assertEqual([row["text"] for row in rows], [row["text"] for row in greedy])
                    self.assertEqual(stderr, "")
            everything, _ = self.texts(home, "--max-tokens", 6, "--top-k", 0)
            self.assertGreater(len({row["text"] for row in everything}), 1)

    def test_rewards_see_tags_that_are_special_tokens(self):
        means = []
        for special in (True, False):
            with tempfile.TemporaryDirectory() as home:
                folder = self.copy(home, {})
                config = json.loads((folder / "tokenizer_config.json").read_text())
                for token, text in ((405, "<think>"), (406, "</think>")):
                    config["added_tokens_decoder"][str(token)] = {
                        "content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                        "special": special}
                (folder / "tokenizer_config.json").write_text(json.dumps(config))
                added = json.loads((folder / "added_tokens.json").read_text())
                (folder / "added_tokens.json").write_text(json.dumps({**added, "<think>": 405, "</think>": 406}))
                (pathlib.Path(home) / "p.txt").write_text("3 + 4 =\n5 + 1 =\n")
                (pathlib.Path(home) / "r.toml").write_text("""
[run]
num_steps = 1
threads = 1
[policy]
model = "model"
[data]
prompts = "p.txt"
[rollout]
episode = ["text"]
max_tokens = 60
temperature = 5
[grpo]
prompts_per_step = 2
group_size = 32
[[rewards]]
kind = "text_rules"
pattern = '</?think>'
""")
                result = tiny_run.run(BINARY, "train", "r.toml", cwd=home)
                self.assertEqual(result.returncode, 0, result.stderr)
                means.append(tiny_run.metrics_of(pathlib.Path(home) / "runs/run")[0]["reward/mean"])
        self.assertGreater(means[0], 0)
        self.assertEqual(*means)


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
