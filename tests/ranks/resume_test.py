"""Runs on several ranks are stopped, killed and resumed.

usage: resume_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
"""

import os
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import equality_test  # noqa: E402
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
BASE = {**equality_test.BASE, "checkpoint.every": 1, "checkpoint.keep_last": 100, "monitor.sample_every": 2,
        "run.num_steps": 5,
        "optim.ema.enabled": "true"}
NOT_THIS_PROCESS = equality_test.SPREAD


class Resume(equality_test.Equality):
    """Borrows the comparison; has tests of its own."""

    def steps(self, run):
        return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step_*"))

    def same_bytes(self, run, left_alone):
        """Also the numbers of metrics that do not say how fast the run was."""
        for step in self.steps(left_alone):
            name = f"checkpoints/step_{step:06}"
            for part in sorted((left_alone / name).glob("*.safetensors")):
                self.assertEqual((run / name / part.name).read_bytes(), part.read_bytes(), f"{name}/{part.name}")
        for file in tiny_run.files_in(left_alone):
            if file.startswith(("final/", "samples/")):
                self.assertEqual((run / file).read_bytes(), (left_alone / file).read_bytes(), file)
        steady = [[{key: value for key, value in row.items() if not key.startswith(NOT_THIS_PROCESS)}
                   for row in tiny_run.metrics_of(folder, steady=False)] for folder in (run, left_alone)]
        self.assertEqual(*steady)

    def interrupted(self, settings, size, rank, point, number):
        """`number` goes to one rank while it stands still at `point`. Returns the run's folder and the results."""
        folder = self.fresh()
        sets = [part for key, value in {**BASE, **settings}.items() for part in ("--set", f"{key}={value}")]
        ranks = ranks_run.start(BINARY, size, "train", "tiny.toml", *sets, cwd=folder, fault=f"{point}=stop")
        _, status = os.waitpid(ranks[rank].pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status), f"{point} was not reached")
        ranks[rank].send_signal(number)
        ranks[rank].send_signal(signal.SIGCONT)
        return folder, ranks_run.finish(ranks)

    def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on_to_the_same_bytes(self):
        left_alone = self.train(3, {}, base=BASE)
        for fault in ("update.micro_batch@1:5=kill", "rollout.end@2:3=kill", "save.manifest@0:3=kill"):
            with self.subTest(fault=fault):
                folder = self.fresh()
                self.train(3, {}, folder=folder, fault=fault, code=None, base=BASE)
                self.assertFalse((folder / "runs/tiny/final").exists())
                self.same_bytes(self.train(3, {}, folder=folder, resume=True, base=BASE), left_alone)

    def test_a_signal_to_one_rank_saves_the_same_step_on_all(self):
        left_alone = self.train(2, {}, base=BASE)
        for rank, point, number, done in ((1, "update.micro_batch@1:3", signal.SIGTERM, None),
                                          (0, "rollout.decode_step@0:9", signal.SIGINT, None),
                                          (1, "optim.after@1:2", signal.SIGUSR1, 2)):
            with self.subTest(point=point):
                folder, results = self.interrupted({"checkpoint.every": 0}, 2, rank, point, number)
                self.assertEqual([code for code, _, _ in results], [130, 130], results)
                self.assertIn(signal.Signals(number).name, (folder / "runs/tiny/log.txt").read_text())
                saved = self.steps(folder / "runs/tiny")
                self.assertEqual(len(saved), 1)
                if done is not None:
                    self.assertEqual(saved, [done])
                run = self.train(2, {"checkpoint.every": 0}, folder=folder, resume=True, base=BASE)
                self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                                 (left_alone / "final/ema.safetensors").read_bytes())

    def test_saved_on_some_ranks_resumed_on_others(self):
        reference = self.train(equality_test.ONE_PROCESS, {"checkpoint.keep_last": 1}, base=BASE)
        for first, then in ((0, 2), (2, 3), (3, 1), (3, 0), (4, 2)):
            with self.subTest(saved_on=first, resumed_on=then):
                folder = self.fresh()
                self.train(first, {}, folder=folder, fault="optim.before@0:4=kill", code=None, base=BASE)
                self.assertEqual(self.steps(folder / "runs/tiny"), [1, 2, 3])
                run = self.train(then, {"checkpoint.keep_last": 1}, folder=folder, resume=True, base=BASE)
                self.check(run, reference)

    def test_a_gradient_that_is_not_finite_on_one_rank_makes_all_skip(self):
        self.all_skip(BASE)

    def all_skip(self, base):
        run = self.train(2, {}, fault="grad.reduced@1:2=nan", base=base)
        rows = tiny_run.metrics_of(run)
        self.assertEqual([row["optim/skipped"] for row in rows], [0, 1, 1, 1, 1])
        self.assertIsNone(rows[1]["optim/grad_norm"])
        weights = [ranks_run.part_of(run / f"checkpoints/step_{step:06}", "policy") for step in (1, 2, 3)]
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[1], weights[2])

    def test_too_many_of_them_end_all_alike(self):
        folder = self.fresh()
        faults = ",".join(f"grad.reduced@1:{hit}=nan" for hit in (1, 2, 3))
        sets = {**BASE, "optim.max_skipped": 3}
        results = ranks_run.run(BINARY, 2, "train", "tiny.toml",
                                *(part for key, value in sets.items() for part in ("--set", f"{key}={value}")),
                                cwd=folder, fault=faults)
        self.assertEqual([code for code, _, _ in results], [1, 1], results)
        for _, _, stderr in results:
            self.assertIn("optim.max_skipped = 3", stderr)

    def test_bad_input_on_one_rank_ends_all_with_its_line(self):
        folder = self.fresh()
        results = ranks_run.run(BINARY, 2, "train", "tiny.toml", "--set", "data.prompts=nowhere.jsonl", cwd=folder)
        for code, _, stderr in results:
            self.assertEqual(code, 2, stderr)
            self.assertIn("nowhere.jsonl", stderr)
        self.assertFalse((folder / "runs").exists())
        (folder / "runs/tiny").mkdir(parents=True)
        (folder / "runs/tiny/other").write_text("not a run")
        results = ranks_run.run(BINARY, 2, "train", "tiny.toml", cwd=folder)
        for code, _, stderr in results:
            self.assertEqual(code, 2, stderr)
            self.assertIn("the run folder is not empty", stderr)
        self.assertEqual(tiny_run.files_in(folder / "runs/tiny"), ["other"])


load_tests = ranks_run.own_tests(Resume)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
