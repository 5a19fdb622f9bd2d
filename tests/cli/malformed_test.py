"""Runs every case of tests/data/malformed/manifest.jsonl through `unigrpo inspect --json`.

usage: malformed_test.py UNIGRPO MALFORMED    UNIGRPO: the binary; MALFORMED: the folder with manifest.jsonl

Refused files: exit code 2, one line on stderr that holds the file's name and one of the names expected (and the line
of a prompt file), nothing on stdout. Accepted ones: exit code 0, the contents that the manifest states, nothing on
stderr. All: at most 10 s of processor time, at most 512 MB of memory above what a small valid file takes, and no file written.
Each case runs twice: with the kind found out by the program, and with --as.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MAX_SECONDS = 10   # of processor time, so that a busy machine is no failure
KILL_SECONDS = 90  # a hang
MAX_EXTRA_KIB = 512_000_000 // 1024


def run(command, folder):
    """Runs a command in `folder`; returns (exit code, stdout, stderr, resource usage). Raises TimeoutError."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        timer = concurrent.futures.ThreadPoolExecutor(1)
        waited = timer.submit(os.wait4, process.pid, 0)
        try:
            _, status, usage = waited.result(KILL_SECONDS)
        except concurrent.futures.TimeoutError:
            process.kill()
            waited.result()
            raise
        finally:
            timer.shutdown()
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
        return process.returncode, texts[0], texts[1], usage


def tensors_of(entries):
    return sorted((e["name"], e["dtype"], tuple(e["shape"]), e["sha256"]) for e in entries)


def problems_of_rejection(case, path, code, out, err):
    if code != 2:
        yield f"exit code {code}, expected 2 ({case['rule']})"
    if out:
        yield f"stdout holds {out[:200]!r}"
    if len(err.splitlines()) != 1 or not err.endswith("\n"):
        yield "stderr is not one line"
    # A folder's own name, or a file in it.
    files = [path.name] + ([entry.name for entry in path.iterdir()] if path.is_dir() else [])
    if not any(name in err for name in files):
        yield f"stderr names none of {files}"
    # The path itself may hold the word that the message should.
    message = err.lower().replace(str(path).lower(), "")
    names = [name for name in case["names"] if name not in files]
    if names and not any(name.lower() in message for name in case["names"]):
        yield f"stderr holds none of {case['names']}"
    if "line" in case and f":{case['line']}:" not in err:
        yield f"stderr does not name line {case['line']}"


def problems_of_acceptance(case, code, out, err):
    if code != 0:
        yield f"exit code {code}, expected 0 ({case['rule']})"
        return
    if err:
        yield "stderr is not empty"
    answer = json.loads(out)
    if answer["kind"] != case["class"]:
        yield f"kind {answer['kind']}, expected {case['class']}"
    elif "contents" in case and tensors_of(answer["tensors"]) != tensors_of(case["contents"]):
        yield f"tensors differ: {out[:1000]}"
    elif "probe" in case and answer["ids"] != case["probe"]["ids"]:
        yield f"ids {answer['ids']}, expected {case['probe']['ids']}"
    elif "rows" in case and answer["rows"] != case["rows"]:
        yield f"rows {answer['rows']}, expected {case['rows']}"


def judge(binary, root, case, explicit, baseline_kib):
    """Returns what is wrong with one case, as lines."""
    path = root / case["path"]
    command = [binary, "inspect", str(path), "--json"]
    if explicit:
        command += ["--as", case["class"]]
    if "probe" in case:
        command += ["--text", case["probe"]["text"]]
    with tempfile.TemporaryDirectory(prefix="unigrpo-malformed-") as folder:
        try:
            code, out, err, usage = run(command, folder)
        except concurrent.futures.TimeoutError:
            return [f"{case['id']}: still running after {KILL_SECONDS} s"]
        problems = list(problems_of_rejection(case, path, code, out, err) if case["expect"] == "reject"
                        else problems_of_acceptance(case, code, out, err))
        extra_kib = usage.ru_maxrss - baseline_kib
        if extra_kib > MAX_EXTRA_KIB:
            problems.append(f"takes {extra_kib // 1024} MiB more than a small valid file")
        if usage.ru_utime + usage.ru_stime > MAX_SECONDS:
            problems.append(f"takes {usage.ru_utime + usage.ru_stime:.1f} s of processor time")
        if os.listdir(folder):
            problems.append(f"wrote {os.listdir(folder)}")
    return [f"{case['id']}: {problem}\n    {err.strip()[:2000]}" for problem in problems]


def snapshot(root):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}


def main():
    binary, root = os.path.abspath(sys.argv[1]), pathlib.Path(os.path.abspath(sys.argv[2]))
    with open(root / "manifest.jsonl", encoding="utf-8") as manifest:
        cases = [json.loads(line) for line in manifest if line.strip()]
    before = snapshot(root)
    smallest = min((c for c in cases if "rows" in c and c["expect"] == "accept"), key=lambda c: c["size"])
    with tempfile.TemporaryDirectory() as folder:
        baseline_kib = run([binary, "inspect", str(root / smallest["path"]), "--json"], folder)[3].ru_maxrss
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(judge, binary, root, case, explicit, baseline_kib)
                for case in cases for explicit in (False, True)]
        problems = [line for job in jobs for line in job.result()]
    if snapshot(root) != before:
        problems.append("the folder of test files was changed")
    for line in problems:
        print(line)
    print(f"{len(jobs)} runs of {len(cases)} cases, {len(problems)} problems, "
          f"a small valid file takes {baseline_kib // 1024} MiB")
    raise SystemExit(1 if problems or not cases else 0)


if __name__ == "__main__":
    main()
