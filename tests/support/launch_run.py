"""Starts the binary under `unigrpo launch`, and looks at what its processes do."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import tiny_run


def start(binary, size, *arguments, cwd, fault="", options=(), env=None):
    """`launch -n size [options] -- arguments`. stderr and stdout are pipes."""
    return subprocess.Popen([binary, "launch", "-n", str(size), *map(str, options), "--", *map(str, arguments)], cwd=cwd,
                            env={**tiny_run.environment(fault), "OMP_WAIT_POLICY": "PASSIVE", **(env or {})},
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            errors="replace")


def run(binary, size, *arguments, **options):
    """(exit code, stdout, stderr)."""
    job = start(binary, size, *arguments, **options)
    try:
        out, err = job.communicate(timeout=tiny_run.TIMEOUT_S)
    finally:
        job.kill()
    return job.returncode, out, err


def require_torchrun(test):
    if importlib.util.find_spec("torch") is None:
        test.skipTest("no torchrun")


def start_torchrun(size, *arguments, cwd, fault="", options=()):
    """`torchrun --standalone --nproc-per-node size [options] arguments`."""
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python",
                             "--nproc-per-node", str(size), *options, *map(str, arguments)], cwd=cwd,
                            env=tiny_run.environment(fault), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, errors="replace")


def ranks_of(run_folder, patience_s=60):
    """ranks.json, once it is there."""
    file = pathlib.Path(run_folder) / "ranks.json"
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            return json.loads(file.read_text())
        except FileNotFoundError:
            time.sleep(0.02)
    raise AssertionError(f"{file} does not appear")


def wait_for_step(run_folder, step, patience_s=120):
    """Until metrics.jsonl has a row of this step."""
    file = pathlib.Path(run_folder) / "metrics.jsonl"
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if file.exists() and f'"step":{step}' in file.read_text().replace(" ", ""):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in {file}")


def state_of(pid):
    """"S", "T", ...; "X" where it is no more."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def ignores(pid, number):
    """Whether a process ignores a signal."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("SigIgn:")[2].split()[0], 16) >> (number - 1) & 1 == 1


def is_alive(pid):
    """Zombies are not."""
    return state_of(pid) not in "ZX"


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(pid):
    """Process ids of all that a process has started, by /proc."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                pass
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new and child not in found}
        found |= new
    return found


def processes_in(folder):
    """Process ids of those that work in a folder."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(pathlib.Path(folder).resolve()) and \
                    is_alive(int(entry.name)):
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


def listening(pids):
    """(address, port) on which these processes listen, the address as /proc/net/tcp and tcp6 write it."""
    inodes = set()
    for pid in pids:
        try:
            for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                link = os.readlink(entry)
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
        except (FileNotFoundError, ProcessLookupError):
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
                address, _, port = fields[1].partition(":")
                found.add((address, int(port, 16)))
    return found


def wait_until_gone(pids, patience_s):
    """Those still alive after so long."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and any(map(is_alive, pids)):
        time.sleep(0.02)
    return [pid for pid in pids if is_alive(pid)]


def kill_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
