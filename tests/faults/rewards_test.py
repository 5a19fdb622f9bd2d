"""Rewards that misbehave, against whole runs: a signal while one hangs, a plugin's file that goes, a judge that is dead,
what must be on disk when a run ends, and what must be nowhere.

usage: rewards_test.py UNIGRPO DATA PLUGINS
    UNIGRPO: the binary; DATA: tests/data; PLUGINS: the folder of hostile.so and bare.so
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SUPPORT = pathlib.Path(__file__).resolve().parent.parent / "support"
sys.path.insert(0, str(SUPPORT))
import tiny_run  # noqa: E402

BINARY = DATA = PLUGINS = ""
# Judging may take two seconds to end; the rest is this machine's: a checkpoint, and tests beside this one.
PATIENCE_S = float(os.environ.get("UNIGRPO_TEST_PATIENCE_S", "2"))

PLUGIN = """
[[{table}]]
name = "{name}"
kind = "plugin"
path = "{path}"
isolate = "{isolate}"
timeout_s = 60
[{table}.settings]
do = "{harm}"
on = "{on}"
"""


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Rewards(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen([sys.executable, str(SUPPORT / "judge_server.py")], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        cls.url = f"http://127.0.0.1:{int(cls.server.stdout.readline())}"

    @classmethod
    def tearDownClass(cls):
        cls.server.communicate(timeout=60)

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="unigrpo-rewards-")
        self.addCleanup(holder.cleanup)
        self.home = pathlib.Path(holder.name)
        self.home.chmod(0o700)
        self.run_folder = self.home / "runs/tiny"

    def write(self, extra="", num_steps=2):
        tiny_run.write_inputs(self.home, DATA, num_steps=num_steps, extra=extra)

    def plugin(self, harm, on="", isolate="process", table="rewards", name="bad", path=None):
        return PLUGIN.format(table=table, name=name, path=path or PLUGINS / "hostile.so", isolate=isolate, harm=harm,
                             on=on)

    def unigrpo(self, *arguments):
        return tiny_run.run(BINARY, *arguments, cwd=self.home)

    def start(self, *arguments, fault=""):
        process = subprocess.Popen(tiny_run.command(BINARY, *arguments), cwd=self.home,
                                   env=tiny_run.environment(fault), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        self.addCleanup(process.kill)
        return process

    def interrupt(self, process, seconds=PATIENCE_S):
        """Sends SIGTERM; the process must end with 130 in time. Returns what it wrote."""
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output = "".join(process.communicate(timeout=tiny_run.TIMEOUT_S))
        self.assertLess(time.monotonic() - begin, seconds, output)
        self.assertEqual(process.returncode, 130, output)
        return output

    def wait_for(self, path, text, process):
        """Until `text` stands in the file."""
        while not (path.exists() and text in path.read_text(errors="replace")):
            self.assertIsNone(process.poll(), "it has ended: " + (process.stderr.read() if process.poll() else ""))
            time.sleep(0.02)

    # ---- a signal, whatever a reward does

    def test_a_signal_while_a_plugin_hangs_in_a_run(self):
        for isolate in ("process", "none"):
            for harm in ("hang", "sleep"):
                name = f"{harm}_{isolate}"
                self.write(self.plugin(harm, isolate=isolate))
                process = self.start("train", "tiny.toml", "--set", f"run.name={name}")
                self.wait_for(self.home / f"runs/{name}/log.txt", "reward 'bad': ", process)
                time.sleep(0.2)  # from its introduction to its first call
                self.interrupt(process)
                self.assertTrue((self.home / f"runs/{name}/checkpoints/step_000000").exists())

    def test_a_signal_while_a_plugin_hangs_at_the_start(self):
        self.write(self.plugin("hang in the constructor"))
        process = self.start("train", "tiny.toml")
        time.sleep(3)
        self.interrupt(process)
        self.assertFalse(self.run_folder.exists())

    def test_a_signal_while_samples_are_scored(self):
        self.samples()
        for isolate in ("process", "none"):
            for harm in ("hang", "hang in the constructor"):
                process = self.start("reward", "--plugin", PLUGINS / "hostile.so", "--samples", "out", "--isolate",
                                     isolate, "--set", f"do={harm}")
                time.sleep(1)
                self.interrupt(process)

    def test_a_signal_while_a_plugin_hangs_in_an_evaluation(self):
        self.write()
        before = sorted(os.listdir(self.home))
        for isolate in ("process", "none"):
            (self.home / "judges.toml").write_text(self.plugin("hang", isolate=isolate, table="eval.rewards"))
            process = self.start("eval", "--model", DATA / "bagel_tiny", "--prompts", "prompts.jsonl", "--recipe", "judges.toml",
                                 "--steps", "2", "--max-tokens", "4", "--image-size", "64", "--json", "e.json", "--out", "pictures")
            self.assertTrue(process.stdout.readline().startswith("settings: "))  # the model is there
            time.sleep(1)  # to sample four prompts
            tasks = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
            workers = [worker for task in tasks for worker in task.read_text().split()]
            self.assertEqual(len(workers), isolate == "process")
            self.assertTrue(self.interrupt(process).endswith("unigrpo: SIGTERM: stopped before it was done\n"))
            for worker in workers:
                self.assertFalse(pathlib.Path(f"/proc/{worker}").exists())
            (self.home / "judges.toml").unlink()
            self.assertEqual(sorted(os.listdir(self.home)), before)

    # ---- what an exception says

    def samples(self, count=6):
        folder = self.home / "out"
        folder.mkdir(exist_ok=True)
        rows = [{"id": f"{n // 3}/{n % 3}", "prompt": "a star",
                 "segments": [{"type": "text", "text": "one star", "num_tokens": 2, "finished": True}]}
                for n in range(count)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def test_an_exception_whose_text_is_not_utf8(self):
        self.samples()
        for isolate in ("process", "none"):
            result = self.unigrpo("reward", "--plugin", PLUGINS / "hostile.so", "--samples", "out", "--isolate", isolate,
                                  "--set", "do=throw no UTF-8", "--set", "on=1/1", "--json", "scores.json")
            self.assertEqual(result.returncode, 0, result.stderr)
            scores = json.loads((self.home / "scores.json").read_text())["scores"]
            self.assertEqual([row["score"] is None for row in scores], [n == 4 for n in range(6)])
            self.assertEqual(scores[4]["reason"], "\N{REPLACEMENT CHARACTER}chec")

    # ---- the file that a run began with

    def test_a_plugin_whose_file_goes_during_a_run(self):
        self.write()
        before = (self.home / "tiny.toml").read_text()
        for how in ("replaced", "written over", "removed"):
            name = how.replace(" ", "_")
            file = self.home / f"{name}.so"
            shutil.copy(PLUGINS / "bare.so", file)  # gives 1 and 2 whatever the sample
            file.chmod(0o700)
            held = "\n[eval]\nprompts = \"prompts.jsonl\"\nevery = 1\n" + self.plugin("", path=file, table="eval.rewards", name="held")
            (self.home / "tiny.toml").write_text(before + self.plugin("", path=file) + held)
            process = self.start("train", "tiny.toml", "--set", f"run.name={name}", fault="rollout.begin:1=stop")
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            self.assertTrue(os.WIFSTOPPED(status))
            if how == "replaced":
                other = self.home / "other"
                shutil.copy(PLUGINS / "hostile.so", other)
                other.replace(file)
            elif how == "written over":
                file.write_bytes((PLUGINS / "hostile.so").read_bytes())
            else:
                file.unlink()
            process.send_signal(signal.SIGCONT)
            output = "".join(process.communicate(timeout=tiny_run.TIMEOUT_S))
            self.assertEqual(process.returncode, 0, output)
            folder = self.home / "runs" / name
            self.assertEqual([row["reward/bad"] for row in tiny_run.metrics_of(folder) if row["step"] > 0], [1, 1], how)
            evaluations = [json.loads(path.read_text()) for path in sorted(folder.glob("eval*.json"))]
            self.assertGreaterEqual(len(evaluations), 2, how)
            self.assertEqual({result["rewards"]["held"] for result in evaluations}, {1.0}, how)

    # ---- judges that are dead, and passwords

    def judge(self, url, table="rewards"):
        return f'\n[[{table}]]\nname = "judge"\nkind = "http"\ntimeout_s = 3\n[{table}.http]\nurl = "{url}"\n'

    def test_a_dead_judge_is_found_before_the_first_rollout(self):
        dead = f"http://127.0.0.1:{unused_port()}/score"
        evaluation = '\n[eval]\nprompts = "prompts.jsonl"\n'
        for extra in (self.judge(dead), evaluation + self.judge(dead, "eval.rewards")):
            self.write(extra)
            result = self.unigrpo("train", "tiny.toml")
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
            self.assertIn(f"reward 'judge': http.url: nobody answers at {dead}: 'Failed to connect", result.stderr)
            self.assertIn("http.probe = false", result.stderr)
            self.assertFalse(self.run_folder.exists())
        self.write(self.judge(dead) + "probe = false\n")
        result = self.unigrpo("train", "tiny.toml")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("have no reward", result.stderr.splitlines()[-1])

    def test_what_failed_is_on_disk_where_the_run_stops(self):
        self.write('\n[reward]\non_error = "stop"\n' + self.plugin("throw std", on="0/1"))
        result = self.unigrpo("train", "tiny.toml")
        self.assertEqual(result.returncode, 1, result.stderr)
        files = list((self.run_folder / "failures").iterdir())
        self.assertEqual(len(files), 1)
        rows = [json.loads(line) for line in files[0].read_text().splitlines()]
        self.assertEqual([(row["reward"], row["sample"], row["reason"]) for row in rows],
                         [("bad", "0/1", "no such luck")])

    def test_a_judge_that_never_answers_is_asked_as_often_as_one_breaker_lets_it(self):
        url = f"{self.url}/never/0/breaker"
        self.write(self.judge(url).replace("timeout_s = 3", "timeout_s = 1") + "max_concurrent = 3\nbatch_size = 1\n")
        result = self.unigrpo("train", "tiny.toml", "--set", "grpo.prompts_per_step=4", "--set", "grpo.group_size=6")
        self.assertEqual(result.returncode, 1, result.stderr)
        import urllib.request
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(json.load(answer)["requests"], 3)

    def test_a_password_is_shown_nowhere(self):
        address = "http://user:s3cret@127.0.0.1:1/"
        self.write(self.judge(address))
        for command in (["train", "tiny.toml"], ["recipe", "tiny.toml"], ["train", "tiny.toml", "--dry-run"],
                        ["reward", "--recipe", "tiny.toml", "--samples", "out"],
                        ["train", "tiny.toml", "--unknown", address],
                        ["train", "tiny.toml", "--set", f"rewards.1.http.url={address}"]):
            result = self.unigrpo(*command)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertNotIn("s3cret", result.stdout + result.stderr)
        self.assertFalse((self.home / "runs").exists())

    # ---- every kind of reward, without a run

    def test_reward_scores_by_all_terms_of_a_recipe(self):
        self.write(num_steps=1)
        result = self.unigrpo("eval", "--model", DATA / "bagel_tiny", "--prompts", "prompts.jsonl", "--out", "out",
                              "--steps", "2")
        self.assertEqual(result.returncode, 0, result.stderr)
        terms = (self.judge(self.url + "/good") + self.plugin("") + '\n[[rewards]]\nkind = "geneval"\n'
                 f'[[rewards]]\nkind = "clip_score"\nmodel = "{DATA}/clip_tiny"\n')
        (self.home / "terms.toml").write_text(terms)
        result = self.unigrpo("reward", "--recipe", "terms.toml", "--samples", "out", "--json", "scores.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        scores = json.loads((self.home / "scores.json").read_text())
        self.assertEqual(set(scores["rewards"]), {"judge", "judge_length", "bad", "geneval", "geneval_soft",
                                                  "geneval_strict", "clip_score", "clip_score_cosine"})
        self.assertEqual(scores["rewards"]["judge"]["mean"], 0.5)
        self.assertEqual(len(scores["scores"]), 4)
        for row in scores["scores"]:
            self.assertEqual(set(row["rewards"]), {"judge", "bad", "geneval", "clip_score"})
        self.assertIn("4 of 4 samples scored", result.stdout)

    def test_eval_scores_by_the_judges_of_a_recipe(self):
        self.write(num_steps=1)
        arguments = ["eval", "--model", DATA / "bagel_tiny", "--steps", "2", "--recipe", "judges.toml", "--json", "e.json"]
        (self.home / "judges.toml").write_text('[eval]\nprompts = "prompts.jsonl"\n' + self.judge(self.url + "/good",
                                                                                                  "eval.rewards"))
        result = self.unigrpo(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads((self.home / "e.json").read_text())["rewards"]["judge"], 0.5)
        (self.home / "judges.toml").write_text(self.judge(self.url + "/good"))
        result = self.unigrpo(*arguments)
        self.assertEqual((result.returncode, result.stderr),
                         (2, "unigrpo: --prompts is required; see `unigrpo eval --help`\n"))
        result = self.unigrpo(*arguments, "--prompts", "prompts.jsonl", "--reward", "jpeg")
        self.assertEqual(result.returncode, 2, result.stderr)

    def test_eval_picks_its_reward_by_what_the_rows_hold(self):
        arguments = ["eval", "--model", DATA / "bagel_tiny", "--steps", "2", "--prompts", "rows.jsonl", "--json", "e.json"]
        cases = [({"include": [{"class": "circle", "count": 1}]}, "geneval"),
                 ({"metadata": {"answer": "two"}}, "answer")]
        for row, reward in cases:
            (self.home / "rows.jsonl").write_text(json.dumps({"prompt": "a star"} | row) + "\n")
            result = self.unigrpo(*arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(json.loads((self.home / "e.json").read_text())["reward"], reward)
        (self.home / "rows.jsonl").write_text('{"prompt": "a star"}\n')
        result = self.unigrpo(*arguments)
        self.assertEqual(result.returncode, 2)
        self.assertIn("rows.jsonl:1: no reward goes by itself with this row", result.stderr)

    def test_photographs_are_not_judged_by_colour(self):
        self.write('\n[[rewards]]\nkind = "geneval"\n')
        with open(self.home / "prompts.jsonl", "a") as file:
            file.write(json.dumps({"prompt": "a bench", "include": [{"class": "bench", "count": 1}]}) + "\n")
        result = self.unigrpo("train", "tiny.toml")
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("prompts.jsonl:5: reward 'geneval' cannot judge this row: 'include' entry 0: detector = \"color\" "
                      "finds circle, square, triangle, star", result.stderr)
        self.assertIn("no 'bench'; detector = \"http\" asks one that does", result.stderr)
        self.assertFalse(self.run_folder.exists())


if __name__ == "__main__":
    BINARY, DATA = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    PLUGINS = pathlib.Path(sys.argv[3]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=1)
