"""Asks a training run to stop: it leaves with exit code 130 and a checkpoint, and goes on as if nothing had been.

usage: signal_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402


class Signals(tiny_case.TinyCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.fresh("reference")
        result = tiny_run.run(cls.binary, "train", "tiny.toml", cwd=cls.reference)
        assert result.returncode == 0, result.stderr

    @classmethod
    def fresh(cls, name):
        folder = super().fresh(name)
        # Checkpoints only at the end, so that the one found is the signal's.
        recipe = (folder / "tiny.toml").read_text()
        (folder / "tiny.toml").write_text(recipe.replace("every = 1\nkeep_last = 2", "every = 0\nkeep_last = 1"))
        return folder

    def interrupted(self, folder, point, signals, also=""):
        """Stands still at `point`, gets `signals` and goes on. `also`: a further fault. Returns (exit code, stderr)."""
        process = subprocess.Popen(tiny_run.command(self.binary, "train", "tiny.toml"), cwd=folder,
                                   env=tiny_run.environment(",".join(filter(None, [f"{point}=stop", also]))), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status), f"{point} was not reached")
        for number in signals:
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=tiny_run.TIMEOUT_S)
        return process.returncode, stderr

    def check(self, name, point, number, finished_steps):
        folder = self.fresh(name)
        code, stderr = self.interrupted(folder, point, [number])
        self.assertEqual(code, 130, stderr)
        steps = [path.name for path in (folder / "runs/tiny/checkpoints").iterdir() if path.name != ".lock"]
        self.assertEqual(steps, [f"step_{finished_steps:06}"])
        self.assertIn(number.name, (folder / "runs/tiny/log.txt").read_text())
        self.assertEqual([row["step"] for row in tiny_run.metrics_of(folder / "runs/tiny")],
                         list(range(1, finished_steps + 1)))
        self.assertFalse((folder / "runs/tiny/final").exists())
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.reference / "runs/tiny")), [])

    def test_in_a_rollout_the_step_is_dropped(self):
        self.check("rollout", "rollout.begin:3", signal.SIGTERM, 2)

    def check_at_once(self, name, point, hit, finished_steps, change=lambda recipe: recipe):
        """Stopped at the hit-th pass of `point`, the run does not come to the next; resumed, it ends as one left alone.

        `change`: of the recipe, for both."""
        folders = []
        for kind in ("left-alone", "stopped"):
            folders.append(self.fresh(f"{name}-{kind}"))
            recipe = folders[-1] / "tiny.toml"
            recipe.write_text(change(recipe.read_text()))
        reference, folder = folders
        result = tiny_run.run(self.binary, "train", "tiny.toml", cwd=reference)
        self.assertEqual(result.returncode, 0, result.stderr)
        code, stderr = self.interrupted(folder, f"{point}:{hit}", [signal.SIGTERM], f"{point}:{hit + 1}=kill")
        self.assertEqual(code, 130, stderr)
        steps = [path.name for path in (folder / "runs/tiny/checkpoints").iterdir() if path.name != ".lock"]
        self.assertEqual(steps, [f"step_{finished_steps:06}"])
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", reference / "runs/tiny")), [])

    def test_in_a_text_no_further_token_is_decoded(self):
        self.check_at_once("decode", "rollout.decode_step", 3, 0)

    def test_in_an_image_no_further_step_is_denoised(self):
        self.check_at_once("denoise", "rollout.denoising_step", 2, 0)

    def test_in_a_forward_no_further_layer_is_run(self):
        self.check_at_once("layer", "policy.layer", 2, 0)

    def cut_short(self, arguments, point, folder, number=signal.SIGTERM):
        """The stderr of a command that is asked to stop at `point`."""
        process = subprocess.Popen(tiny_run.command(self.binary, *arguments), cwd=folder, env=tiny_run.environment(f"{point}=stop"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status), f"{point} was not reached")
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=tiny_run.TIMEOUT_S)
        self.assertEqual(process.returncode, 130, stderr)
        return stderr

    def test_commands_that_sample_end_with_one_line_and_leave_nothing(self):
        folder = self.fresh("commands")
        model = f"{self.data}/bagel_tiny"
        evaluate = ["eval", "--model", model, "--prompts", "prompts.jsonl", "--num-steps", 3, "--max-tokens", 4, "--json", "e.json",
                    "--out", "out"]
        sample = ["sample", "--model", model, "--prompt", "a", "--num-steps", 3, "--max-tokens", 4, "--image-size", 64, "--out", "out"]
        before = sorted(os.listdir(folder))
        for arguments, point in ((evaluate, "eval.batch"), (evaluate, "rollout.decode_step:2"), (evaluate, "policy.layer:3"),
                                 (sample, "rollout.denoising_step:2"), (sample, "policy.layer:3")):
            for number in (signal.SIGTERM, signal.SIGINT):
                with self.subTest(command=arguments[0], point=point, signal=number.name):
                    stderr = self.cut_short(arguments, point, folder, number)
                    self.assertEqual(stderr, f"unigrpo: {number.name}: stopped before it was done\n")
                    self.assertEqual(sorted(os.listdir(folder)), before)

    def test_an_export_ends_with_one_line_and_leaves_nothing(self):
        run = self.reference / "runs/tiny"
        folder = self.fresh("export")
        before = sorted(os.listdir(folder))
        for point in ("load.file", "save.write:1"):
            with self.subTest(point):
                stderr = self.cut_short(["export", "--run", run, "--out", "exported"], point, folder)
                self.assertEqual(stderr, "unigrpo: SIGTERM: stopped before it was done\n")
                self.assertEqual(sorted(os.listdir(folder)), before)

    def test_in_an_evaluation_no_further_token_is_decoded(self):
        self.check_at_once("evaluated", "rollout.decode_step", 2, 0,
                           lambda recipe: recipe + "\n[eval]\nprompts = \"prompts.jsonl\"\n")

    def test_in_an_update_no_further_micro_batch_is_begun(self):
        small = lambda recipe: recipe.replace("group_size = 3", "group_size = 3\nmicro_batch_tokens = 60")  # noqa: E731
        self.check_at_once("micro", "update.micro_batch", 2, 0, small)

    def test_in_the_second_mini_batch_the_first_is_taken_back(self):
        def several(recipe):
            recipe = recipe.replace("group_size = 3", "group_size = 3\nmicro_batch_tokens = 60\nnum_minibatches = 2")
            return recipe.replace("[rollout.window]", "[monitor.drift]\nevery = 1\n[rollout.window]")
        passes = 6  # micro-batches of one sample
        self.check_at_once("mini", "update.micro_batch", passes + passes - 1, 1, several)

    def test_in_an_update_whose_last_micro_batch_is_done_the_step_is_finished(self):
        self.check("update", "optim.before:2", signal.SIGINT, 2)

    def test_in_the_last_evaluation(self):
        folder = self.fresh("evaluation")
        evaluation = "\n[eval]\nprompts = \"prompts.jsonl\"\n"
        (folder / "tiny.toml").write_text((folder / "tiny.toml").read_text() + evaluation)
        code, stderr = self.interrupted(folder, "eval.batch:2", [signal.SIGTERM])  # the first is the base's
        self.assertEqual(code, 130, stderr)
        run = folder / "runs/tiny"
        self.assertTrue((run / "eval_before.json").exists())
        self.assertFalse((run / "eval_after.json").exists() or (run / "final").exists())
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertTrue((run / "eval_after.json").exists() and (run / "final").exists())
        self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                         (self.reference / "runs/tiny/final/ema.safetensors").read_bytes())

    def test_in_an_evaluation_the_row_waits_for_it(self):
        evaluation = "\n[eval]\nprompts = \"prompts.jsonl\"\nevery = 2\n"
        folder, whole = self.fresh("waits"), self.fresh("whole")
        for home in (folder, whole):
            (home / "tiny.toml").write_text((home / "tiny.toml").read_text() + evaluation)
        result = tiny_run.run(self.binary, "train", "tiny.toml", cwd=whole)
        self.assertEqual(result.returncode, 0, result.stderr)
        code, stderr = self.interrupted(folder, "eval.batch:2", [signal.SIGTERM])  # after step 2
        self.assertEqual(code, 130, stderr)
        run = folder / "runs/tiny"
        self.assertEqual([row["step"] for row in tiny_run.metrics_of(run)], [0, 1])
        self.assertTrue((run / "checkpoints/step_000002").exists())
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(list(tiny_run.differences(run, whole / "runs/tiny")), [])
        self.assertIn("eval/strict", tiny_run.metrics_of(run)[2])

    def test_in_the_last_steps_evaluation_and_then_for_more_steps(self):
        evaluation = "\n[eval]\nprompts = \"prompts.jsonl\"\nevery = 2\n"
        folder, whole, more = self.fresh("last"), self.fresh("straight"), ("--set", "run.num_steps=6")
        for home in (folder, whole):
            (home / "tiny.toml").write_text((home / "tiny.toml").read_text() + evaluation)
        code, stderr = self.interrupted(folder, "eval.batch:3", [signal.SIGTERM])  # after step 4
        self.assertEqual(code, 130, stderr)
        for home, arguments in ((folder, ["--resume"]), (folder, ["--resume", *more]), (whole, more)):
            result = tiny_run.run(self.binary, "train", "tiny.toml", *arguments, cwd=home)
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", whole / "runs/tiny")), [])

    def test_before_the_first_step(self):
        self.check("first", "rollout.begin:1", signal.SIGUSR1, 0)

    def test_a_second_signal_ends_at_once_and_loses_nothing_that_was_saved(self):
        folder = self.fresh("twice")
        code, stderr = self.interrupted(folder, "rollout.begin:2", [signal.SIGTERM, signal.SIGINT])
        self.assertEqual(code, 130, stderr)
        resumed = tiny_run.run(self.binary, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", self.reference / "runs/tiny")), [])


if __name__ == "__main__":
    tiny_case.main()
