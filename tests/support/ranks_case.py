"""Tests of what happens to runs on several ranks. Ranks are started without a launcher: nobody but themselves ends them."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import time

import launch_run
import ranks_run
import tiny_case
import tiny_run

WITHIN_S = 10  # in which the others are gone once a rank is lost
STEP_TIMEOUT_S = 5
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"  # every cell; else what a test run has time for


def some(cases, every):
    """All of them in full, else one of so many."""
    return cases if FULL else cases[::every]


class RanksCase(tiny_case.TinyCase):
    num_steps, image_size = 3, 32
    extra = f"""
[eval]
prompts = "prompts.jsonl"
max_prompts = 2
every = 2
[parallel]
meeting_timeout_s = 8
step_timeout_s = {STEP_TIMEOUT_S}
"""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.references = {}

    def reference(self, size):
        """The run folder of a run on so many ranks that was left alone."""
        if size not in self.references:
            folder = self.fresh(f"reference-{size}")
            for code, _, err in ranks_run.run(self.binary, size, "train", "tiny.toml", cwd=folder):
                self.assertEqual(code, 0, err)
            self.references[size] = folder / "runs/tiny"
        return self.references[size]

    def problems_after_resuming(self, folder, size):
        """Resumes to the end and compares with the run that was left alone, reports of the earlier end apart."""
        results = ranks_run.run(self.binary, size, "train", "tiny.toml", "--resume", cwd=folder)
        problems = [f"--resume ended with {code}: {err[-500:]}" for code, _, err in results if code != 0]
        if not problems:
            shutil.rmtree(folder / "runs/tiny/hang", ignore_errors=True)
            problems = list(tiny_run.differences(folder / "runs/tiny", self.references[size]))
        return problems

    def start(self, size, folder, fault="", arguments=()):
        return ranks_run.start(self.binary, size, "train", "tiny.toml", *arguments, cwd=folder, fault=fault)

    def in_parallel(self, outcome, cases, workers=2):
        """outcome(case) -> [problem]. Ranks compute on one core each."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
            for case, problems in zip(cases, pool.map(outcome, cases)):
                for problem in problems:
                    print(f"{case}: {problem}", flush=True)
                with self.subTest(case):
                    self.assertEqual(problems, [])

    def lose(self, size, victim, fault, action, within_s=WITHIN_S):
        """Runs until the victim is lost at a fault point and the others have ended: ([problem], {rank: stderr}, folder)."""
        folder = self.fresh(f"{size}-{victim}-{fault}-{action}")
        point, _, hit = fault.partition(":")
        ranks = self.start(size, folder, f"{point}@{victim}:{hit or 1}={action}")

        def is_lost():
            return launch_run.state_of(ranks[victim].pid) == "T" if action == "stop" else ranks[victim].poll() is not None

        problems = [] if wait_until(is_lost) else ["the victim was not lost"]
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
        return problems + left_in(folder), errors


def wait_until(happens, patience_s=120):
    deadline = time.monotonic() + patience_s
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happens()


def left_in(folder, patience_s=3):
    """[problem] of processes that work in a folder, which are ended."""
    left = launch_run.wait_until_gone(launch_run.processes_in(folder), patience_s)
    launch_run.kill_all(left)
    return [f"{len(left)} processes are left"] if left else []


def stopped_at(process, point):
    """Waits until a child stands still at a fault point."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"{point} was not reached"


def plugins():
    """The folder of the test's reward plugins, beside the binary's."""
    return pathlib.Path(tiny_case.TinyCase.binary).parent.parent / "test_plugins"


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
