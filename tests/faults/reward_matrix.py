"""Bad plugins against the recipe's policies: short runs of `unigrpo train`, each with a reward that does one kind of harm to one
sample (tests/plugins/hostile.cpp), under each reward.on_error.

usage: reward_matrix.py UNIGRPO DATA PLUGINS [--cases NAME,...] [--policies NAME,...]
    UNIGRPO: the binary; DATA: tests/data; PLUGINS: the folder of hostile.so and hostile_abi.so

Of every run it is checked that it ends as its policy says, that the failed sample is named with reward, prompt and cause, and that
no process is left. A run that goes on has the weights, metrics and samples of one whose reward merely said "no score" of that
sample: no other score was lost, none was made up, and nothing else changed. One line a run; exit code 1 where one of them failed.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import tiny_run  # noqa: E402

CULPRIT = "0/1"
MARK = f"UNIGRPO_TEST_MARK={os.getpid()}"
POLICIES = ("stop", "drop_sample", "drop_group", "retry")
REFUSED = "refused"  # the run ends before its first step, whatever the policy

# Harm -> part of the cause; "" where no sample is lost.
CASES = {
    "throw std": "no such luck", "throw int": "no std::exception", "hang": "took longer than 1 s",
    "sleep": "took longer than 1 s", "SIGSEGV": "was killed by SIGSEGV", "SIGABRT": "was killed by SIGABRT",
    "exit": "exited with code 0", "_exit": "exited with code 3", "NaN": "the score is nan", "Inf": "the score is inf",
    "wrong count": "gave 2 scores for 1 samples", "out of range": "the score 1e+300", "allocate": "bad_alloc",
    "stack overflow": "was killed by SIGSEGV", "double free": "was killed by SIGABRT", "print": "",
    "close all": "exited with code 1", "ignore SIGTERM": "took longer than 1 s", "locale and folder": "",
    "leave a child": "", "spin": "took longer than 1 s", "crash in the constructor": REFUSED,
    "crash in the destructor": "", "ABI version": REFUSED,
}

TERMS = """[reward]
on_error = "{policy}"
max_dropped = 1.0
[[rewards]]
kind = "saturation"
[[rewards]]
name = "bad"
kind = "plugin"
path = "{path}"
weight = 0.01
timeout_s = {timeout_s}
max_memory_gib = 1.0
[rewards.settings]
do = "{harm}"
on = "{culprit}"
batch_size = 6
"""


def processes_left():
    """Processes that come from a run of ours."""
    left = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if MARK.encode() in (entry / "environ").read_bytes():
                left.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass  # it has just ended
    return left


def differences(folder, reference):
    """Yields what two runs have not in common beside the harm in their recipes and the causes beside their samples."""
    def samples_of(path):
        return [{key: value for key, value in json.loads(line).items() if key != "reasons"}
                for line in path.read_text().splitlines()]

    if tiny_run.metrics_of(folder) != tiny_run.metrics_of(reference):
        yield f"metrics.jsonl is not that of {reference.name}"
    names = tiny_run.files_in(folder)
    if names != tiny_run.files_in(reference):
        yield f"the files are not those of {reference.name}: {set(names) ^ set(tiny_run.files_in(reference))}"
        return
    for name in names:
        if name.endswith("samples.jsonl"):
            same = samples_of(folder / name) == samples_of(reference / name)
        elif name.endswith((".safetensors", ".png")):
            same = (folder / name).read_bytes() == (reference / name).read_bytes()
        else:
            continue
        if not same:
            yield f"{name} is not that of {reference.name}"


class Matrix:
    def __init__(self, home, binary, data, plugins):
        self.home, self.binary, self.plugins = home, binary, plugins
        tiny_run.write_inputs(home, data)
        self.recipe = (home / "tiny.toml").read_text()
        self.references = {}

    def train(self, name, harm, policy):
        plugin = "hostile_abi.so" if harm == "ABI version" else "hostile.so"
        timeout_s = 1 if CASES.get(harm, "").startswith("took longer") else 60
        terms = TERMS.format(policy=policy, path=self.plugins / plugin, harm=harm, culprit=CULPRIT, timeout_s=timeout_s)
        recipe = self.recipe.replace('[[rewards]]\nkind = "saturation"\n', terms)
        assert recipe != self.recipe
        (self.home / f"{name}.toml").write_text(recipe)
        return tiny_run.run(self.binary, "train", f"{name}.toml", "--set", f"run.dir={name}", cwd=self.home)

    def reference(self, policy, lost):
        """The run of a well-behaved reward that has no score for the culprit, or for nobody."""
        key = (policy, lost)
        if key not in self.references:
            name = f"reference_{policy}_{lost}"
            result = self.train(name, "missing" if lost else "", policy)
            assert result.returncode == 0, result.stderr
            self.references[key] = self.home / name
        return self.references[key]

    def problems(self, harm, policy):
        """Yields what is wrong with one run."""
        cause, name = CASES[harm], f"{harm}_{policy}".replace(" ", "_")
        result = self.train(name, harm, policy)
        code = 2 if cause == REFUSED else 1 if cause and policy == "stop" else 0
        if result.returncode != code:
            yield f"exit code {result.returncode}, expected {code}: {result.stderr[-1000:]}"
            return
        if left := processes_left():
            yield f"processes left: {left}"
        folder = self.home / name
        if cause == REFUSED:
            if folder.exists():
                yield "a run folder was made"
            if "reward 'bad': " not in result.stderr or self.plugins.name not in result.stderr:
                yield f"reward and file are not named: {result.stderr}"
            return
        log = (folder / "log.txt").read_text()
        if cause:
            lines = [line for line in log.splitlines() if f"reward 'bad': no score for sample {CULPRIT} (prompt '" in line]
            if not any(cause in line for line in lines):
                yield f"the log does not name sample, prompt and cause: {log[-1000:]}"
        if "sha-256" not in log.lower():
            yield "the log does not have the plugin's SHA-256"
        if code == 1:
            if CULPRIT not in result.stderr or cause not in result.stderr:
                yield f"sample and cause are not named: {result.stderr[-1000:]}"
            return
        yield from differences(folder, self.reference(policy, bool(cause)))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("data", type=os.path.abspath)
    parser.add_argument("plugins", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--policies", default=",".join(POLICIES))
    options = parser.parse_args()
    os.environ["UNIGRPO_TEST_MARK"] = str(os.getpid())
    # Under a sanitizer a worker must die of its signal as it does without one.
    os.environ["ASAN_OPTIONS"] = f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0:handle_abort=0:handle_sigfpe=0:handle_sigill=0"
    failed = total = 0
    with tempfile.TemporaryDirectory(prefix="unigrpo-matrix-") as holder:
        matrix = Matrix(pathlib.Path(holder), options.binary, options.data, options.plugins)
        for harm in options.cases.split(","):
            for policy in options.policies.split(","):
                start = time.monotonic()
                problems = list(matrix.problems(harm, policy))
                total, failed = total + 1, failed + bool(problems)
                print(f"{'FAILED' if problems else 'ok':<6} {harm:<26} {policy:<12} {time.monotonic() - start:6.1f} s", flush=True)
                for problem in problems:
                    print(f"       {problem}")
    print(f"{total - failed} of {total} as their policy says")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
