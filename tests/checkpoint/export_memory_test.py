"""`unigrpo export` makes a model of a sharded checkpoint in one process, with the memory of one tensor. The checkpoint is
written here, by docs/FORMATS.md.

usage: export_memory_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

BINARY = DATA = ""
WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 512, 16384, 3, 4, 2, 408
LARGEST = WIDTH * INNER * 4  # bytes of a tensor; the model has nine like it
RANKS = 3
RECIPE = """
[run]
name = "big"
[policy]
model = "{model}"
dtype = "{dtype}"
{lora}
[data]
prompts = "prompts.jsonl"
[rollout]
episode = ["text"]
[[rewards]]
kind = "text_rules"
pattern = "a"
"""


def shapes():
    key = WIDTH // HEADS * KEY_HEADS
    yield from (("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("lm_head.weight", (VOCABULARY, WIDTH)),
                ("model.norm.weight", (WIDTH,)))
    for layer in range(LAYERS):
        for name, shape in (("input_layernorm.weight", (WIDTH,)), ("post_attention_layernorm.weight", (WIDTH,)),
                            ("self_attn.q_proj.weight", (WIDTH, WIDTH)), ("self_attn.q_proj.bias", (WIDTH,)),
                            ("self_attn.k_proj.weight", (key, WIDTH)), ("self_attn.k_proj.bias", (key,)),
                            ("self_attn.v_proj.weight", (key, WIDTH)), ("self_attn.v_proj.bias", (key,)),
                            ("self_attn.o_proj.weight", (WIDTH, WIDTH)), ("mlp.gate_proj.weight", (INNER, WIDTH)),
                            ("mlp.up_proj.weight", (INNER, WIDTH)), ("mlp.down_proj.weight", (WIDTH, INNER))):
            yield f"model.layers.{layer}.{name}", shape


def write_safetensors(path, tensors):
    """tensors: {name: float32 array}."""
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(array.tobytes())


def write_checkpoint(folder, part, tensors, recipe):
    """Version 2, the flat list of all elements cut into equal shares."""
    folder.mkdir(parents=True)
    total, begin, stored = sum(array.size for array in tensors.values()), 0, {}
    shares = [{} for _ in range(RANKS)]
    for name, array in tensors.items():
        pieces = []
        for rank in range(RANKS):
            first = min(max(total * rank // RANKS - begin, 0), array.size)
            last = min(max(total * (rank + 1) // RANKS - begin, 0), array.size)
            if last > first:
                pieces.append({"file": f"{part}.rank_{rank:05}-of-{RANKS:05}.safetensors", "first": first, "count": last - first})
                shares[rank][f"{name}@{first}"] = array.reshape(-1)[first:last]
        stored[name] = {"dtype": "F32", "shape": list(array.shape), "pieces": pieces}
        begin += array.size
    files = [f"{part}.rank_{rank:05}-of-{RANKS:05}.safetensors" for rank in range(RANKS)]
    for name, share in zip(files, shares):
        write_safetensors(folder / name, share)
    (folder / "state.json").write_text(json.dumps({"step": 7, "recipe": recipe, "counters": {}}))
    listed = [{"name": name, "size": (folder / name).stat().st_size,
               "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()} for name in [*files, "state.json"]]
    manifest = {"format": "unigrpo checkpoint", "version": 2, "step": 7, "world_size": RANKS, "recipe_sha256": "",
                "files": listed, "parts": {part: stored}}
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


# A process's peak counts from that of the one that started it: this one holds the model, a fresh one does not.
MEASURED = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


class ExportMemory(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-big-")
        cls.home = pathlib.Path(cls.holder.name)
        model = cls.home / "model"
        shutil.copytree(pathlib.Path(DATA) / "qwen2_tiny", model, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((model / "config.json").read_text())
        config.update(hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                      num_key_value_heads=KEY_HEADS, layer_types=["full_attention"] * LAYERS)
        (model / "config.json").write_text(json.dumps(config))
        random = numpy.random.default_rng(1)
        cls.base = {name: random.random(shape, dtype="f4") for name, shape in shapes()}
        write_safetensors(model / "model.safetensors", cls.base)
        tiny_run.write_inputs(cls.home, DATA)

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    def exported(self, tensors, *options, dtype="float32", lora=""):
        """({name: float32 array}, kilobytes at the most) of an export of these averages."""
        run = pathlib.Path(tempfile.mkdtemp(dir=self.home)) / "run"
        run.mkdir()
        recipe = RECIPE.format(model=self.home / "model", dtype=dtype, lora=lora)
        (run / "recipe.toml").write_text(recipe)
        write_checkpoint(run / "checkpoints/step_000007", "ema", tensors, recipe)
        told = subprocess.run([sys.executable, "-c", MEASURED, BINARY, "export", "--run", str(run), "--out", str(run / "out"),
                               *options], env=tiny_run.environment(), capture_output=True, text=True, check=True)
        kilobytes = int(told.stdout.splitlines()[-1])
        data = (run / "out/model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        found = {}
        for name, entry in json.loads(data[8:8 + length]).items():
            if name != "__metadata__":
                raw = data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]]
                found[name] = (numpy.frombuffer(raw, "<f4") if entry["dtype"] == "F32" else
                               (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")).reshape(entry["shape"])
        shutil.rmtree(run)
        return found, kilobytes

    def assert_small(self, kilobytes):
        if not os.environ.get("UNIGRPO_SANITIZED"):  # a sanitizer takes memory of its own
            self.assertLess(kilobytes * 1024, 1.5 * LARGEST + 300e6)

    def test_all_weights(self):
        trained = {name: array + 1 for name, array in self.base.items()}
        found, kilobytes = self.exported(trained)
        self.assertEqual(found.keys(), trained.keys())
        for name, array in trained.items():
            self.assertTrue(numpy.array_equal(found[name], array), name)
        self.assert_small(kilobytes)

    def test_in_bfloat16(self):
        trained = {name: array + 1 for name, array in self.base.items()}
        found, kilobytes = self.exported(trained, "--dtype", "bfloat16")
        for name, array in trained.items():
            self.assertLessEqual(numpy.abs(found[name] - array).max(), 2.0**-8 * numpy.abs(array).max(), name)
        self.assert_small(kilobytes)

    def test_adapters(self):
        random = numpy.random.default_rng(2)
        adapters = {}
        for name, array in self.base.items():
            if "_proj.weight" in name:
                module = name.removesuffix(".weight")
                adapters[f"{module}.lora_A.weight"] = random.random((4, array.shape[1]), dtype="f4")
                adapters[f"{module}.lora_B.weight"] = random.random((array.shape[0], 4), dtype="f4")
        found, kilobytes = self.exported(adapters, lora='train = "lora"\n[policy.lora]\nrank = 4\nalpha = 8\n')
        for name, array in self.base.items():
            module = name.removesuffix(".weight")
            if f"{module}.lora_A.weight" in adapters:
                array = array + 2 * (adapters[f"{module}.lora_B.weight"] @ adapters[f"{module}.lora_A.weight"])
            self.assertTrue(numpy.allclose(found[name], array, rtol=1e-6, atol=1e-6), name)
        self.assert_small(kilobytes)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
