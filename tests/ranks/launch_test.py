"""`unigrpo launch`: ranks of one machine that start, stop, fail and start again together.

usage: launch_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import launch_run  # noqa: E402
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402

SLOW = "rollout.begin:2=delay:1500"  # long enough to look at a run that has begun


class Launch(tiny_case.TinyCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.fresh("reference")
        code, _, err = launch_run.run(cls.binary, 2, "train", "tiny.toml", cwd=cls.reference)
        assert code == 0, err
        cls.stderr = err

    def setUp(self):
        self.folder = None

    def tearDown(self):
        if self.folder:
            left = launch_run.wait_until_gone(launch_run.processes_in(self.folder), 2)
            launch_run.kill_all(left)
            self.assertEqual(left, [], "processes are left")

    def new(self):
        self.folder = self.fresh(self.id().rpartition(".")[2])
        return self.folder

    def run_folder(self):
        return self.folder / "runs/tiny"

    def same_as_reference(self):
        """Reports of an earlier life's end apart."""
        shutil.rmtree(self.run_folder() / "hang", ignore_errors=True)
        self.assertEqual(list(tiny_run.differences(self.run_folder(), self.reference / "runs/tiny")), [])

    def test_lines_are_told_apart_and_the_folder_says_who_is_who(self):
        lines = self.stderr.splitlines()
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, r"^\[[01]\] ")
        self.folder = self.reference
        ranks = launch_run.ranks_of(self.run_folder())
        self.assertEqual(ranks["world_size"], 2)
        self.assertEqual(ranks["restart"], 0)
        self.assertEqual(ranks["mesh"], {"stages": 1, "data": 2, "shard": 1, "sequence": 1, "tensor": 1})
        self.assertEqual([rank["rank"] for rank in ranks["ranks"]], [0, 1])
        for rank in ranks["ranks"]:
            self.assertEqual(rank["host"], socket.gethostname())
            self.assertEqual(rank["device"], "cpu")
            self.assertGreater(rank["pid"], 1)
        self.assertTrue((self.run_folder() / "log.txt").read_text())
        self.assertTrue((self.run_folder() / "logs/rank_1.txt").exists())

    def test_one_rank_is_one_process(self):
        alone = self.fresh("alone")
        self.assertEqual(tiny_run.run(self.binary, "train", "tiny.toml", cwd=alone).returncode, 0)
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 1, "train", "tiny.toml", cwd=folder)
        self.assertEqual(code, 0, err)
        self.assertEqual(launch_run.ranks_of(self.run_folder())["world_size"], 1)
        (self.run_folder() / "ranks.json").unlink()
        self.assertEqual(list(tiny_run.differences(self.run_folder(), alone / "runs/tiny")), [])

    def test_bad_input_ends_with_two_and_makes_nothing(self):
        folder = self.new()
        for arguments, line in ((["train", "missing.toml"], "missing.toml"),
                                (["train", "tiny.toml", "--set", "grpo.group_size=0"], "grpo.group_size"),
                                (["train", "tiny.toml", "--set", "data.prompts=none.jsonl"], "none.jsonl"),
                                (["train", "tiny.toml", "--no-such-option"], "--no-such-option")):
            code, out, err = launch_run.run(self.binary, 2, *arguments, cwd=folder)
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(line, err)
            self.assertFalse((folder / "runs").exists())

    def test_listens_on_loopback_alone_and_minds_no_garbage(self):
        folder = self.new()
        job = launch_run.start(self.binary, 2, "train", "tiny.toml", cwd=folder, fault=SLOW)
        launch_run.ranks_of(self.run_folder())
        found = launch_run.listening({job.pid} | launch_run.descendants(job.pid))
        self.assertEqual({address for address, _ in found}, {"0100007F"})  # 127.0.0.1
        for rank in launch_run.ranks_of(self.run_folder())["ranks"]:  # or a write to one that is gone would end it
            self.assertTrue(launch_run.ignores(rank["pid"], signal.SIGPIPE))
        for _, port in found:
            for number in range(10):
                with socket.create_connection(("127.0.0.1", port)) as garbage:
                    garbage.sendall(b"GET / HTTP/1.0\r\n\r\n" if number % 2 else b"\xff" * 3000)
        _, err = job.communicate(timeout=tiny_run.TIMEOUT_S)
        self.assertEqual(job.returncode, 0, err)
        self.same_as_reference()

    def test_stderr_goes_to_files_too(self):
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", cwd=folder, options=["--log-dir", "a/b"])
        self.assertEqual(code, 0, err)
        for rank in range(2):
            told = [line[4:] for line in err.splitlines() if line.startswith(f"[{rank}] ")]
            self.assertEqual((folder / f"a/b/rank_{rank}.txt").read_text().splitlines(), told)

    def test_a_folder_for_logs_that_cannot_be_made(self):
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", cwd=folder, options=["--log-dir", "tiny.toml/x"])
        self.assertEqual(code, 2, err)
        self.assertIn("--log-dir: tiny.toml/x: cannot be made", err)

    def test_starts_again_where_it_stood(self):
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", cwd=folder, fault="optim.after@1:3=kill",
                                      options=["--max-restarts", 2])
        self.assertEqual(code, 0, err)
        self.assertIn("launch: rank 1 was killed by SIGKILL\n", err)
        self.assertIn("launch: starting the ranks again (1 of 2)\n", err)
        self.assertEqual(launch_run.ranks_of(self.run_folder())["restart"], 1)
        self.assertIn("rank 1 is lost: its connection closed", err)
        self.same_as_reference()

    def test_gives_up_after_so_many_restarts(self):
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", cwd=folder, fault="rollout.begin@0:1=kill",
                                      options=["--max-restarts", 1])
        self.assertEqual(code, 75, err)
        self.assertEqual(err.count("launch: rank 0 was killed by SIGKILL"), 2)

    def test_a_failure_that_would_repeat_is_not_tried_again(self):
        folder = self.new()
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", cwd=folder, fault="advantage@1:2=throw",
                                      options=["--max-restarts", 3])
        self.assertEqual(code, 1, err)
        self.assertNotIn("starting the ranks again", err)
        self.assertIn("[1] unigrpo: fault point advantage: thrown on request\n", err)
        self.assertIn("rank 1 failed: fault point advantage: thrown on request (step 2, ", err)

    def stop(self, send, again=False):
        folder = self.new()
        job = launch_run.start(self.binary, 2, "train", "tiny.toml", cwd=folder, fault=SLOW)
        launch_run.wait_for_step(self.run_folder(), 1)
        send(job)
        if again:
            time.sleep(0.3)
            send(job)
        _, err = job.communicate(timeout=tiny_run.TIMEOUT_S)
        self.assertEqual(job.returncode, 130, err)
        code, _, err = launch_run.run(self.binary, 2, "train", "tiny.toml", "--resume", cwd=folder)
        self.assertEqual(code, 0, err)
        self.same_as_reference()

    def test_sigterm_to_the_launcher(self):
        self.stop(lambda job: job.send_signal(signal.SIGTERM))

    def test_sigint_to_the_launcher(self):
        self.stop(lambda job: job.send_signal(signal.SIGINT))

    def test_a_second_signal_ends_at_once(self):
        self.stop(lambda job: job.send_signal(signal.SIGINT), again=True)

    def test_sigusr1_to_one_rank(self):
        self.stop(lambda job: os.kill(launch_run.ranks_of(self.run_folder())["ranks"][1]["pid"], signal.SIGUSR1))

    def test_ranks_end_with_a_launcher_that_is_killed(self):
        folder = self.new()
        job = launch_run.start(self.binary, 2, "train", "tiny.toml", cwd=folder, fault="rollout.begin:2=delay:60000")
        launch_run.wait_for_step(self.run_folder(), 1)
        pids = launch_run.descendants(job.pid)
        self.assertGreaterEqual(len(pids), 2)
        os.kill(min(pids), signal.SIGSTOP)  # a stopped one too
        job.kill()
        job.communicate()
        self.assertEqual(launch_run.wait_until_gone(pids, 10), [])

    def test_samples_and_scores_on_ranks(self):
        folder = self.new()
        model = f"{self.data}/bagel_tiny"
        code, out, err = launch_run.run(self.binary, 2, "sample", "--model", model, "--prompt", "a star", "--count", 3,
                                        "--out", "samples", "--max-tokens", 4, "--num-steps", 2, cwd=folder)
        self.assertEqual(code, 0, err)
        self.assertEqual(len((folder / "samples/samples.jsonl").read_text().splitlines()), 3)
        code, out, err = launch_run.run(self.binary, 2, "eval", "--model", model, "--prompts", "prompts.jsonl", "--reward",
                                        "saturation", "--json", "eval.json", "--max-tokens", 4, "--num-steps", 2, cwd=folder)
        self.assertEqual(code, 0, err)
        alone = tiny_run.run(self.binary, "eval", "--model", model, "--prompts", "prompts.jsonl", "--reward", "saturation",
                             "--json", "alone.json", "--max-tokens", 4, "--num-steps", 2, cwd=folder)
        self.assertEqual(alone.returncode, 0, alone.stderr)
        self.assertEqual(out, alone.stdout)
        scores = [json.loads((folder / name).read_text()) for name in ("eval.json", "alone.json")]
        for each in scores:
            del each["seconds"]
        self.assertEqual(*scores)

    def torchrun(self, *options, fault=""):
        """(exit code, stderr)."""
        launch_run.require_torchrun(self)
        job = launch_run.start_torchrun(2, self.binary, "train", "tiny.toml", "--resume", cwd=self.folder, fault=fault,
                                        options=options)
        _, err = job.communicate(timeout=tiny_run.TIMEOUT_S)
        return job.returncode, err

    def test_under_torchrun(self):
        self.new()
        code, err = self.torchrun()
        self.assertEqual(code, 0, err)
        self.same_as_reference()

    def test_torchrun_starts_again(self):
        self.new()
        code, err = self.torchrun("--max-restarts", "1", fault="optim.after@1:3=kill")
        self.assertEqual(code, 0, err)
        self.assertEqual(launch_run.ranks_of(self.run_folder())["restart"], 1)
        self.same_as_reference()

    def test_torchrun_blames_the_rank_that_was_killed(self):
        self.new()
        for fault, exit_code in (("optim.after@1:1=kill", -9), ("advantage@1:1=throw", 1)):
            code, err = self.torchrun(fault=fault)
            self.assertEqual(code, 1, err)
            cause = err.partition("Root Cause")[2]
            self.assertRegex(cause, r"rank +: 1 \(local_rank: 1\)")
            self.assertRegex(cause, rf"exitcode +: {exit_code} ")
            if exit_code == 1:
                self.assertIn("fault point advantage: thrown on request", cause)

    def test_under_srun(self):
        """By the variables that it sets."""
        folder = self.new()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            job = probe.getsockname()[1]  # another one for each test, so another port too
        ranks = []
        for rank in range(2):
            env = {**tiny_run.environment(), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2",
                   "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(job),
                   "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "3"}
            ranks.append(subprocess.Popen([self.binary, "train", "tiny.toml"], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for rank in ranks:
            _, err = rank.communicate(timeout=tiny_run.TIMEOUT_S)
            self.assertEqual(rank.returncode, 0, err)
        self.assertEqual(launch_run.ranks_of(self.run_folder())["restart"], 3)
        self.same_as_reference()

    def test_a_batch_script_is_one_process(self):
        folder = self.new()
        env = {**tiny_run.environment(), "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8",
               "SLURM_JOB_ID": "5", "SLURM_STEP_NODELIST": "node[1-2]"}
        result = subprocess.run([self.binary, "train", "tiny.toml"], cwd=folder, env=env, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse((self.run_folder() / "ranks.json").exists())

    def test_variables_that_cannot_be(self):
        folder = self.new()
        for variables, line in (({"RANK": "0"}, "RANK=0, WORLD_SIZE is not set"),
                                ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2"),
                                ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one'"),
                                ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set")):
            for command in (["train", "tiny.toml"], ["sample", "--model", f"{self.data}/bagel_tiny", "--prompt", "x", "--out", "x"]):
                result = subprocess.run([self.binary, *command], cwd=folder, env={**tiny_run.environment(), **variables},
                                        capture_output=True, text=True)
                self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
                self.assertIn(line, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertFalse((folder / "runs").exists())

    def test_other_commands_ignore_the_variables(self):
        env = {**tiny_run.environment(), "RANK": "7", "WORLD_SIZE": "2"}
        for arguments in (["report", "runs/tiny"], ["recipe", "tiny.toml"], ["inspect", "runs/tiny"]):
            result = subprocess.run([self.binary, *arguments], cwd=self.reference, env=env, capture_output=True, text=True)
            self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    tiny_case.main()
