"""Kills a training run wherever it may be and resumes it: the end must be the uninterrupted run's, bit for bit.

usage: kill_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import concurrent.futures
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402

SEED = int(os.environ.get("UNIGRPO_TEST_SEED", "0"))

# Every kind of place, early and late. The numbers are passes through the point.
POINTS = ["save.open:1", "save.write:1", "save.rename:1", "save.dirsync:1",  # recipe.toml, the first file of all
          "save.open:6", "save.write:9", "save.fsync:11", "save.rename:14", "save.dirsync:10", "save.write:23",
          "save.rename:28", "save.rename:29", "save.rename:30",  # in final/, and the report
          "save.manifest:1", "save.manifest:3", "save.commit:1", "save.commit:4", "save.trash:1", "save.trash:3",
          "rollout.begin:1", "rollout.begin:3", "rollout.end:2", "advantage:2", "optim.before:2", "optim.after:3"]


class Base(tiny_case.TinyCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.fresh("reference")
        start = time.monotonic()
        result = tiny_run.run(cls.binary, "train", "tiny.toml", cwd=cls.reference)
        cls.length_s = time.monotonic() - start
        assert result.returncode == 0, result.stderr

    def problems_after_resuming(self, folder):
        """Resumes to the end and compares with the run that was left alone."""
        result = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        if result.returncode != 0:
            return [f"--resume ended with {result.returncode}: {result.stderr[-500:]}"]
        problems = list(tiny_run.differences(folder / "runs/tiny", self.reference / "runs/tiny"))
        shutil.rmtree(folder)
        return problems

    def in_parallel(self, check, cases):
        """check(case) -> problems; a process computes on one core."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            for case, problems in zip(cases, pool.map(check, cases)):
                for problem in problems:
                    print(f"{case}: {problem}")
                with self.subTest(case):
                    self.assertEqual(problems, [])

    def check_points(self, points):
        def check(point):
            folder = self.fresh("point-" + point.replace(":", "-"))
            killed = tiny_run.run(self.binary, "train", "tiny.toml", cwd=folder, fault=f"{point}=kill")
            if killed.returncode != -signal.SIGKILL:
                return [f"was not killed but ended with {killed.returncode}: {killed.stderr[-500:]}"]
            return self.problems_after_resuming(folder)

        self.in_parallel(check, points)


class Killed(Base):
    def test_at_ten_random_moments(self):
        def check(number):
            folder = self.fresh(f"moment-{number}")
            delay_s = random.Random(f"{SEED}/{number}").uniform(0, self.length_s)
            process = subprocess.Popen(tiny_run.command(self.binary, "train", "tiny.toml"), cwd=folder,
                                       env=tiny_run.environment(), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return self.problems_after_resuming(folder)

        print(f"seed {SEED}, a run takes {self.length_s:.2f} s")
        self.in_parallel(check, range(10))

    def test_at_named_points(self):
        self.check_points(POINTS)

    def test_again_and_again(self):
        """Each life ends further on: one in reading the checkpoint, one between commit and clearing up."""
        folder = self.fresh("again")
        arguments = ["train", "tiny.toml"]
        for fault in ["advantage:2=kill", "load.file:2=kill", "optim.after:2=kill", "save.trash:1=kill",
                      "save.dirsync:8=kill"]:
            killed = tiny_run.run(self.binary, *arguments, cwd=folder, fault=fault)
            self.assertEqual(killed.returncode, -signal.SIGKILL, f"{fault}: {killed.stderr}")
            arguments = ["train", "tiny.toml", "--resume"]
        self.assertEqual(self.problems_after_resuming(folder), [])


class KilledAroundEvaluations(Base):
    """Rows hold eval/* whether the evaluation's own process wrote them or, killed in between, the next one."""

    extra = '\n[eval]\nprompts = "prompts.jsonl"\nmax_prompts = 2\nevery = 1\nkeep_best = true\n'

    def test_rows_are_those_of_the_run_left_alone(self):
        rows = tiny_run.metrics_of(self.reference / "runs/tiny")
        self.assertEqual([row["step"] for row in rows], list(range(self.num_steps + 1)))
        self.assertTrue(all("eval/strict" in row for row in rows))
        # In an evaluation, right before the step that follows one (its file is there, its row is not always), and in
        # writing the file, the best model and the checkpoint.
        self.check_points(["eval.batch:1", "eval.batch:2", "eval.batch:4", "rollout.begin:1", "rollout.begin:3",
                           "save.manifest:2", "save.commit:1", *(f"save.rename:{n}" for n in range(3, 40, 3))])


if __name__ == "__main__":
    tiny_case.main()
