"""A measured profile is one that plans are made from: of the embedded model, and of the links between two ranks.

usage: profile_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
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


class Profile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = pathlib.Path(tempfile.mkdtemp(prefix="unigrpo-profile-"))
        cls.addClassCleanup(shutil.rmtree, cls.home)
        tiny_run.write_inputs(cls.home, DATA)

    def unigrpo(self, *arguments, code=0):
        result = tiny_run.run(BINARY, *arguments, cwd=self.home)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def read(self, pattern):
        (file,) = (self.home / "profile").glob(pattern)
        return json.loads(file.read_text())

    def test_measured_model_and_links_make_a_plan(self):
        self.unigrpo("launch", "-n", "2", "--", "profile", "--hardware", "--out", "profile")
        self.unigrpo("profile", "--model", "tiny.toml", "--seq", "256", "--out", "profile")
        for about in (self.read("unigrpo_profile.json"), self.read("unigrpo_profile_hardware.json")):
            self.assertTrue(about["measured"])
            self.assertTrue(all(len(times) == 5 and min(times) > 0 for times in about["samples_ms"].values()))
        links = self.read("sp_time_1nodes_2gpus_per_node.json")
        for kind in ("allreduce", "all2all"):  # more bytes take longer, by and large
            times = [links[f"{kind}_size_2_{2 ** i}MB_time"] for i in range(8)]
            self.assertGreater(times[7], 8 * times[0])
        self.assertEqual(list(self.read("allreduce_bandwidth_*")), ["allreduce_size_2_consec_1"])
        self.assertGreaterEqual(self.read("overlap_coefficient.json")["overlap_coe"], 1)
        memory = self.read("memory_profiling_fp32_tiny_all.json")["layertype_0_sp"]["256"]
        config = json.loads((pathlib.Path(DATA) / "bagel_tiny/llm_config.json").read_text())
        width, wide = config["hidden_size"], config["intermediate_size"]
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        kv = width * kv_heads // heads
        expert = 2 * width * width + 2 * width * kv + 3 * width * wide + 3 * width + 2 * kv + 2 * (width // heads)
        self.assertAlmostEqual(memory["parameter_size"], 4 * 2 * expert / 2**20, places=9)
        kept = memory["tp_activation_per_bsz_dict"]
        self.assertAlmostEqual(kept["checkpoint"], 4 * 256 * width / 2**20, delta=0.1 * 4 * 256 * width / 2**20)
        self.assertGreater(kept["1"], 3 * kept["checkpoint"])
        plan = self.unigrpo("plan", "tiny.toml", "--profile", "profile", "--seq", "256", "--batch", "4", "--json", "p.json")
        self.assertIn("samples/s", plan.stdout)
        self.assertEqual(json.loads((self.home / "p.json").read_text())["world"], 2)

    def test_one_process_has_no_links(self):
        line = self.unigrpo("profile", "--hardware", "--out", "links", code=2).stderr
        self.assertIn("unigrpo launch -n N -- profile --hardware", line)
        self.assertFalse((self.home / "links").exists())


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=sys.argv[:1])
