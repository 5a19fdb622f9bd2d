"""The plugin SDK as its users have it: installed elsewhere, the examples built outside of the tree with each compiler that is
there, then run over samples by the installed binary.

usage: sdk_test.py BUILD SOURCE    BUILD: the build folder; SOURCE: the repository
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

BUILD = SOURCE = pathlib.Path()
TIMEOUT_S = 900


def run(*command, **kwargs):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace",
                          timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, **kwargs)


def png(width, height, pixels):
    """A PNG of RGB bytes."""
    rows = b"".join(b"\0" + pixels[3 * width * y:3 * width * (y + 1)] for y in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data +
                                           struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)


def write_samples(folder):
    """Two samples: a checkerboard after a good plan, and a grey image after none."""
    board = b"".join(bytes([255 * ((x // 4 + y // 4) % 2)] * 3) for y in range(32) for x in range(32))
    (folder / "board.png").write_bytes(png(32, 32, board))
    (folder / "grey.png").write_bytes(png(32, 32, bytes([128]) * 3 * 32 * 32))
    include = {"include": [{"class": "circle", "count": 1, "color": "red"}]}
    rows = [{"id": "0/0", "prompt": "a red circle", "metadata": include, "segments": [
                {"type": "text", "text": "draw one red circle", "num_tokens": 10, "finished": True},
                {"type": "image", "path": "board.png", "width": 32, "height": 32}]},
            {"id": "0/1", "prompt": "a red circle", "metadata": include, "segments": [
                {"type": "text", "text": "", "num_tokens": 1, "finished": True},
                {"type": "image", "path": "grey.png", "width": 32, "height": 32}]}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-sdk-")
        cls.addClassCleanup(cls.holder.cleanup)
        cls.home = pathlib.Path(cls.holder.name)
        cls.prefix = cls.home / "prefix"
        installed = run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        assert installed.returncode == 0, installed.stderr
        # Outside of the tree: nothing of the repository but these files is seen.
        shutil.copytree(SOURCE / "plugins", cls.home / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
        (cls.home / "samples").mkdir()
        write_samples(cls.home / "samples")

    def build(self, name, compiler):
        folder = self.home / f"{name}-{compiler}"
        configured = run("cmake", "-S", self.home / "plugins" / name, "-B", folder, f"-DCMAKE_PREFIX_PATH={self.prefix}",
                         f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=Release",
                         "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wshadow -Werror")
        self.assertEqual(configured.returncode, 0, configured.stderr)
        built = run("cmake", "--build", folder)
        self.assertEqual(built.returncode, 0, built.stdout + built.stderr)
        return folder / f"{name}.so"

    def score(self, plugin, *arguments):
        out = self.home / "out.json"
        result = run(self.prefix / "bin" / "unigrpo", "reward", "--plugin", plugin, "--samples",
                     self.home / "samples" / "samples.jsonl", "--json", out, *arguments, cwd=self.home)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("ms a sample", result.stdout)
        return json.loads(out.read_text()), result

    def check_examples(self, compiler):
        for isolate in ("process", "none"):
            with self.subTest(compiler=compiler, isolate=isolate):
                where = ("--isolate", isolate)
                scored, _ = self.score(self.plugins["text_length"], *where, "--set", "min=9")
                self.assertEqual([row["score"] for row in scored["scores"]], [1, 0])
                self.assertEqual(scored["scores"][0]["notes"], {"tokens": "10"})
                self.assertEqual(scored["settings"], {"min": 9})

                scored, _ = self.score(self.plugins["sharpness"], *where)
                board, grey = scored["scores"]
                self.assertGreater(board["score"], 0.9)
                self.assertAlmostEqual(board["parts"]["contrast"], 1, places=3)
                self.assertEqual(grey["parts"], {"contrast": 0, "sharpness": 0})

                scored, result = self.score(self.plugins["plan_rules"], *where)
                self.assertEqual(scored["scores"][0]["parts"], {"rules": 1, "mentioned": 1, "repeated": 0})
                self.assertIsNone(scored["scores"][1]["score"])
                self.assertEqual(scored["scores"][1]["reason"], "no reasoning text")
                self.assertIn("no score for sample 0/1 (prompt 'a red circle'): no reasoning text", result.stderr)
                self.assertEqual(scored["dimensions"]["rules"], {"count": 1, "mean": 1, "spread": 0, "min": 1, "max": 1})

    def check_compiler(self, compiler):
        if shutil.which(compiler) is None:
            self.skipTest(f"{compiler} is not installed")
        self.plugins = {name: self.build(name, compiler) for name in ("text_length", "sharpness", "plan_rules")}
        self.check_examples(compiler)

    def test_the_examples_build_and_score_with_gxx(self):
        self.check_compiler("g++")

    def test_the_examples_build_and_score_with_clangxx(self):
        self.check_compiler("clang++")

    def test_the_python_judge_scores(self):
        scored, _ = self.score(self.home / "plugins" / "python_judge" / "judge.py")
        self.assertEqual([row["score"] for row in scored["scores"]], [0, 0])
        self.assertEqual([row["parts"]["ink"] for row in scored["scores"]], [0.5, 1])

    def test_the_header_is_c(self):
        source = self.home / "plugin.c"
        source.write_text("#include <unigrpo/reward_plugin.h>\nint size(void) { return sizeof(unigrpo_sample); }\n")
        built = run("gcc", "-std=c99", "-pedantic", "-Wall", "-Werror", f"-I{self.prefix}/include", "-c", source,
                    "-o", self.home / "plugin.o")
        self.assertEqual(built.returncode, 0, built.stderr)

    def test_the_examples_of_the_docs_build_and_score(self):
        text = (SOURCE / "docs" / "REWARDS.md").read_text()
        sources, cmake = (text.split(f"```{language}\n")[1:] for language in ("cpp", "cmake"))
        for name, source in zip(("brevity", "whiteness"), sources):
            folder = self.home / "plugins" / name
            folder.mkdir()
            (folder / f"{name}.cpp").write_text(source.split("```")[0])
            (folder / "CMakeLists.txt").write_text(cmake[0].split("```")[0].replace("brevity", name))
        scored, _ = self.score(self.build("brevity", "g++"), "--set", "limit=10")
        self.assertAlmostEqual(scored["scores"][0]["score"], 10 / 19)
        self.assertEqual(scored["scores"][1]["reason"], "no text")
        scored, _ = self.score(self.build("whiteness", "g++"), "--set", "threshold=100")
        self.assertEqual([row["parts"] for row in scored["scores"]],
                         [{"white": 0.5, "semicolons": 0}, {"white": 1, "semicolons": 0}])
        self.assertRegex(scored["scores"][0]["notes"]["seen"], "^[0-9]+ white pixels$")

    def test_the_worker_is_light(self):
        linked = run("ldd", self.prefix / "bin" / "unigrpo-reward-worker").stdout
        for library in ("opencv", "torch", "libc10", "curl"):
            self.assertNotIn(library, linked)


if __name__ == "__main__":
    BUILD, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    os.environ.pop("UNIGRPO_FAULT", None)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
