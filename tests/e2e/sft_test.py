"""Supervised training on a user's own rows, for every family; stopped, resumed, with adapters.

usage: sft_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""

RECIPE = """
[run]
name = "rows"
num_steps = {num_steps}
threads = 1
[policy]
model = "{model}"
{policy}
[data]
prompts = "rows.jsonl"
[rollout]
episode = {episode}
num_steps = 3
max_tokens = 6
[grpo]
micro_batch_tokens = {tokens}
[sft]
output = "trained"
batch_size = 2
timesteps_per_image = 2
prompt_dropout = 0.2
[optim]
lr = 1e-3
[checkpoint]
every = 2
[monitor]
report = false
tensorboard = false
"""

TEXT_ROWS = [{"prompt": f"{i} + 1 =", "target": [{"type": "text", "text": str(i + 1)}]} for i in range(4)]
IMAGE_ROWS = [
    {"prompt": "a red square", "target": [{"type": "text", "text": "one square"}, {"type": "image", "path": "a.png"}]},
    {"prompt": "two turns", "target": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "again"},
                                       {"type": "image", "path": "a.png"}]},
    {"prompt": "what is it?", "images": ["a.png"], "target": [{"type": "text", "text": "a square"}]},
    {"prompt": "draw", "target": [{"type": "image", "path": "a.png"}]},
]


def write_png(path, size=64, height=64):
    rows = b"".join(b"\0" + bytes((200, 40, 40)) * size for _ in range(height))
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Sft(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory(prefix="unigrpo-sft-")
        self.addCleanup(self.holder.cleanup)

    def home(self, name, model, rows, episode='["text", "image"]', policy="", num_steps=4, tokens=8192):
        folder = pathlib.Path(self.holder.name) / name
        folder.mkdir()
        write_png(folder / "a.png")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "rows.toml").write_text(RECIPE.format(model=model, episode=episode, policy=policy,
                                                        num_steps=num_steps, tokens=tokens))
        return folder

    def unigrpo(self, folder, *arguments, code=0, fault=""):
        result = tiny_run.run(BINARY, *arguments, cwd=folder, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def losses(self, folder, name):
        return [row[name] for row in tiny_run.metrics_of(folder / "runs/rows") if name in row]

    def test_bagel_learns_texts_and_images_of_several_turns(self):
        folder = self.home("bagel", f"{DATA}/bagel_tiny", IMAGE_ROWS, num_steps=12)
        self.unigrpo(folder, "sft", "rows.toml")
        for name in ("sft/cross_entropy", "sft/velocity_mse"):
            values = self.losses(folder, name)
            self.assertLess(sum(values[-4:]), sum(values[:4]), name)
        self.unigrpo(folder, "sample", "--model", "trained", "--prompt", "a red square", "--out", "out")
        self.unigrpo(folder, "export", "--run", "runs/rows", "--out", "exported")
        self.assertTrue((folder / "exported/ema.safetensors").exists())

    def test_qwen2_and_pairs_train_on_rows(self):
        folder = self.home("qwen2", f"{DATA}/qwen2_tiny", TEXT_ROWS, '["text"]', num_steps=12)
        self.unigrpo(folder, "sft", "rows.toml")
        values = self.losses(folder, "sft/cross_entropy")
        self.assertLess(sum(values[-4:]), sum(values[:4]))
        self.assertEqual(self.losses(folder, "sft/velocity_mse"), [])

        pair = pathlib.Path(self.holder.name) / "pair"
        pair.mkdir()
        shutil.copytree(f"{DATA}/qwen2_tiny", pair / "text")
        shutil.copytree(f"{DATA}/bagel_tiny", pair / "image")
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text/", "image": "image/"}')
        folder = self.home("paired", pair, IMAGE_ROWS[:1])
        self.unigrpo(folder, "sft", "rows.toml")
        self.assertTrue((folder / "trained/image/ema.safetensors").exists())

    def test_micro_batches_change_nothing(self):
        losses = []
        for name, tokens in (("whole", 8192), ("cut", 64)):
            folder = self.home(name, f"{DATA}/bagel_tiny", IMAGE_ROWS, num_steps=2, tokens=tokens)
            self.unigrpo(folder, "sft", "rows.toml")
            losses.append(self.losses(folder, "sft/cross_entropy") + self.losses(folder, "sft/velocity_mse") +
                          self.losses(folder, "optim/grad_norm"))
        for one, other in zip(*losses):
            self.assertAlmostEqual(one, other, delta=1e-5 * max(1.0, abs(one)))  # float32, another order of sums

    def test_stopped_and_resumed_is_as_left_alone(self):
        whole = self.home("whole", f"{DATA}/bagel_tiny", IMAGE_ROWS)
        self.unigrpo(whole, "sft", "rows.toml")
        killed = self.home("killed", f"{DATA}/bagel_tiny", IMAGE_ROWS)
        self.unigrpo(killed, "sft", "rows.toml", fault="optim.after:3=kill", code=-signal.SIGKILL)
        self.unigrpo(killed, "sft", "rows.toml", "--resume")
        one, other = (tiny_run.contents_of(folder / "trained") for folder in (killed, whole))
        self.assertEqual(one.keys(), other.keys())
        self.assertEqual([name for name in one if one[name] != other[name]], [])
        self.assertEqual(tiny_run.metrics_of(killed / "runs/rows"), tiny_run.metrics_of(whole / "runs/rows"))

    def test_a_signal_is_seen_at_the_next_micro_batch(self):
        whole = self.home("alone", f"{DATA}/bagel_tiny", IMAGE_ROWS, num_steps=2, tokens=64)
        self.unigrpo(whole, "sft", "rows.toml")
        folder = self.home("asked", f"{DATA}/bagel_tiny", IMAGE_ROWS, num_steps=2, tokens=64)
        process = subprocess.Popen(tiny_run.command(BINARY, "sft", "rows.toml"), cwd=folder,
                                   env=tiny_run.environment("sft.micro_batch:1=stop,sft.micro_batch:2=kill"),
                                   stderr=subprocess.PIPE, text=True)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status))
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, rest = process.communicate(timeout=tiny_run.TIMEOUT_S)
        self.assertEqual(process.returncode, 130, rest)
        self.unigrpo(folder, "sft", "rows.toml", "--resume")
        self.assertEqual(tiny_run.contents_of(folder / "trained"), tiny_run.contents_of(whole / "trained"))
        self.assertEqual(tiny_run.metrics_of(folder / "runs/rows"), tiny_run.metrics_of(whole / "runs/rows"))

    def test_a_signal_saves_the_last_finished_step(self):
        folder = self.home("stopped", f"{DATA}/bagel_tiny", IMAGE_ROWS, num_steps=100000)
        process = subprocess.Popen(tiny_run.command(BINARY, "sft", "rows.toml"), cwd=folder,
                                   env=tiny_run.environment(), stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "committed step 2" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(tiny_run.TIMEOUT_S), 130, rest)
        self.assertIn("SIGTERM: stopped after step", rest)

    def test_a_batch_of_one_kind_has_the_numbers_of_that_kind_alone(self):
        for name, rows, has, lacks in (("images", IMAGE_ROWS[3:] * 2, ("velocity_mse", "images"), ("cross_entropy", "tokens")),
                                       ("texts", IMAGE_ROWS[2:3] * 2, ("cross_entropy", "tokens"), ("velocity_mse", "images"))):
            folder = self.home(name, f"{DATA}/bagel_tiny", rows, num_steps=1)
            self.unigrpo(folder, "sft", "rows.toml", "--set", "sft.prompt_dropout=0")
            (row,) = tiny_run.metrics_of(folder / "runs/rows", steady=False)
            self.assertTrue(all(value is not None for value in row.values()), row)  # null: not finite
            self.assertGreater(row["sft/" + has[0]], 0)
            self.assertGreater(row[f"throughput/{has[1]}_per_s"], 0)
            self.assertNotIn("sft/" + lacks[0], row)
            self.assertNotIn(f"throughput/{lacks[1]}_per_s", row)
            self.assertGreater(row["optim/grad_norm"], 0)

    def test_lora_moves_the_adapters_alone(self):
        folder = self.home("lora", f"{DATA}/qwen2_tiny", TEXT_ROWS, '["text"]',
                           policy='train = "lora"\nlora = {rank = 2, alpha = 4}')
        self.unigrpo(folder, "sft", "rows.toml")
        checkpoint = folder / "runs/rows/checkpoints/step_000004/policy.safetensors"
        names = json.loads(self.unigrpo(folder, "inspect", checkpoint, "--json").stdout)["tensors"]
        self.assertTrue(names)
        self.assertTrue(all(".lora_" in tensor["name"] for tensor in names))

    def test_an_image_that_has_changed_is_refused_on_resume(self):
        folder = self.home("changed", f"{DATA}/bagel_tiny", IMAGE_ROWS)
        self.unigrpo(folder, "sft", "rows.toml", "--set", "run.num_steps=2")
        more = ("sft", "rows.toml", "--resume", "--set", "run.num_steps=3")
        image = (folder / "a.png").read_bytes()
        write_png(folder / "a.png", 96)
        stderr = self.unigrpo(folder, *more, code=2).stderr
        self.assertRegex(stderr, r"^unigrpo: images of rows\.jsonl: not those that the run runs/rows began with "
                                 r"\(data\.prompts/images: SHA-256 \w{12}, now \w{12}\)\n$")
        (folder / "a.png").write_bytes(image)
        self.unigrpo(folder, *more)

    def test_dropping_all_prompts_of_rows_of_text_is_refused_and_of_some_told(self):
        folder = self.home("dropped", f"{DATA}/qwen2_tiny", TEXT_ROWS, '["text"]')
        stderr = self.unigrpo(folder, "sft", "rows.toml", "--set", "sft.prompt_dropout=1", code=2).stderr
        self.assertIn("sft.prompt_dropout = 1: a row without its prompt is trained on its last image, and no target in rows.jsonl ends in "
                      "one: nothing is trained; expected below 1", stderr)
        self.assertFalse((folder / "runs").exists())
        stderr = self.unigrpo(folder, "sft", "rows.toml", "--set", "run.num_steps=1").stderr
        self.assertIn("sft.prompt_dropout = 0.2: a row without its prompt", stderr)
        self.assertNotIn("sft.prompt_dropout", self.unigrpo(folder, "sft", "rows.toml", "--set", "run.name=other", "--set", "run.num_steps=1", "--set",
                                                            "sft.output=other", "--set", "sft.prompt_dropout=0").stderr)

    def test_an_output_in_use_is_refused_before_anything_is_made(self):
        folder = self.home("used", f"{DATA}/qwen2_tiny", TEXT_ROWS, '["text"]')
        (folder / "trained").mkdir()
        (folder / "trained/mine").write_text("")
        result = self.unigrpo(folder, "sft", "rows.toml", code=2)
        self.assertIn("sft.output: trained exists and is not empty", result.stderr)
        self.assertFalse((folder / "runs").exists())
        result = self.unigrpo(folder, "sft", "rows.toml", "--resume", code=2)  # no run of ours is there yet
        self.assertIn("sft.output: trained exists and is not empty", result.stderr)
        self.assertTrue((folder / "trained/mine").exists())
        result = self.unigrpo(folder, "sft", "rows.toml", "--set", "sft.output=runs", code=2)
        self.assertIn("sft.output: runs is the run folder runs/rows or holds it", result.stderr)

    def test_rows_that_the_model_cannot_read_are_told_before_anything_is_made(self):
        folder = self.home("images", f"{DATA}/qwen2_tiny", IMAGE_ROWS[:1], '["text"]')
        result = self.unigrpo(folder, "sft", "rows.toml", code=2)
        self.assertIn("reads and writes text only", result.stderr)
        self.assertFalse((folder / "runs").exists())

    def test_the_line_of_a_row_that_cannot_be_trained_on_is_told(self):
        other_size = {"prompt": "two sizes", "target": [{"type": "image", "path": "a.png"},
                                                        {"type": "image", "path": "b.png"}]}
        no_file = {"prompt": "gone", "target": [{"type": "image", "path": "gone.png"}]}
        no_image = {"prompt": "text", "images": ["rows.toml"], "target": [{"type": "text", "text": "none"}]}
        too_long = {"prompt": "a" * 60000, "target": [{"type": "text", "text": "long"}]}
        for number, (row, part) in enumerate([(other_size, "its images have different sizes"), (no_file, "gone.png"),
                                              (no_image, "not a PNG, JPEG or WebP image"),
                                              (too_long, "prompt and target take ")]):
            folder = self.home(f"bad{number}", f"{DATA}/bagel_tiny", IMAGE_ROWS * 4 + [row])
            write_png(folder / "b.png", height=128)
            result = self.unigrpo(folder, "sft", "rows.toml", code=2)
            self.assertIn("rows.jsonl:17: ", result.stderr)
            self.assertIn(part, result.stderr)
            self.assertFalse((folder / "runs").exists())


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
