"""What `unigrpo export` writes, read by the safetensors package: names, shapes, types, values, metadata, shards, adapters.

usage: export_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

import numpy
import safetensors

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""
RANK, ALPHA = 4, 8
LORA = ("--set", 'policy.train="lora"', "--set", f"policy.lora.rank={RANK}", "--set", f"policy.lora.alpha={ALPHA}")
COPIED = ["config.json", "llm_config.json", "vit_config.json", "vocab.json", "merges.txt", "tokenizer_config.json",
          "added_tokens.json", "special_tokens_map.json", "ae.safetensors"]


class Tensor:
    """A tensor as the package hands it out: type, shape, bytes. numpy has no bfloat16, hence the bytes."""

    def __init__(self, entry):
        self.dtype, self.shape, self.data = entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])

    def layout(self):
        return self.dtype, self.shape

    def values(self):
        """float32."""
        if self.dtype == "BF16":
            return (numpy.frombuffer(self.data, "<u2").astype("<u4") << 16).view("<f4").reshape(self.shape)
        assert self.dtype == "F32", self.dtype
        return numpy.frombuffer(self.data, "<f4").reshape(self.shape)


def read(path):
    """The tensors of a file by name."""
    return {name: Tensor(entry) for name, entry in safetensors.deserialize(pathlib.Path(path).read_bytes())}


def metadata_of(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata()


def rounded_to_bfloat16(values):
    """float32 -> the nearest bfloat16, ties to even, as float32. Finite values alone."""
    bits = numpy.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000).view("<f4")


class Base(unittest.TestCase):
    """A run of one step, made once."""

    options = ()

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-export-")
        cls.home = pathlib.Path(cls.holder.name)
        tiny_run.write_inputs(cls.home, DATA, num_steps=1)
        cls.prepare()
        trained = tiny_run.run(BINARY, "train", "tiny.toml", *cls.options, cwd=cls.home)
        assert trained.returncode == 0, trained.stderr
        cls.source = pathlib.Path(DATA) / "bagel_tiny"
        cls.official = read(cls.source / "ema.safetensors")
        cls.trained = read(cls.home / "runs/tiny/checkpoints/step_000001/policy.safetensors")

    @classmethod
    def prepare(cls):
        """Before the run."""

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def export(self, *options):
        """The folder that an export of the last weights wrote."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.home)) / "out"
        result = tiny_run.run(BINARY, "export", "--run", "runs/tiny", "--raw", "--out", folder, *options, cwd=self.home)
        self.assertEqual(result.returncode, 0, result.stderr)
        return folder

    def assert_official_layout(self, tensors, dtype):
        self.assertEqual({name: tensor.layout() for name, tensor in tensors.items()},
                         {name: (dtype, tensor.shape) for name, tensor in self.official.items()})

    def assert_same_tensors(self, found, wanted):
        self.assertEqual(found.keys(), wanted.keys())
        for name, tensor in wanted.items():
            self.assertEqual(found[name].layout(), tensor.layout(), name)
            self.assertTrue(found[name].data == tensor.data, name)


class FullWeights(Base):
    def test_the_official_names_hold_the_trained_values_and_the_rest_is_the_sources(self):
        folder = self.export("--to", "bagel")
        tensors = read(folder / "ema.safetensors")
        self.assert_official_layout(tensors, "F32")
        self.assert_same_tensors({name: tensors[name] for name in self.trained}, self.trained)
        moved = [name for name in tensors if tensors[name].data != self.official[name].data]
        self.assertTrue(set(moved) <= set(self.trained))
        self.assertGreater(len(moved), len(self.trained) // 2)
        for name in moved:
            self.assertTrue(numpy.isfinite(tensors[name].values()).all(), name)

    def test_the_metadata_name_recipe_and_step(self):
        metadata = metadata_of(self.export() / "ema.safetensors")
        self.assertEqual(metadata, {"format": "pt", "unigrpo_run": "tiny", "unigrpo_step": "1"})

    def test_configs_tokenizer_and_autoencoder_are_copies(self):
        folder = self.export()
        for name in COPIED:
            self.assertEqual((folder / name).read_bytes(), (self.source / name).read_bytes(), name)
        self.assertEqual(sorted(os.listdir(folder)), sorted([*COPIED, "ema.safetensors", "generation_config.json"]))

    def test_bfloat16_is_the_nearest_to_float32(self):
        wide = read(self.export() / "ema.safetensors")
        narrow = read(self.export("--dtype", "bfloat16") / "ema.safetensors")
        self.assert_official_layout(narrow, "BF16")
        config = json.loads((self.export("--dtype", "bfloat16") / "config.json").read_text())
        self.assertEqual(config["llm_config"]["torch_dtype"], "bfloat16")
        for name, tensor in narrow.items():
            self.assertTrue(numpy.array_equal(tensor.values(), rounded_to_bfloat16(wide[name].values())), name)

    def test_shards_add_up_to_the_one_file(self):
        limit = 500_000
        whole = read(self.export() / "ema.safetensors")
        folder = self.export("--max-shard-size", "500KB")
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        files = sorted(path.name for path in folder.glob("*.safetensors") if path.name != "ae.safetensors")
        self.assertEqual(files, [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))])
        self.assertGreater(len(files), 1)
        shards = {name: read(folder / name) for name in files}
        self.assertEqual(index["weight_map"], {name: file for file in files for name in shards[file]})
        self.assertEqual(index["metadata"]["total_size"], sum(len(tensor.data) for tensor in whole.values()))
        for file, tensors in shards.items():
            self.assertTrue(len(tensors) == 1 or sum(len(tensor.data) for tensor in tensors.values()) <= limit, file)
            self.assertEqual(metadata_of(folder / file)["unigrpo_step"], "1")
        self.assert_same_tensors({name: tensor for part in shards.values() for name, tensor in part.items()}, whole)
        self.assertEqual(tiny_run.run(BINARY, "sample", "--model", folder, "--prompt", "a star", "--out", "s",
                                      cwd=self.home).returncode, 0)


SETTINGS = ("--set", "rollout.timestep_shift=3.0", "--set", "rollout.temperature=0.7",
            "--set", 'rollout.system_prompt="be brief"', "--set", "run.num_steps=2")


class Settings(Base):
    """A run that samples as its base does not: its exports say so as final/ does."""

    options = SETTINGS
    variants = ((), ("--step", 1), ("--raw",), ("--dtype", "bfloat16"), ("--max-shard-size", "500KB"), ("--to", "bagel"))

    def test_every_export_has_the_generation_config_of_final(self):
        wanted = (self.home / "runs/tiny/final/generation_config.json").read_text()
        self.assertEqual(json.loads(wanted)["timestep_shift"], 3.0)
        self.assertEqual(json.loads(wanted)["system_prompt"], "be brief")
        for variant in self.variants:
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.home)) / "out"
            result = tiny_run.run(BINARY, "export", "--run", "runs/tiny", "--out", folder, *variant, cwd=self.home)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual((folder / "generation_config.json").read_text(), wanted, variant)


class AdapterSettings(Settings):
    options = (*LORA, *SETTINGS)
    variants = (*Settings.variants, ("--to", "peft"))

    def test_the_adapter_on_the_base_is_sampled_as_the_run_was(self):
        folder = self.export("--to", "peft")
        common = ("--prompt", "a star", "--episode", "text", "--temperature", 1)
        shown = []
        for model, more in (("runs/tiny/final", ()), (self.source, ("--adapter", folder))):
            out = pathlib.Path(tempfile.mkdtemp(dir=self.home)) / "s"
            result = tiny_run.run(BINARY, "sample", "--model", model, *more, *common, "--out", out, cwd=self.home)
            self.assertEqual(result.returncode, 0, result.stderr)
            shown.append(next(line for line in result.stdout.splitlines() if line.startswith("settings: ")))
        self.assertEqual(*shown)
        settings = json.loads(shown[0].removeprefix("settings: "))
        self.assertEqual((settings["system_prompt"], settings["temperature"], settings["episode"]), ("be brief", 1, ["text"]))

    def test_what_the_adapter_calls_its_base_can_be_said(self):
        config = json.loads((self.export("--to", "peft", "--base-name", "org/name") / "adapter_config.json").read_text())
        self.assertEqual(config["base_model_name_or_path"], "org/name")


class PairSettings(Settings):
    options = (*LORA, *SETTINGS, "--set", 'policy.model="pair"')
    variants = ((), ("--step", 1), ("--dtype", "bfloat16"), ("--max-shard-size", "100KB"))

    @classmethod
    def prepare(cls):
        pair = cls.home / "pair"
        pair.mkdir()
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text", "image": "image"}')
        (pair / "text").symlink_to(f"{DATA}/qwen2_tiny")
        (pair / "image").symlink_to(f"{DATA}/bagel_tiny")

    def test_an_adapter_of_a_pair_has_names_of_no_model_and_is_refused(self):
        result = tiny_run.run(BINARY, "export", "--run", "runs/tiny", "--to", "peft", "--out", "adapter", cwd=self.home)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("--to peft: runs/tiny trained a pair of models", result.stderr)
        self.assertFalse((self.home / "adapter").exists())

    def test_the_halves_configs_name_the_type_that_is_written(self):
        folder = self.export("--dtype", "bfloat16")
        self.assertEqual(json.loads((folder / "text/config.json").read_text())["dtype"], "bfloat16")
        self.assertEqual(json.loads((folder / "image/llm_config.json").read_text())["torch_dtype"], "bfloat16")
        self.assertEqual(read(folder / "text/model.safetensors")["lm_head.weight"].dtype, "BF16")


class Untouched(Base):
    options = ("--set", "optim.lr=0")

    def test_weights_that_did_not_move_come_out_byte_for_byte(self):
        self.assert_same_tensors(read(self.export() / "ema.safetensors"), self.official)


class UntouchedAdapters(Untouched):
    options = (*LORA, *Untouched.options)


class Adapters(Base):
    options = LORA

    def test_the_adapter_has_pefts_names_and_config(self):
        folder = self.export("--to", "peft")
        self.assertEqual(sorted(os.listdir(folder)),
                         ["adapter_config.json", "adapter_model.safetensors", "generation_config.json"])
        file = folder / "adapter_model.safetensors"
        tensors = read(file)
        self.assertEqual(metadata_of(file), {"format": "pt"})
        self.assert_same_tensors(tensors, {f"base_model.model.{name}": tensor for name, tensor in self.trained.items()})
        modules = [name.removesuffix(".weight") for name in self.official
                   if name.startswith("language_model.") and "_proj" in name and name.endswith(".weight")]
        for module in modules:
            out, size_in = self.official[f"{module}.weight"].shape
            self.assertEqual(tensors[f"base_model.model.{module}.lora_A.weight"].layout(), ("F32", (RANK, size_in)))
            self.assertEqual(tensors[f"base_model.model.{module}.lora_B.weight"].layout(), ("F32", (out, RANK)))
        self.assertEqual(len(tensors), 2 * len(modules))
        config = json.loads((folder / "adapter_config.json").read_text())
        self.assertEqual(sorted(config.pop("target_modules")), sorted(modules))
        wanted = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "task_type": None,
                  "base_model_name_or_path": str(self.source), "fan_in_fan_out": False, "use_rslora": False,
                  "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}
        self.assertEqual({key: config[key] for key in wanted}, wanted)

    def test_the_merged_model_is_base_plus_scaled_product(self):
        merged = read(self.export() / "ema.safetensors")
        narrow = read(self.export("--dtype", "bfloat16") / "ema.safetensors")
        self.assert_official_layout(merged, "F32")
        self.assert_official_layout(narrow, "BF16")
        adapters = read(self.export("--to", "peft") / "adapter_model.safetensors")
        moved = 0
        for name, base in self.official.items():
            module = name.removesuffix(".weight")
            a = adapters.get(f"base_model.model.{module}.lora_A.weight")
            if a is None:
                self.assertTrue(merged[name].data == base.data, name)
                continue
            b = adapters[f"base_model.model.{module}.lora_B.weight"]
            update = ALPHA / RANK * (b.values().astype("f8") @ a.values().astype("f8"))  # W + alpha / r * B A
            moved += bool(update.any())
            wanted = base.values() + update
            largest = numpy.abs(wanted).max()
            self.assertLess(numpy.abs(merged[name].values() - wanted).max(), 1e-6 * largest, name)   # float32, 4 summands
            self.assertLess(numpy.abs(narrow[name].values() - wanted).max(), 2**-8 * largest, name)  # bf16: 8 bits
        self.assertGreater(moved, len(adapters) // 4)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
