"""A signal to one rank, to all or to `launch`: the same step is saved by all, which end with 130 and go on from there.

usage: ranks_signals_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import itertools
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import launch_run  # noqa: E402
import ranks_case  # noqa: E402
import ranks_run  # noqa: E402
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402
from ranks_case import some  # noqa: E402

PHASES = {"rollout": "rollout.begin:2", "denoising": "rollout.denoising_step:6", "reward": "reward.begin:2",
          "update": "update.micro_batch:2", "backward": "backward.block_0:2", "gradients": "collective.gradients:4",
          "save": "collective.checkpoint:3", "evaluation": "eval.batch:2"}
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals(ranks_case.RanksCase):
    def stopped(self, size, victim, point, with_launch=False, options=()):
        """(folder, processes, pid of the rank that stands still at `point`); one process where there is a launcher."""
        folder = self.fresh(f"{size}-{victim}-{point}-{time.monotonic_ns()}")
        name, _, hit = point.partition(":")
        fault = f"{name}@{victim}:{hit or 1}=stop"
        if not with_launch:
            processes = self.start(size, folder, fault)
            ranks_case.stopped_at(processes[victim], point)
            return folder, processes, processes[victim].pid
        job = launch_run.start(self.binary, size, "train", "tiny.toml", cwd=folder, fault=fault, options=options)

        def halted():
            return [pid for pid in launch_run.descendants(job.pid) if launch_run.state_of(pid) == "T"]

        assert ranks_case.wait_until(halted), f"{point} was not reached"
        return folder, [job], halted()[0]

    def problems_of(self, folder, size, processes, code=130):
        results = ranks_run.finish(processes)
        problems = [f"process {i} ended with {got}: {err[-300:]}" for i, (got, _, err) in enumerate(results) if got != code]
        return problems + ranks_case.left_in(folder) + (problems or self.after_resuming(folder, size))

    def after_resuming(self, folder, size):
        """But for a row that an evaluation kept open, which the checkpoint of its step remembers."""
        return [problem for problem in self.problems_after_resuming(folder, size)
                if not problem.startswith("checkpoints/step_000002/") or "safetensors" in problem]

    def outcome(self, case):
        """[problem] of a signal `number` to `target`, while one rank stands still at `point`."""
        size, target, number, point = case
        self.reference(size)
        victim = 0 if target == "rank 0" or point.startswith("save.") else size - 1
        folder, processes, halted = self.stopped(size, victim, point, with_launch=target == "launch")
        for process in processes if target in ("all", "launch") else [processes[victim]]:
            process.send_signal(number)
        if target == "launch":
            time.sleep(0.5)  # until it has passed it on
        os.kill(halted, signal.SIGCONT)
        problems = self.problems_of(folder, size, processes)
        log = (folder / "runs/tiny/log.txt").read_text()
        if number.name + ": stopped after step" not in log:
            problems.append(f"log.txt does not name {number.name}: {log[-300:]}")
        return problems

    def check(self, size, targets, phases):
        self.reference(size)
        turns = itertools.cycle(NUMBERS)
        self.in_parallel(self.outcome, some([(size, target, next(turns), point) for point in phases for target in targets], 2))

    def test_to_one_of_two(self):
        self.check(2, ("rank 0", "rank 1"), PHASES.values())

    def test_to_both(self):
        self.check(2, ("all",), PHASES.values())

    def test_to_the_launcher(self):
        self.check(2, ("launch",), PHASES.values())

    def test_of_four(self):
        self.check(4, ("rank 0", "all"), [PHASES[name] for name in ("update", "save")])
        self.check(4, ("rank 3", "launch"), [PHASES[name] for name in ("rollout", "gradients")])

    def test_in_the_meeting_nothing_is_made(self):
        for (size, with_launch), number in zip(((2, False), (4, False), (2, True)), NUMBERS):
            with self.subTest(ranks=size, launch=with_launch, number=number.name):
                folder = self.fresh(f"meeting-{size}-{number}")
                start = launch_run.start if with_launch else ranks_run.start
                processes = start(self.binary, size, "train", "tiny.toml", cwd=folder, fault="meeting=stop")
                processes = [processes] if with_launch else processes

                def halted():
                    return [pid for pid in launch_run.processes_in(folder) if launch_run.state_of(pid) == "T"]

                self.assertTrue(ranks_case.wait_until(lambda: len(halted()) == size), "the meeting was not reached")
                for process in processes:
                    process.send_signal(number)
                time.sleep(0.5)  # until a launcher has passed it on
                for pid in halted():
                    os.kill(pid, signal.SIGCONT)
                for code, _, err in ranks_run.finish(processes):
                    self.assertEqual(code, 130, err)
                self.assertFalse((folder / "runs").exists())

    def test_a_second_one_to_all_ends_at_once(self):
        self.reference(2)
        for with_launch in (False, True):
            with self.subTest(launch=with_launch):
                folder, processes, halted = self.stopped(2, 1, "rollout.begin:2", with_launch)
                os.kill(halted, signal.SIGSTOP)  # it stays where it is
                begin = time.monotonic()
                for number in (signal.SIGINT, signal.SIGTERM):
                    for process in processes:
                        process.send_signal(number)
                    time.sleep(0.2)
                os.kill(halted, signal.SIGCONT)
                self.assertEqual(self.problems_of(folder, 2, processes), [])
                self.assertLess(time.monotonic() - begin, 30)

    def test_one_that_reaches_launcher_and_ranks_is_one(self):
        """As a terminal, Slurm or systemd send it: to all processes of a job."""
        self.reference(2)
        for point, number in (("rollout.begin:2", signal.SIGTERM), ("update.micro_batch:2", signal.SIGUSR1)):
            with self.subTest(point=point, number=number.name):
                folder, (job,), halted = self.stopped(2, 1, point, with_launch=True)
                ranks = launch_run.descendants(job.pid)
                os.kill(halted, signal.SIGCONT)
                for pid in ranks:
                    ranks_case.kill(pid, number)
                job.send_signal(number)
                self.assertEqual(self.problems_of(folder, 2, [job]), [])
                self.assertIn("stopped after step", (folder / "runs/tiny/log.txt").read_text())
                self.assertTrue((folder / "runs/tiny/checkpoints").is_dir())

    def test_one_that_reaches_torchrun_and_ranks_is_one(self):
        folder = self.fresh("torchrun")
        launch_run.require_torchrun(self)
        job = launch_run.start_torchrun(2, self.binary, "train", "tiny.toml", "--resume", cwd=folder,
                                        fault="rollout.begin:2=delay:1500")
        launch_run.wait_for_step(folder / "runs/tiny", 1)
        for pid in launch_run.processes_in(folder) - {job.pid}:
            ranks_case.kill(pid, signal.SIGTERM)
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=tiny_run.TIMEOUT_S)
        self.assertEqual(ranks_case.left_in(folder), [])
        self.assertIn("SIGTERM: stopped after step 1", (folder / "runs/tiny/log.txt").read_text())
        self.reference(2)
        self.assertEqual(self.problems_after_resuming(folder, 2), [])


if __name__ == "__main__":
    tiny_case.main()
