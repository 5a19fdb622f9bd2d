"""A disk that fills up during training: exit code 1, one line with the path, and nothing that was saved is lost.

usage: disk_full_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402

KEEP_GOING = ("--set", "checkpoint.on_disk_full=continue")


class DiskFull(tiny_case.TinyCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.fresh("reference")
        result = tiny_run.run(cls.binary, "train", "tiny.toml", cwd=cls.reference)
        assert result.returncode == 0, result.stderr

    def committed(self, folder):
        return sorted(path.name for path in (folder / "runs/tiny/checkpoints").iterdir() if path.name != ".lock")

    def check_stop_and_resume(self, name, fault, steps):
        folder = self.fresh(name)
        result = tiny_run.run(self.binary, "train", "tiny.toml", cwd=folder, fault=fault)
        self.assertEqual(result.returncode, 1, result.stderr)
        last = result.stderr.splitlines()[-1]
        self.assertRegex(last, r"^unigrpo: runs/tiny/checkpoints/step_00000\d: no space .* needed, .* free: ")
        self.assertEqual(self.committed(folder), steps)
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.reference / "runs/tiny")), [])

    def test_in_the_first_checkpoint(self):
        self.check_stop_and_resume("first", "save.write:9=enospc", [])

    def test_in_a_later_checkpoint_the_earlier_ones_stay(self):
        self.check_stop_and_resume("second", "save.manifest:2=enospc", ["step_000001"])
        self.check_stop_and_resume("third", "save.commit:3=enospc", ["step_000001", "step_000002"])

    def test_a_full_disk_may_cost_a_checkpoint_instead_of_the_run(self):
        folder = self.fresh("continue")
        result = tiny_run.run(self.binary, "train", "tiny.toml", *KEEP_GOING, cwd=folder, fault="save.manifest:2=enospc")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("checkpoint.on_disk_full = continue", result.stderr)
        self.assertEqual((folder / "runs/tiny/final/ema.safetensors").read_bytes(),
                         (self.reference / "runs/tiny/final/ema.safetensors").read_bytes())

    def test_a_failing_disk_is_a_failure_that_names_the_file(self):
        folder = self.fresh("eio")
        result = tiny_run.run(self.binary, "train", "tiny.toml", cwd=folder, fault="save.fsync:9=eio")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr.splitlines()[-1], r"^unigrpo: runs/tiny/.*: cannot fsync: ")

    def test_a_short_write_is_written_on(self):
        folder = self.fresh("short")
        result = tiny_run.run(self.binary, "train", "tiny.toml", cwd=folder, fault="save.write:9=short,save.write:14=short")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.reference / "runs/tiny")), [])

    def test_a_real_small_disk(self):
        folder = self.fresh("disk")
        small = folder / "small"
        small.mkdir()
        # One checkpoint takes 5.6 MB, and the next one is asked for before the first may go.
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(small)], capture_output=True,
                                 check=False) if shutil.which("mount") else None
        if mounted is None or mounted.returncode != 0:
            self.skipTest("no disk can be mounted here")
        try:
            result = tiny_run.run(self.binary, "train", "tiny.toml", "--set", "run.dir=small/run", cwd=folder)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertRegex(result.stderr.splitlines()[-1],
                             r"^unigrpo: small/run/checkpoints/step_000002: no space .* needed, .* free: ")
            kept = small / "run/checkpoints/step_000001"
            exported = tiny_run.run(self.binary, "export", "--run", "small/run", "--out", "model", cwd=folder)
            self.assertEqual(exported.returncode, 0, exported.stderr)
            self.assertTrue(kept.is_dir())
        finally:
            subprocess.run(["umount", str(small)], check=True)


if __name__ == "__main__":
    tiny_case.main()
