"""Training runs that are judged over HTTP: the scores arrive, and the key is in no file of the run and in no output.

usage: http_judge_run.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SUPPORT = pathlib.Path(__file__).resolve().parent.parent / "support"
sys.path.insert(0, str(SUPPORT))
import tiny_run  # noqa: E402

BINARY = DATA = ""
KEY = "sk-secret-0123456789abcdef"
JUDGE = """
[[rewards]]
name = "judge"
kind = "http"
timeout_s = {timeout_s}
[rewards.http]
url = "http://127.0.0.1:{port}/{mode}"
key_env = "UNIGRPO_TEST_JUDGE_KEY"
batch_size = 2
"""


class HttpJudge(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen([sys.executable, str(SUPPORT / "judge_server.py")], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        cls.port = int(cls.server.stdout.readline())

    @classmethod
    def tearDownClass(cls):
        cls.server.communicate(timeout=60)  # its stdin ends, and with that the server

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="unigrpo-judge-")
        self.addCleanup(holder.cleanup)
        self.home = pathlib.Path(holder.name)
        self.run_folder = self.home / "runs/tiny"

    def start(self, mode, *arguments, timeout_s=60, key=KEY):
        judge = JUDGE.format(port=self.port, mode=mode, timeout_s=timeout_s)
        tiny_run.write_inputs(self.home, DATA, num_steps=2, extra=judge)
        env = tiny_run.environment()
        env.pop("UNIGRPO_TEST_JUDGE_KEY", None)
        if key:
            env["UNIGRPO_TEST_JUDGE_KEY"] = key
        return subprocess.Popen(tiny_run.command(BINARY, "train", "tiny.toml", *arguments), cwd=self.home, env=env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                errors="replace")

    def end(self, process):
        """(exit code, stdout + stderr), without the key anywhere."""
        output = "".join(process.communicate(timeout=tiny_run.TIMEOUT_S))
        self.assertNotIn(KEY, output)
        for path in self.home.rglob("*"):
            if path.is_file():
                self.assertNotIn(KEY.encode(), path.read_bytes(), path)
        return process.returncode, output

    def train(self, mode, *arguments, **options):
        return self.end(self.start(mode, *arguments, **options))

    def test_scores_arrive_and_the_key_stays_out(self):
        code, output = self.train("good")
        self.assertEqual(code, 0, output)
        for row in tiny_run.metrics_of(self.run_folder):
            self.assertEqual(row["reward/judge"], 0.5)  # the prompts end with no number
        self.assertIn("UNIGRPO_TEST_JUDGE_KEY", (self.run_folder / "recipe.toml").read_text())

    def test_a_judge_that_echoes_the_key(self):
        code, output = self.train("echo")
        self.assertEqual(code, 0, output)
        samples = "".join(path.read_text() for path in self.run_folder.rglob("samples.jsonl"))
        self.assertIn("[key]", samples)

    def test_a_judge_that_refuses_the_key(self):
        code, output = self.train("unauthorized")
        self.assertEqual(code, 1, output)
        self.assertIn("6 of 6 samples have no reward", output.splitlines()[-1])
        code, output = self.train("unauthorized", "--set", "reward.on_error=stop", "--set", "run.name=stop")
        self.assertEqual(code, 1, output)
        self.assertIn("status 401", output.splitlines()[-1])

    def test_a_judge_that_is_busy_now_and_then(self):
        code, output = self.train("some_fail")
        self.assertEqual(code, 0, output)
        self.assertEqual([row["reward/dropped"] for row in tiny_run.metrics_of(self.run_folder)], [0, 0])

    def test_a_key_that_is_not_set(self):
        code, output = self.train("good", key="")
        self.assertEqual(code, 2, output)
        self.assertIn("UNIGRPO_TEST_JUDGE_KEY", output)
        self.assertFalse(self.run_folder.exists())

    def test_a_judge_that_never_answers(self):
        begin = time.monotonic()
        code, output = self.train("never", timeout_s=2)
        self.assertEqual(code, 1, output)
        self.assertIn("have no reward", output.splitlines()[-1])
        self.assertLess(time.monotonic() - begin, 60)

    def test_a_signal_while_the_judge_is_waited_for(self):
        process = self.start("never/0", timeout_s=600)
        time.sleep(10)  # a rollout takes one
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, output = self.end(process)
        self.assertEqual(code, 130, output)
        self.assertLess(time.monotonic() - begin, 20)


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)
