"""Bad input of `unigrpo train`: exit code 2, one line that names the file and what is wrong, and no run folder.

usage: bad_input_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""


class BadInput(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory(prefix="unigrpo-bad-")
        self.addCleanup(self.holder.cleanup)
        self.home = pathlib.Path(self.holder.name)
        tiny_run.write_inputs(self.home, DATA)
        self.model = self.home / "model"
        shutil.copytree(f"{DATA}/bagel_tiny", self.model)

    def refused(self, *arguments, names):
        before = tiny_run.files_in(self.home)
        folders = [path for path in self.home.rglob("*") if path.is_dir()]
        result = tiny_run.run(BINARY, "train", "tiny.toml", *arguments, cwd=self.home)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        for name in names:
            self.assertIn(name, result.stderr)
        self.assertEqual(tiny_run.files_in(self.home), before)
        self.assertEqual([path for path in self.home.rglob("*") if path.is_dir()], folders)

    def refused_model(self, *names):
        self.refused("--set", "policy.model=model", names=names)

    def test_no_model(self):
        self.refused("--set", "policy.model=no/model", names=["no/model"])

    def test_a_model_folder_without_weights(self):
        (self.model / "ema.safetensors").unlink()
        self.refused_model("model", "ema.safetensors")

    def test_truncated_weights(self):
        weights = self.model / "ema.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        self.refused_model("model/ema.safetensors")
        weights.write_bytes(weights.read_bytes()[:4])
        self.refused_model("model/ema.safetensors")
        weights.write_bytes(b"")
        self.refused_model("model/ema.safetensors")

    def test_a_truncated_autoencoder(self):
        weights = self.model / "ae.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        self.refused_model("model/ae.safetensors")

    def test_weights_of_another_size(self):
        config = json.loads((self.model / "llm_config.json").read_text())
        config["num_hidden_layers"] = 4
        (self.model / "llm_config.json").write_text(json.dumps(config))
        self.refused_model("model/ema.safetensors", "layers.3.", "missing")

    def test_a_config_that_is_none(self):
        (self.model / "config.json").write_text('{"latent_patch_size": "two"}')
        self.refused_model("model/config.json", "latent_patch_size")
        (self.model / "config.json").write_text("{")
        self.refused_model("model/config.json")
        (self.model / "config.json").unlink()
        self.refused_model("config.json")

    def test_a_tokenizer_that_is_none(self):
        (self.model / "vocab.json").write_text("not a vocabulary")
        self.refused_model("vocab.json")
        for name in ("vocab.json", "merges.txt"):
            (self.model / name).unlink()
        self.refused_model("model")

    def test_a_tokenizer_without_the_tokens_of_a_block(self):
        for name in ("added_tokens.json", "special_tokens_map.json"):
            (self.model / name).unlink()
        config = json.loads((self.model / "tokenizer_config.json").read_text())
        config.pop("added_tokens_decoder", None)
        config.pop("additional_special_tokens", None)
        (self.model / "tokenizer_config.json").write_text(json.dumps(config))
        self.refused_model("model", "<|im_")

    def test_a_prompt_file_with_a_broken_line(self):
        with open(self.home / "prompts.jsonl", "a", encoding="utf-8") as prompts:
            prompts.write('{"prompt": "a star"\n')
        self.refused(names=["prompts.jsonl:5:"])

    def test_a_prompt_file_that_is_empty_or_missing(self):
        (self.home / "prompts.jsonl").write_text("")
        self.refused(names=["prompts.jsonl"])
        (self.home / "prompts.jsonl").unlink()
        self.refused(names=["prompts.jsonl"])

    def test_prompts_that_the_reward_cannot_judge(self):
        (self.home / "prompts.jsonl").write_text('{"prompt": "a star"}\n')
        self.refused("--set", "rewards.0.kind=geneval", names=["prompts.jsonl:1", "include"])

    def test_evaluation_prompts_that_are_missing_or_cannot_be_judged(self):
        self.refused("--set", "eval.prompts=no.jsonl", names=["no.jsonl"])
        (self.home / "eval.jsonl").write_text('{"prompt": "a star"}\n')
        self.refused("--set", "eval.prompts=eval.jsonl", names=["eval.jsonl:1", "include"])

    def test_a_run_folder_under_a_file(self):
        self.refused("--set", "run.dir=prompts.jsonl/run", names=["prompts.jsonl"])

    def test_an_image_size_that_the_model_cannot_draw(self):
        self.refused("--set", "rollout.image_size=65", names=["image_size", "16"])

    def test_lora_targets_and_optimizer_groups_that_fit_nothing(self):
        (self.home / "tiny.toml").write_text((self.home / "tiny.toml").read_text() +
                                             '\n[[optim.groups]]\npattern = "nothing.*"\nlr = 1e-3\n')
        self.refused(names=["optim.groups", "nothing.*"])


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
