"""scripts/gpu_check.sh on a machine without a GPU, and with arguments that it does not know: exit 2, one line, nothing made.

usage: gpu_check_test.py ROOT
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]


class GpuCheck(unittest.TestCase):
    def run_it(self, *arguments, path):
        done = subprocess.run([ROOT / "scripts/gpu_check.sh", *arguments], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": path}, cwd=ROOT)
        return done.returncode, done.stdout, done.stderr

    def test_without_a_gpu(self):
        for says in (None, "exit 9", "echo 'No devices were found'"):  # no driver, a driver that fails, no card
            with tempfile.TemporaryDirectory() as folder:
                tool = pathlib.Path(folder, "nvidia-smi")
                tool.write_text(f"#!/bin/sh\n{says or 'exit 127'}\n", encoding="utf-8")
                tool.chmod(0o755)
                code, out, err = self.run_it(path=f"{folder}:{os.environ['PATH']}")
                self.assertEqual((code, out, err), (2, "", "gpu_check: no CUDA GPU here\n"), says)

    def test_arguments(self):
        for arguments in (["--bundle"], ["--bundle", ""], ["--what"], ["folder"]):
            code, out, err = self.run_it(*arguments, path=os.environ["PATH"])
            self.assertEqual((code, out, err), (2, "", "usage: scripts/gpu_check.sh [--bundle DIR]\n"), arguments)

    def test_a_bundle_does_not_go_into_a_folder_with_files(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "mine").touch()
            code, out, err = self.run_it("--bundle", folder, path=os.environ["PATH"])
            self.assertEqual((code, out, err), (2, "", f"gpu_check: {folder} is not empty\n"))
            self.assertEqual(os.listdir(folder), ["mine"])


if __name__ == "__main__":
    unittest.main()
