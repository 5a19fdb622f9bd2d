"""Kills or stops a random rank at a random moment, many times, and resumes each run to its end.

usage: ranks_kills.py UNIGRPO DATA [--kills N] [--stops N] [--torchrun N] [--ranks N] [--seed N]

Each time the other ranks must be gone within seconds with 75 and a line that names the rank and what it was doing, no
process may be left, no committed step may be lost, and the resumed run must end with the bytes of one left alone.
--torchrun: kills so many ranks under a torchrun, which must name each as the root cause.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import launch_run  # noqa: E402
import ranks_case  # noqa: E402
import ranks_run  # noqa: E402
import tiny_run  # noqa: E402

SAYS = re.compile(r"rank (\d+) is lost: .* \(step \d+, \w+")


def committed(folder):
    return {path.name for path in (folder / "runs/tiny/checkpoints").glob("step_*")}


def once(runs, number, size, signum, length_s, chance):
    """[problem] of one run that loses a rank; None where it was over before."""
    victim, delay_s = chance.randrange(size), chance.uniform(0.3, length_s)
    folder = runs.fresh(f"{signum}-{number}")
    ranks = runs.start(size, folder)
    time.sleep(delay_s)
    if any(rank.poll() is not None for rank in ranks):
        ranks_run.finish(ranks)
        shutil.rmtree(folder)
        return None
    met = (folder / "runs/tiny/ranks.json").exists()
    before = committed(folder)
    os.kill(ranks[victim].pid, signum)
    within_s = ranks_case.WITHIN_S if signum == signal.SIGKILL else ranks_case.STEP_TIMEOUT_S + 6
    problems, errors = runs.ends_of_the_others(ranks, victim, folder, within_s)
    if all(ranks[rank].returncode == 0 for rank in range(size) if rank != victim):
        shutil.rmtree(folder)
        return None  # it had said goodbye
    # In the end's own barrier some may be through when another is lost.
    done = {rank for rank in range(size) if ranks[rank].returncode == 0 and (folder / "runs/tiny/final").exists()}
    problems = [problem for problem in problems if not any(problem.startswith(f"rank {rank} ended with 0") for rank in done)]
    for rank, text in errors.items():
        if rank in done:
            continue
        said = SAYS.search(text)
        if rank != victim and met and (not said or int(said[1]) != victim):
            problems.append(f"rank {rank} does not name rank {victim}: {text[-300:]}")
    if before and not committed(folder):
        problems.append(f"committed steps are lost: {before}")
    problems += runs.problems_after_resuming(folder, size)
    shutil.rmtree(folder)
    return [f"rank {victim} after {delay_s:.2f} s: {problem}" for problem in problems]


def under_torchrun(runs, number, size, length_s, chance):
    """The same of one run under a torchrun."""
    victim, delay_s = chance.randrange(size), chance.uniform(0, length_s / 2)
    folder = runs.fresh(f"torchrun-{number}")
    job = launch_run.start_torchrun(size, runs.binary, "train", "tiny.toml", cwd=folder)
    ranks = launch_run.ranks_of(folder / "runs/tiny")["ranks"]
    time.sleep(delay_s)
    if (folder / "runs/tiny/final").exists():
        job.communicate(timeout=tiny_run.TIMEOUT_S)
        shutil.rmtree(folder)
        return None
    os.kill(ranks[victim]["pid"], signal.SIGKILL)
    _, err = job.communicate(timeout=tiny_run.TIMEOUT_S)
    problems = ranks_case.left_in(folder)
    if not re.search(rf"rank +: {victim} \(local_rank: {victim}\)\s+exitcode +: -9 ", err.partition("Root Cause")[2]):
        problems.append(f"torchrun does not blame rank {victim}: {err[-1500:]}")
    problems += runs.problems_after_resuming(folder, size)
    shutil.rmtree(folder)
    return [f"rank {victim} after {delay_s:.2f} s: {problem}" for problem in problems]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("data")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--torchrun", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ranks_case.RanksCase.binary, ranks_case.RanksCase.data = map(os.path.abspath, (arguments.binary, arguments.data))
    ranks_case.RanksCase.setUpClass()
    runs, size = ranks_case.RanksCase(), arguments.ranks
    start = time.monotonic()
    runs.reference(size)
    length_s = time.monotonic() - start
    chance = random.Random(arguments.seed)
    outcome = collections.Counter()
    kinds = (("SIGKILL", arguments.kills, lambda number: once(runs, number, size, signal.SIGKILL, length_s, chance)),
             ("SIGSTOP", arguments.stops, lambda number: once(runs, number, size, signal.SIGSTOP, length_s, chance)),
             ("under torchrun", arguments.torchrun, lambda number: under_torchrun(runs, number, size, length_s, chance)))
    for kind, count, lose in kinds:
        number = done = 0
        while done < count:
            number += 1
            problems = lose(number)
            if problems is None:
                continue
            done += 1
            for problem in problems:
                print(f"{kind} {done}: {problem}", flush=True)
            outcome[kind, "bad" if problems else "good"] += 1
    ranks_case.RanksCase.tearDownClass()
    print(f"{size} ranks, seed {arguments.seed}:",
          ", ".join(f"{name} {how} {count}" for (name, how), count in sorted(outcome.items())))
    raise SystemExit(any(how == "bad" for _, how in outcome))


if __name__ == "__main__":
    main()
