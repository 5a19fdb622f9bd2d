"""Ranks send no more than they must, and what the dry run says.

usage: bytes_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
"""

import json
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
SETTINGS = {"run.num_steps": 2, "run.threads": 1, "grpo.prompts_per_step": 4, "grpo.group_size": 4, "eval.prompts": "",
            "monitor.drift.enabled": "false", "monitor.sample_every": 0, "monitor.report": "false", "checkpoint.every": 0,
            "optim.ema.enabled": "false"}
NO_LAYER = 0


def units_of(model):
    """{unit: elements} of the safetensors file of a model: layers from 1 on, and what belongs to none."""
    with open(model, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    units = {NO_LAYER: 0}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        layer = re.match(r"language_model\.model\.layers\.(\d+)\.", name)
        unit = int(layer[1]) + 1 if layer else NO_LAYER
        units[unit] = units.get(unit, 0) + math.prod(entry["shape"])
    return units


class Bytes(unittest.TestCase):
    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="unigrpo-bytes-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.root = pathlib.Path(DATA).parent.parent
        self.base = self.root / "assets/shapes-base"

    def command(self, settings):
        sets = []
        for key, value in {**SETTINGS, **settings}.items():
            sets += ["--set", f"{key}={value}"]
        return ["train", "recipes/shapes_demo.toml", *sets]

    def sent(self, size, settings):
        """Bytes that all ranks together send in a step, what the dry run says of it, and micro-batches of a rank."""
        folder = self.home / f"run-{len(list(self.home.iterdir()))}"
        results = ranks_run.run(BINARY, size, *self.command({**settings, "run.dir": folder}), cwd=self.root)
        self.assertEqual([code for code, _, _ in results], [0] * size, results)
        row = tiny_run.metrics_of(folder, steady=False)[-1]
        text = tiny_run.run(BINARY, *self.command(settings), "--dry-run", "--gpus", size, cwd=self.root).stdout
        number, unit = re.search(r"each rank sends ([\d.]+) ([MG])B a step", text).groups()
        said = float(number) * {"M": 1e6, "G": 1e9}[unit] * size
        return row["parallel/bytes_sent"], said, row["optim/micro_batches"] / size

    def test_each_level_sends_what_it_must(self):
        """A whole that n ranks share in equal parts: each sends n - 1 parts, to gather it as to sum it. The rest is padding
        to equal shares (of a model as small as this one, 2%), counts and votes."""
        units = units_of(self.base / "ema.safetensors")
        everything = sum(units.values())
        frozen = {name: values for name, values in ranks_run.tensors_in(self.base / "ema.safetensors").items()
                  if name.startswith(("vit_model.", "connector.", "vit_pos_embed.", "latent_pos_embed."))}
        trained = everything - sum(len(values) for values in frozen.values())
        last = units[max(units)]
        for level, size, holders in (("none", 2, 1), ("optimizer", 2, 2), ("gradients", 2, 2), ("weights", 2, 2),
                                     ("weights", 4, 2)):
            with self.subTest(level=level, ranks=size, shared_by=holders):
                blocks = size // holders if level != "none" else size
                parts = (holders - 1) * blocks * 4  # bytes that go over the wire for each element of a whole
                sent, said, passes = self.sent(size, {"parallel.shard": level, "parallel.shard_ranks": holders if holders < size else 0})
                among_blocks = 2 * (blocks - 1) * trained * 4  # a sum that all of them need
                least = among_blocks if level == "none" else among_blocks + passes * trained * parts
                if level in ("optimizer", "gradients"):
                    least += trained * parts  # the new weights
                if level == "weights":  # to sample; and forward, backward, and forward of the frozen copy
                    least += parts * (everything + passes * (everything + everything - units[NO_LAYER] - last + everything))
                self.assertGreaterEqual(sent / least, 1)
                self.assertLessEqual(sent / least, 1.03)
                self.assertAlmostEqual(said / sent, 1, delta=0.03)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
