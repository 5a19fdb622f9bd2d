"""Training a tiny LTX-2 folder: one segment an episode, a video with its sound; killed, resumed, sampled and refused.

usage: av_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
"""

import json
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""

RECIPE = """
[run]
name = "av"
num_steps = 3
threads = {threads}
[policy]
model = "{model}"
[data]
prompts = "prompts.jsonl"
text_features = "features.safetensors"
[rollout]
episode = ["av"]
num_steps = 3
video_noise_level = 0.6
clip = {{frames = 17, height = 64, width = 64, fps = 16}}
[rollout.window]
width = 2
[grpo]
prompts_per_step = 2
group_size = 3
micro_batch_tokens = 200
advantage.combine = "normalize_then_sum"
[grpo.video]
clip_range = 1e-2
[grpo.audio]
clip_range = 1e-2
penalty_weight = 0.1
[[rewards]]
kind = "av_quality"
streams = ["video"]
[[rewards]]
kind = "av_pitch"
streams = ["audio"]
[[rewards]]
kind = "av_quality"
name = "clean"
weight = 0.5
[optim]
lr = 1e-3
[checkpoint]
every = 1
[monitor]
sample_every = 2
num_samples = 2
"""


def write_safetensors(path, tensors):
    """tensors: name -> (shape, floats), float32."""
    header, body = {}, b""
    for name, (shape, values) in tensors.items():
        data = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


class Av(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-av-")
        cls.base = pathlib.Path(cls.holder.name) / "base"
        cls.base.mkdir()
        result = tiny_run.run(BINARY, "data", "av", "--out", "world", "--rows", "100", cwd=cls.base)
        assert result.returncode == 0, result.stderr
        rows = [json.loads(line) for line in (cls.base / "world/train.jsonl").read_text().splitlines()]
        seen, cls.rows = set(), []
        for row in rows:
            av = row["metadata"]["av"]
            if av["scene"] != "bounce" or av.get("silent") or row["prompt"] in seen:
                continue
            seen.add(row["prompt"])
            cls.rows.append(row)
        cls.rows = cls.rows[:3]
        assert len(cls.rows) == 3, [row["prompt"] for row in rows]
        draw = random.Random(1)
        features = {row["prompt"]: ([5 + i, 12 * 3], [draw.gauss(0, 1) for _ in range((5 + i) * 36)])
                    for i, row in enumerate(cls.rows)}
        (cls.base / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cls.rows))
        write_safetensors(cls.base / "features.safetensors", features)
        cls.runs = {}

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def fresh(self, threads=1):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.holder.name))
        for name in ("prompts.jsonl", "features.safetensors"):
            shutil.copy(self.base / name, folder / name)
        (folder / "recipe.toml").write_text(RECIPE.format(model=f"{DATA}/ltx2_tiny/v20", threads=threads))
        return folder

    def unigrpo(self, folder, *arguments, code=0, fault=""):
        result = tiny_run.run(BINARY, *arguments, cwd=folder, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def trained(self, threads=1):
        if threads not in self.runs:
            folder = self.fresh(threads)
            self.unigrpo(folder, "train", "recipe.toml")
            self.runs[threads] = folder
        return self.runs[threads]

    def test_both_streams_train_from_ratio_one(self):
        rows = tiny_run.metrics_of(self.trained() / "runs/av")
        self.assertEqual(len(rows), 3)
        for row in rows:
            for stream in ("video", "audio"):
                self.assertLess(row[f"{stream}/log_prob_diff"], 1e-6, row)
                self.assertAlmostEqual(row[f"{stream}/ratio"], 1, delta=1e-5)
                self.assertIn(f"{stream}/velocity_mse", row)
            self.assertNotIn("image/loss", row)
        self.assertGreater(rows[0]["optim/grad_norm"], 0)
        self.assertEqual(rows[0]["reward/dropped"], 0)
        self.assertIn("av/advantage_correlation", rows[0])
        moved = [rows[-1][f"{stream}/velocity_mse"] for stream in ("video", "audio")]
        self.assertGreater(min(moved), 0, rows)

    def test_what_is_written(self):
        folder = self.trained() / "runs/av"
        for step in ("step_000001", "step_000002"):
            rows = [json.loads(line) for line in (folder / "samples" / step / "samples.jsonl").read_text().splitlines()]
            self.assertEqual(len(rows), 2)
            for row in rows:
                (segment,) = row["segments"]
                self.assertEqual({key: segment[key] for key in segment if key != "path"},
                                 {"type": "av", "frames": 17, "fps": 16.0, "sample_rate": 24000, "seconds": 1.0625})
                self.assertEqual(set(row["advantage"]), {"video", "audio"})
                self.assertEqual(set(row["scores"]), {"av_quality", "av_pitch", "clean"})
                clip = folder / "samples" / step / segment["path"]
                self.assertTrue(clip.name.endswith(".mp4"))
                self.assertEqual(tiny_run.read_png(clip.with_suffix(".png"))[:2], (8 * 64, 64))
                self.assertTrue(clip.with_suffix(".wav").exists())
                if shutil.which("ffprobe"):
                    told = json.loads(subprocess.run(
                        ["ffprobe", "-v", "error", "-show_streams", "-of", "json", clip], capture_output=True,
                        text=True, check=True).stdout)["streams"]
                    self.assertEqual(sorted(one["codec_type"] for one in told), ["audio", "video"])
        # The report shows the contact sheets.
        self.unigrpo(self.trained(), "report", "runs/av")

    def test_killed_and_resumed_is_left_alone_to_the_byte(self):
        for point in ("update.micro_batch:3", "rollout.denoising_step:8", "optim.after:2", "save.commit:2"):
            with self.subTest(point):
                folder = self.fresh()
                killed = tiny_run.run(BINARY, "train", "recipe.toml", cwd=folder, fault=f"{point}=kill")
                self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr)
                self.unigrpo(folder, "train", "recipe.toml", "--resume")
                self.assertEqual(list(tiny_run.differences(folder / "runs/av", self.trained() / "runs/av")), [])

    def test_threads_change_no_bit(self):
        def weights(folder):
            return (folder / "runs/av/final/transformer/diffusion_pytorch_model.safetensors").read_bytes()
        self.assertEqual(weights(self.trained(2)), weights(self.trained()))

    def test_two_ranks_train_as_one(self):
        folder = self.fresh()
        self.unigrpo(folder, "launch", "-n", "2", "--", "train", "recipe.toml")
        alone, together = (tiny_run.metrics_of(one / "runs/av") for one in (self.trained(), folder))
        for one, two in zip(alone, together, strict=True):
            for name in set(one) & set(two) - {"optim/micro_batches"}:
                if isinstance(one[name], (int, float)):
                    self.assertAlmostEqual(one[name], two[name], delta=1e-5 * abs(one[name]) + 1e-6, msg=name)
        told = self.unigrpo(self.fresh(), "launch", "-n", "2", "--", "train", "recipe.toml", "--set",
                            "parallel.shard=weights", code=2).stderr
        self.assertIn('parallel: expected shard = "none", no plan', told)

    def test_the_final_folder_is_a_model(self):
        final = self.trained() / "runs/av/final"
        source = pathlib.Path(DATA) / "ltx2_tiny/v20"
        for name in ("model_index.json", "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json",
                     "transformer/config.json", "latent_upsampler/config.json"):
            self.assertEqual((final / name).read_bytes(), (source / name).read_bytes(), name)
        self.assertNotEqual((final / "transformer/diffusion_pytorch_model.safetensors").read_bytes(),
                            (source / "transformer/diffusion_pytorch_model.safetensors").read_bytes())
        folder = self.fresh()
        prompt = self.rows[0]["prompt"]
        self.unigrpo(folder, "sample", "--model", final, "--text-features", "features.safetensors", "--prompt", prompt,
                     "--out", "drawn", "--count", "2")
        rows = [json.loads(line) for line in (folder / "drawn/samples.jsonl").read_text().splitlines()]
        self.assertEqual([row["segments"][0]["path"] for row in rows], ["000_00.mp4", "001_00.mp4"])
        self.assertEqual(rows[0]["segments"][0]["frames"], 17)

    def test_bad_input_is_one_line(self):
        folder = self.fresh()
        model = f"{DATA}/ltx2_tiny/v20"
        cases = [
            (["rollout.clip.frames=16"], f"rollout.clip.frames: expected 1 + a multiple of 8 for {model}, got 16"),
            (["rollout.clip.height=40"], f"rollout.clip.height: expected a multiple of 32 from 64 on for {model}, got 40"),
            (['rollout.episode=["av", "text"]'], "rollout.episode: expected an av segment by itself"),
            (['rollout.episode=["image"]'], 'rewards.0.kind: expected "av" in rollout.episode for kind "av_quality"'),
            (["rewards.0.kind=saturation"], "rewards.0.kind: expected a kind that judges clips"),
            (['rewards.0.streams=["sound"]'], 'rewards.0.streams.0: expected "video" or "audio", got "sound"'),
            (["rollout.video_noise_level=0", "rollout.audio_noise_level=0"], "nothing is trained"),
            (["rollout.audio_window_offset=2"], "rollout.audio_window_offset: expected at most 0, so that"),
            (["rollout.rollout_cfg_scale=2"], "rollout.rollout_cfg_scale: expected 1 with an av segment, got 2"),
            (["rollout.audio_noise_level=0", "grpo.audio.penalty=latent_kl"],
             "grpo.audio.penalty: expected velocity_mse or none with rollout.audio_noise_level = 0"),
            (["policy.train=lora"], 'policy.train: expected "full" for an LTX-2 folder'),
            (["policy.recompute=true"], "policy.recompute: expected false for an LTX-2 folder"),
            (["data.text_features="], "data.text_features (--text-features): expected a file"),
            ([f"policy.model={DATA}/bagel_tiny"], 'rollout.episode: expected no "av": the model'),
            (["rollout.system_prompt=be brief"], "an LTX-2 model, which writes no text"),
            (['grpo.video.weight=0', 'grpo.audio.weight=0'], "nothing is trained"),
            (["grpo.video.context_gradient=full"], "grpo.video.context_gradient=full: unknown key"),
        ]
        for settings, expected in cases:
            with self.subTest(settings):
                arguments = [part for one in settings for part in ("--set", one)]
                told = self.unigrpo(folder, "train", "recipe.toml", *arguments, code=2).stderr
                self.assertEqual(len(told.splitlines()), 1, told)
                self.assertIn(expected, told)
                self.assertFalse((folder / "runs").exists())
        (folder / "prompts.jsonl").write_text(json.dumps({"prompt": self.rows[0]["prompt"]}) + "\n")
        told = self.unigrpo(folder, "train", "recipe.toml", code=2).stderr
        self.assertIn("prompts.jsonl:1: reward 'av_quality' cannot judge this row: 'metadata.av' is missing", told)


SFT = """
[run]
name = "sft"
num_steps = 3
[policy]
model = "{model}"
[data]
prompts = "{world}/train.jsonl"
[sft]
stage = "joint"
output = "model"
batch_size = 3
clip_noise = 1.0
timesteps_per_image = 2
independent_t = 0.5
isolated = 0.3
prompt_dropout = 0.3
[grpo]
micro_batch_tokens = 400
[optim]
lr = 1e-3
[checkpoint]
every = 1
"""


class AvSft(unittest.TestCase):
    """From config files to a model that draws clips: autoencoders, then flow matching."""

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-av-sft-")
        cls.base = pathlib.Path(cls.holder.name)
        cls.configs = pathlib.Path(DATA).parent.parent / "recipes/av_model"
        result = tiny_run.run(BINARY, "data", "av", "--out", "world", "--rows", "40", cwd=cls.base)
        assert result.returncode == 0, result.stderr
        cls.autoencoder = f"""
[run]
name = "autoencoder"
num_steps = 2
[policy]
model = "{cls.configs}"
[data]
prompts = "{cls.base}/world/train.jsonl"
[sft]
stage = "autoencoder"
output = "model"
batch_size = 2
[optim]
lr = 1e-3
"""
        (cls.base / "autoencoder.toml").write_text(cls.autoencoder)
        result = tiny_run.run(BINARY, "sft", "autoencoder.toml", cwd=cls.base)
        assert result.returncode == 0, result.stderr
        cls.recipe = SFT.format(model=cls.base / "model", world=cls.base / "world")

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def sft(self, *arguments, launch=(), code=0, fault="", folder=None):
        if folder is None:
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.holder.name))
            (folder / "recipe.toml").write_text(self.recipe)
        result = tiny_run.run(BINARY, *launch, "sft", "recipe.toml", *arguments, cwd=folder, fault=fault)
        self.assertEqual(result.returncode, code, result.stderr)
        return folder, result

    def trained(self):
        if not hasattr(type(self), "run_folder"):
            type(self).run_folder = self.sft()[0]
        return self.run_folder

    def weights(self, folder):
        return {part: (folder / "model" / part).read_bytes() for part in (
            "transformer/diffusion_pytorch_model.safetensors", "connectors/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors")}

    def test_the_autoencoders_folder_is_a_whole_model(self):
        rows = tiny_run.metrics_of(self.base / "runs/autoencoder")
        for row in rows:
            for stream in ("video", "audio"):
                self.assertGreater(row[f"sft/{stream}_l1"], 0)
                self.assertGreater(row[f"sft/{stream}_kl"], 0)
        for source in self.configs.rglob("*.json"):
            copy = self.base / "model" / source.relative_to(self.configs)
            self.assertEqual(copy.read_bytes(), source.read_bytes(), copy)
        data = (self.base / "model/vae/diffusion_pytorch_model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        first, last = json.loads(data[8:8 + size])["latents_mean"]["data_offsets"]
        self.assertTrue(any(data[8 + size + first:8 + size + last]))  # measured
        self.assertLess(sum(file.stat().st_size for file in (self.base / "model").rglob("*") if file.is_file()), 16e6)

    def test_both_streams_are_learnt(self):
        rows = tiny_run.metrics_of(self.trained() / "runs/sft")
        self.assertEqual(len(rows), 3)
        # A new model's velocity is 0: of normalised latents the squared error is 1 + 1.
        for stream in ("video", "audio"):
            self.assertGreater(rows[0][f"sft/{stream}_velocity_mse"], 1)
            self.assertLess(rows[0][f"sft/{stream}_velocity_mse"], 4)
        self.assertAlmostEqual(rows[0]["sft/loss"], rows[0]["sft/video_velocity_mse"] + rows[0]["sft/audio_velocity_mse"])
        before = self.weights(self.base)
        for part, bytes_of in self.weights(self.trained()).items():
            self.assertNotEqual(bytes_of, before[part], part)
        for part in ("vae", "audio_vae", "vocoder"):
            name = f"model/{part}/diffusion_pytorch_model.safetensors"
            self.assertEqual((self.trained() / name).read_bytes(), (self.base / name).read_bytes())

    def test_what_was_trained_draws_clips(self):
        prompt = json.loads((self.base / "world/train.jsonl").read_text().splitlines()[0])["prompt"]
        result = tiny_run.run(BINARY, "sample", "--model", "model", "--prompt", prompt, "--out", "drawn", cwd=self.trained())
        self.assertEqual(result.returncode, 0, result.stderr)
        (row,) = [json.loads(line) for line in (self.trained() / "drawn/samples.jsonl").read_text().splitlines()]
        self.assertEqual((row["segments"][0]["frames"], row["segments"][0]["sample_rate"]), (17, 8000))
        result = tiny_run.run(BINARY, "eval", "--model", "model", "--prompts", self.base / "world/validation.jsonl", "--json",
                              "scores.json", cwd=self.trained())
        self.assertEqual(result.returncode, 0, result.stderr)
        scores = json.loads((self.trained() / "scores.json").read_text())
        self.assertEqual(set(scores["rewards"]), {"av_quality", "av_sync", "av_lip", "av_pitch", "av_camera", "av_order",
                                                  "av_side", "av_shape"})
        self.assertIsNotNone(scores["rewards"]["av_quality"])

    def test_killed_and_resumed_is_left_alone_to_the_byte(self):
        for point in ("sft.micro_batch:3", "optim.after:2", "save.commit:2"):
            with self.subTest(point):
                folder, _ = self.sft(code=-signal.SIGKILL, fault=f"{point}=kill")
                self.sft("--resume", folder=folder)
                self.assertEqual(self.weights(folder), self.weights(self.trained()))

    def test_micro_batches_and_ranks_change_nothing_but_rounding(self):
        alone = tiny_run.metrics_of(self.trained() / "runs/sft")
        for launch, settings in (((), ["--set", "grpo.micro_batch_tokens=4096"]), (("launch", "-n", "2", "--"), [])):
            folder, _ = self.sft(*settings, launch=launch)
            for one, two in zip(alone, tiny_run.metrics_of(folder / "runs/sft"), strict=True):
                for name in ("sft/loss", "sft/video_velocity_mse", "sft/audio_velocity_mse", "optim/grad_norm"):
                    self.assertAlmostEqual(one[name], two[name], delta=1e-3 * abs(one[name]), msg=name)

    def test_weights_choose_the_stream(self):
        folder, _ = self.sft("--set", "sft.audio_weight=0", "--set", "run.num_steps=1")
        row = tiny_run.metrics_of(folder / "runs/sft")[0]
        self.assertAlmostEqual(row["sft/loss"], row["sft/video_velocity_mse"])

    def test_frozen_parts_stay(self):
        folder, _ = self.sft("--set", 'policy.freeze=["text_encoder.*", "connectors.*"]', "--set", "run.num_steps=1")
        after, before = self.weights(folder), self.weights(self.base)
        changed = {part for part in after if after[part] != before[part]}
        self.assertEqual(changed, {"transformer/diffusion_pytorch_model.safetensors"})

    def test_bad_input_is_one_line(self):
        shapes = pathlib.Path(DATA).parent.parent / "assets/shapes-world/train.jsonl"
        fixture = f"{DATA}/ltx2_tiny/v20"
        cases = [
            ([f"data.prompts={shapes}"], "train.jsonl:1: 'metadata.av.draw' with seed, part and index is missing"),
            ([f"policy.model={fixture}"], "data.text_features (--text-features): expected a file"),
            (["sft.video_weight=0", "sft.audio_weight=0"], "sft.video_weight, sft.audio_weight: expected a weight > 0"),
            (["policy.train=lora"], 'policy.train: expected "full" for an LTX-2 folder'),
            (['policy.freeze=["vae.*"]'], "policy.freeze"),
            (["sft.isolated=1.5"], "sft.isolated=1.5: expected a number from 0 to 1"),
            (["sft.stage=autoencoder", f"policy.model={fixture}"], "a sound of 2 channels at 8000 Hz; "),
        ]
        for settings, expected in cases:
            with self.subTest(settings):
                folder, result = self.sft(*[part for one in settings for part in ("--set", one)], code=2)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertIn(expected, result.stderr)
                self.assertEqual(sorted(path.name for path in folder.iterdir()), ["recipe.toml"])


if __name__ == "__main__":
    BINARY, DATA = str(pathlib.Path(sys.argv[1]).resolve()), str(pathlib.Path(sys.argv[2]).resolve())
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
