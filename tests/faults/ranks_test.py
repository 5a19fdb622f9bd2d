"""What happens to one rank ends all of them, within seconds, with a line that names it, and costs no committed step.

usage: ranks_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data

Ranks are started without a launcher here: nobody but themselves ends them.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import launch_run  # noqa: E402
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
NUM_STEPS = 3
WITHIN_S = 10
STEP_TIMEOUT_S = 5
EXTRA = f"""
[eval]
prompts = "prompts.jsonl"
max_prompts = 2
every = 2
[parallel]
meeting_timeout_s = 8
step_timeout_s = {STEP_TIMEOUT_S}
"""
# Where a rank dies, and what the others must say of it.
PHASES = {
    "rollout": ("rollout.begin:2", "(step 2, "),
    "reward": ("collective.rewards:3", "(step 2, reward: gather_bytes of 'rewards'"),
    "update": ("update.micro_batch:3", "update"),
    "gradients": ("collective.gradients:2", "update: all_reduce of 'gradients'"),
    "evaluation": ("eval.batch:2", ""),
}
OF_RANK_0 = {"save, a part": ("save.write:12", "save"), "save, the manifest": ("save.manifest:2", "save"),
             "save, the commit": ("save.commit:2", "save")}
OF_ANOTHER = {"save": ("collective.checkpoint:3", "save: gather_bytes of 'checkpoint'")}


class Ranks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-ranks-")
        cls.references = {}

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    @classmethod
    def fresh(cls, name):
        folder = pathlib.Path(cls.holder.name) / re.sub(r"\W+", "-", name)
        folder.mkdir()
        tiny_run.write_inputs(folder, DATA, num_steps=NUM_STEPS, extra=EXTRA)
        return folder

    def reference(self, size):
        if size not in self.references:
            folder = self.fresh(f"reference-{size}")
            for code, _, err in ranks_run.run(BINARY, size, "train", "tiny.toml", cwd=folder):
                self.assertEqual(code, 0, err)
            self.references[size] = folder / "runs/tiny"
        return self.references[size]

    def problems_after_resuming(self, folder, size):
        results = ranks_run.run(BINARY, size, "train", "tiny.toml", "--resume", cwd=folder)
        problems = [f"--resume ended with {code}: {err[-500:]}" for code, _, err in results if code != 0]
        if not problems:
            shutil.rmtree(folder / "runs/tiny/hang", ignore_errors=True)
            problems = list(tiny_run.differences(folder / "runs/tiny", self.references[size]))
        return problems

    def lose(self, size, victim, fault, action, within_s=WITHIN_S):
        """Runs until the victim is lost at a fault point and the others have ended: ([problem], {rank: stderr}, folder)."""
        folder = self.fresh(f"{size}-{victim}-{fault}-{action}")
        point, _, hit = fault.partition(":")
        ranks = ranks_run.start(BINARY, size, "train", "tiny.toml", cwd=folder, fault=f"{point}@{victim}:{hit or 1}={action}")

        def is_lost():
            return launch_run.state_of(ranks[victim].pid) == "T" if action == "stop" else ranks[victim].poll() is not None

        deadline = time.monotonic() + 120
        while not is_lost() and time.monotonic() < deadline:
            time.sleep(0.01)
        problems = [] if is_lost() else ["the victim was not lost"]
        ends, errors = self.ends_of_the_others(ranks, victim, folder, within_s)
        return problems + ends, errors, folder

    @staticmethod
    def ends_of_the_others(ranks, victim, folder, within_s):
        """([problem], {rank: stderr}): each must end with 75 by then, and nobody may be left."""
        problems, errors, lost_at = [], {}, time.monotonic()
        for rank, process in enumerate(ranks):
            try:
                if rank != victim:
                    process.wait(max(0.1, lost_at + within_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                problems.append(f"rank {rank} was still there after {within_s} s")
        for process in ranks:
            process.kill()
        for rank, process in enumerate(ranks):
            errors[rank] = process.communicate()[1]
            if rank != victim and process.returncode != 75:
                problems.append(f"rank {rank} ended with {process.returncode}: {errors[rank][-300:]}")
        left = launch_run.wait_until_gone(launch_run.processes_in(folder), 3)
        launch_run.kill_all(left)
        return problems + ([f"{len(left)} processes are left"] if left else []), errors

    def check(self, cases, action, reports=False, within_s=WITHIN_S):
        """cases: (size, victim, fault, what the line says)."""
        for size in {size for size, *_ in cases}:
            self.reference(size)

        def outcome(case):
            size, victim, fault, says = case
            problems, errors, folder = self.lose(size, victim, fault, action, within_s)
            for rank in range(size):
                if rank == victim:
                    continue
                line = next((line for line in errors[rank].splitlines() if f"rank {victim} is lost: " in line), "")
                if not line or says not in line:
                    problems.append(f"rank {rank} does not say '{says}': {errors[rank][-300:]}")
                log = folder / "runs/tiny" / ("log.txt" if rank == 0 else f"logs/rank_{rank}.txt")
                if f"rank {victim} is lost: " not in (log.read_text() if log.exists() else ""):
                    problems.append(f"{log.name} does not name rank {victim}")
                report = folder / f"runs/tiny/hang/rank_{rank}.txt"
                text = report.read_text() if report.exists() else ""
                if "The last calls:" not in text or "The threads:" not in text or "+0x" not in text:
                    problems.append(f"no report of rank {rank}: {text[:300]}")
            return problems + self.problems_after_resuming(folder, size)

        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            for case, problems in zip(cases, pool.map(outcome, cases)):
                for problem in problems:
                    print(f"{case}: {problem}")
                with self.subTest(case):
                    self.assertEqual(problems, [])

    def cases(self, size, victims):
        return [(size, victim, *place) for victim in victims
                for place in {**PHASES, **(OF_RANK_0 if victim == 0 else OF_ANOTHER)}.values()]

    def test_killed_of_two(self):
        self.check(self.cases(2, (0, 1)), "kill")

    def test_killed_of_four(self):
        self.check([(4, 0, *PHASES["update"]), (4, 0, *OF_RANK_0["save, the manifest"]), (4, 2, *PHASES["rollout"]),
                    (4, 3, *PHASES["gradients"])], "kill")

    def test_crashed(self):
        self.check([(2, 1, *PHASES["update"]), (2, 0, *PHASES["rollout"])], "segv")

    def test_exits(self):
        self.check([(2, 0, *PHASES["gradients"]), (2, 1, *OF_ANOTHER["save"])], "exit")

    def test_stopped(self):
        cases = [(2, 1, *PHASES["rollout"]), (2, 0, *PHASES["gradients"]), (2, 0, *OF_RANK_0["save, the manifest"]),
                 (4, 2, *PHASES["update"])]
        self.check(cases, "stop", within_s=STEP_TIMEOUT_S + 6)

    def test_in_the_meeting(self):
        for action in ("kill", "stop"):
            with self.subTest(action):
                problems, errors, _ = self.lose(2, 1, "meeting:1", action)
                self.assertEqual(problems, [])
                self.assertRegex(errors[0], r"rank 1 of 2 did not come to 127.0.0.1:\d+ within 8 s")
        problems, errors, _ = self.lose(2, 0, "meeting:1", "kill")
        self.assertEqual(problems, [])
        self.assertRegex(errors[1], r"the store at 127.0.0.1:\d+, which rank 0 opens, does not answer within 8 s")

    def test_an_exception_is_quoted_by_the_others(self):
        for fault, victim in (("rollout.begin:2", 0), ("advantage:2", 1), ("update.micro_batch:2", 1)):
            with self.subTest(fault):
                problems, errors, _ = self.lose(2, victim, fault, "throw")
                self.assertEqual(problems, [])
                line = f"fault point {fault.partition(':')[0]}: thrown on request"
                self.assertIn(f"unigrpo: {line}\n", errors[victim])
                self.assertIn(f"rank {victim} failed: {line} (step 2, ", errors[1 - victim])

    def test_a_full_disk_commits_nothing(self):
        folder = self.fresh("disk-full")
        results = ranks_run.run(BINARY, 2, "train", "tiny.toml", cwd=folder, fault="save.write@0:12=enospc")
        self.assertEqual([code for code, *_ in results], [1, 75], results)
        self.assertIn("rank 0 failed: ", results[1][2])
        self.reference(2)
        self.assertEqual(self.problems_after_resuming(folder, 2), [])

    def test_a_prompt_file_that_one_rank_cannot_read(self):
        folders = [self.fresh(f"prompts-{rank}") for rank in range(2)]
        (folders[1] / "prompts.jsonl").unlink()
        ranks = ranks_run.start(BINARY, 2, "train", "tiny.toml", cwd=folders)
        for code, _, err in ranks_run.finish(ranks):
            self.assertEqual(code, 2, err)
            self.assertIn("prompts.jsonl", err)
            self.assertEqual(len(err.splitlines()), 1, err)
        self.assertFalse((folders[0] / "runs").exists())

    def test_recipes_that_differ(self):
        folders = [self.fresh(f"recipes-{rank}") for rank in range(2)]
        (folders[1] / "tiny.toml").write_text((folders[1] / "tiny.toml").read_text().replace("lr = 1e-3", "lr = 2e-3"))
        ranks = ranks_run.start(BINARY, 2, "train", "tiny.toml", cwd=folders)
        for code, _, err in ranks_run.finish(ranks):
            self.assertEqual(code, 2, err)
            self.assertRegex(err, r"the ranks differ in the recipe: rank 0 on \S+ has 'lr = 0.001', rank 1 on \S+ has 'lr = 0.002'")
        self.assertFalse((folders[0] / "runs").exists())


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
