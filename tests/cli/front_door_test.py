"""The program `unigrpo` is light, and hands over to unigrpo-torch what needs LibTorch.

usage: front_door_test.py UNIGRPO
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

UNIGRPO = pathlib.Path(sys.argv[1])
# Each of them costs a start more than all that is needed: LibTorch 0.6 s, OpenCV's codecs (GDAL) 0.1 s, curl 20 ms.
HEAVY = ("libtorch", "libc10", "libgomp", "libcuda", "libopencv_imgcodecs", "libgdal", "libcurl")
STAND_IN = """#!/bin/sh
printf '%s\\n' "$$" "$#" "$@"
[ "$2" = wait ] && printf '%s\\n' "$OMP_WAIT_POLICY" "$GOMP_SPINCOUNT"
[ "$2" = die ] && kill -TERM $$
exit 75
"""


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


class FrontDoorTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def alone(self):
        """A copy of the program without the others beside it."""
        (self.folder / "bin").mkdir()
        return shutil.copy(UNIGRPO, self.folder / "bin" / "unigrpo")

    def test_loads_nothing_heavy_at_a_start(self):
        loaded = [line.split()[0] for line in run("ldd", UNIGRPO).stdout.splitlines()]
        self.assertGreater(len(loaded), 3)
        self.assertLess(len(loaded), 40, loaded)
        self.assertEqual([name for name in loaded if name.startswith(HEAVY)], [])

    def test_without_the_other_program_says_so_and_does_the_rest(self):
        program = self.alone()
        refused = run(program, "train", "x.toml")
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertEqual(len(refused.stderr.splitlines()), 1)
        self.assertIn("bin/unigrpo-torch: not there", refused.stderr)
        self.assertEqual(run(program, "recipe", "--explain").returncode, 0)
        for command in ("train", "sft", "sample", "eval", "export", "init", "selftest"):
            self.assertIn("--help", run(program, command, "--help").stdout)
        self.assertEqual(run(program, "train").returncode, 2)

    def test_hands_over_the_same_process_and_arguments_also_through_a_link(self):
        program = self.alone()
        other = self.folder / "bin" / "unigrpo-torch"
        other.write_text(STAND_IN)
        other.chmod(0o755)
        os.symlink(program, self.folder / "link")
        for name in (program, self.folder / "link"):
            process = subprocess.Popen([name, "sample", "--model", "m", "--prompt", "", "--out", "two words"],
                                       stdout=subprocess.PIPE, text=True)
            lines = process.communicate(timeout=120)[0].splitlines()
            self.assertEqual(lines, [str(process.pid), "7", "sample", "--model", "m", "--prompt", "", "--out", "two words"])
            self.assertEqual(process.returncode, 75)

    def test_openmp_sleeps_where_the_user_has_not_said_otherwise(self):
        program = self.alone()
        other = self.folder / "bin" / "unigrpo-torch"
        other.write_text(STAND_IN)
        other.chmod(0o755)
        bare = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        for given, wanted in (({}, ["PASSIVE", "1000"]), ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", ""]),
                              ({"GOMP_SPINCOUNT": "7"}, ["", "7"])):
            result = subprocess.run([program, "train", "wait"], env={**bare, **given}, capture_output=True, text=True,
                                    timeout=120)
            self.assertEqual(result.stdout.splitlines()[-2:], wanted)

    def test_ends_as_the_other_program_does(self):
        program = self.alone()
        other = self.folder / "bin" / "unigrpo-torch"
        other.write_text(STAND_IN)
        other.chmod(0o755)
        self.assertEqual(run(program, "train", "die").returncode, -signal.SIGTERM)
        other.chmod(0o644)
        refused = run(program, "train", "x.toml")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("unigrpo-torch: cannot be started: Permission denied", refused.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=1)
