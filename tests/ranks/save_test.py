"""Checkpoints of several ranks: damaged, on a full disk, written by a thread, and read by the other commands.

usage: save_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
"""

import json
import pathlib
import shutil
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import equality_test  # noqa: E402
import ranks_run  # noqa: E402
import resume_test  # noqa: E402
import tiny_run  # noqa: E402

BINARY = DATA = ""
BASE = {**resume_test.BASE, "run.num_steps": 4}
ASYNC = {"checkpoint.async": "true"}


class Save(resume_test.Resume):
    """Borrows the comparison and the starts; has tests of its own."""

    @classmethod
    def left_alone(cls, test):
        """A run of three ranks, made once. Tests that spoil it take a copy."""
        if not hasattr(cls, "alone"):
            cls.alone = Save.train(test, 3, {}, base=BASE)
        return cls.alone

    def copy(self):
        source = self.left_alone(self)
        folder = self.fresh()
        shutil.copytree(source, folder / "runs/tiny")
        return folder

    def files_of(self, folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def test_each_rank_writes_a_share_and_one_process_whole_files(self):
        checkpoint = self.left_alone(self) / "checkpoints/step_000004"
        names = [f"{part}.rank_{rank:05}-of-00003.safetensors" for part in ("ema", "optimizer", "policy") for rank in range(3)]
        self.assertEqual(sorted(path.name for path in checkpoint.iterdir()), sorted([*names, "manifest.json", "state.json"]))
        for part in ("ema", "optimizer", "policy"):
            sizes = [(checkpoint / name).stat().st_size for name in names if name.startswith(part)]
            self.assertLess(max(sizes), 1.1 * min(sizes) + 4096, part)
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        self.assertEqual((manifest["version"], manifest["world_size"]), (2, 3))

    def test_a_damaged_part_is_named_and_the_checkpoint_before_is_used(self):
        one, other = (f"policy.rank_0000{rank}-of-00003.safetensors" for rank in (1, 2))
        for what, resumed_on in (("truncated", 3), ("flipped", 2), ("swapped", 4), ("of another step", 0)):
            with self.subTest(what):
                folder = self.copy()
                newest, before = (folder / f"runs/tiny/checkpoints/step_00000{step}" for step in (4, 3))
                content = (newest / one).read_bytes()
                if what == "truncated":
                    (newest / one).write_bytes(content[:-1])
                elif what == "flipped":
                    (newest / one).write_bytes(content[:-5] + bytes([content[-5] ^ 4]) + content[-4:])
                elif what == "swapped":
                    (newest / one).write_bytes((newest / other).read_bytes())
                    (newest / other).write_bytes(content)
                else:
                    (newest / one).write_bytes((before / one).read_bytes())
                run = folder / "runs/tiny"
                results = ranks_run.run(BINARY, resumed_on, "train", "tiny.toml", *self.sets({}), "--resume", cwd=folder)
                self.assertEqual({code for code, *_ in results}, {0}, results)
                told = results[0][2]
                self.assertRegex(told, f"step_000004/({one}|{other}): " if what == "swapped" else f"step_000004/{one}: ")
                self.assertIn("resuming from step 3, not from the newest checkpoint", told)
                self.assertEqual(len(list((run / "checkpoints").glob("damaged-step_000004-*"))), 1)
                self.assertEqual(self.steps(run), [1, 2, 3, 4])
                if resumed_on == 3:
                    shutil.rmtree(next((run / "checkpoints").glob("damaged-*")))
                    self.same_bytes(run, self.left_alone(self))

    def test_an_error_on_any_rank_keeps_all_from_committing(self):
        for point, victim in (("save.part@1:4=enospc", 1), ("save.write@2:30=eio", 2), ("save.vote@1:2=eio", 1),
                              ("save.manifest@0:2=eio", 0)):
            with self.subTest(point):
                folder = self.fresh()
                results = ranks_run.run(BINARY, 3, "train", "tiny.toml", *self.sets({}), cwd=folder, fault=point)
                codes = [75, 75, 75]
                codes[victim] = 1
                self.assertEqual([code for code, *_ in results], codes, results)
                for rank in range(3):
                    if rank != victim:
                        self.assertIn(f"rank {victim} failed: runs/tiny/checkpoints/", results[rank][2])
                kept = sorted(path.name for path in (folder / "runs/tiny/checkpoints").iterdir() if path.name != ".lock")
                self.assertTrue(all(name.startswith("step_") for name in kept), kept)
                self.assertLess(len(kept), 4)
                run = self.train(3, {}, folder=folder, resume=True, base=BASE)
                self.same_bytes(run, self.left_alone(self))

    def sets(self, settings):
        return [part for key, value in {**BASE, **settings}.items() for part in ("--set", f"{key}={value}")]

    def test_a_full_disk_may_cost_all_of_them_a_checkpoint_instead_of_the_run(self):
        for settings in ({}, ASYNC):
            run = self.train(3, {**settings, "checkpoint.on_disk_full": "continue"}, fault="save.part@1:4=enospc", base=BASE)
            self.assertEqual(self.steps(run), [1, 3, 4])
            self.assertIn("checkpoint.on_disk_full = continue", (run / "log.txt").read_text())
            self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                             (self.left_alone(self) / "final/ema.safetensors").read_bytes())

    def test_a_thread_writes_the_same_bytes(self):
        self.same_bytes(self.train(3, ASYNC, base=BASE), self.left_alone(self))
        self.same_bytes(self.train(equality_test.ONE_PROCESS, ASYNC, base=BASE),
                        self.train(equality_test.ONE_PROCESS, {}, base=BASE))

    def test_killed_while_a_thread_writes(self):
        for fault in ("save.write@1:40=kill", "save.manifest@0:2=kill", "save.fsync@2:5=kill", "save.vote@1:3=kill"):
            with self.subTest(fault):
                folder = self.fresh()
                self.train(3, ASYNC, folder=folder, fault=fault, code=None, base=BASE)
                self.assertFalse((folder / "runs/tiny/final").exists())
                self.same_bytes(self.train(3, ASYNC, folder=folder, resume=True, base=BASE), self.left_alone(self))

    def test_a_threads_error_ends_the_run_at_the_next_step(self):
        folder = self.fresh()
        results = ranks_run.run(BINARY, 2, "train", "tiny.toml", *self.sets(ASYNC), cwd=folder, fault="save.part@1:1=eio")
        self.assertEqual([code for code, *_ in results], [75, 1], results)
        self.assertFalse((folder / "runs/tiny/final").exists())
        rows = tiny_run.metrics_of(folder / "runs/tiny")
        self.assertLessEqual(rows[-1]["step"], 2)

    def test_a_stop_ends_with_a_committed_checkpoint(self):
        folder, results = self.interrupted({**ASYNC, "run.num_steps": 4}, 2, 1, "rollout.begin@1:3", signal.SIGTERM)
        self.assertEqual([code for code, *_ in results], [130, 130], results)
        run = folder / "runs/tiny"
        self.assertEqual(self.steps(run), [1, 2])
        self.assertFalse(list((run / "checkpoints").glob(".tmp-*")))

    def test_the_other_commands_read_it_in_one_process(self):
        folder = self.copy()
        for raw in ((), ("--raw",), ("--dtype", "bfloat16")):
            out = folder / f"model{len(raw)}{raw[-1:]}"
            result = tiny_run.run(BINARY, "export", "--run", "runs/tiny", "--out", out, *raw, cwd=folder)
            self.assertEqual(result.returncode, 0, result.stderr)
            if not raw:
                self.assertEqual(ranks_run.tensors_in(out / "ema.safetensors"),
                                 ranks_run.tensors_in(folder / "runs/tiny/final/ema.safetensors"))
        shown = tiny_run.run(BINARY, "inspect", "runs/tiny/checkpoints/step_000004", cwd=folder)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertRegex(shown.stdout, r"checkpoint after 4 steps, \S+ \S+ of 3 ranks, all files as its manifest says")
        whole = self.train(equality_test.ONE_PROCESS, {}, base=BASE)
        facts = [json.loads(tiny_run.run(BINARY, "inspect", "--json", path / "checkpoints/step_000004", cwd=folder).stdout)
                 for path in (folder / "runs/tiny", whole)]
        self.assertEqual(facts[0]["parts"], facts[1]["parts"])
        self.assertEqual(facts[0]["ranks"], 3)
        self.assertEqual(tiny_run.run(BINARY, "report", "runs/tiny", cwd=folder).returncode, 0)
        (next((folder / "runs/tiny/checkpoints/step_000004").glob("ema.rank_00001*"))).write_bytes(b"")
        damaged = tiny_run.run(BINARY, "export", "--run", "runs/tiny", "--step", 4, "--out", "x", cwd=folder)
        self.assertEqual(damaged.returncode, 2)
        self.assertIn("ema.rank_00001-of-00003.safetensors: has 0 bytes", damaged.stderr)


load_tests = ranks_run.own_tests(Save)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
