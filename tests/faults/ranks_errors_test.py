"""Errors of one rank, numbers that are not finite, disks, addresses and launchers: what all ranks make of them.

usage: ranks_errors_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
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
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import launch_run  # noqa: E402
import ranks_case  # noqa: E402
import ranks_run  # noqa: E402
import tiny_case  # noqa: E402
import tiny_run  # noqa: E402
from ranks_case import some  # noqa: E402

NO_EVALUATION = ("--set", "eval.prompts=", "--set", "eval.every=0")  # a pass of a point is one of the training's
PLUGIN = """
[[rewards]]
name = "bad"
kind = "plugin"
path = "{path}"
timeout_s = 60
[rewards.settings]
do = "{harm}"
on = "{on}"
[reward]
on_error = "{policy}"
"""


class Errors(ranks_case.RanksCase):
    # ---- an exception on one rank

    def test_an_exception_is_quoted_by_the_others(self):
        points = ("rollout.begin:2", "rollout.decode_step:9", "reward.begin:2", "advantage:2", "update.micro_batch:2",
                  "backward.block_1:2", "optim.before:2", "collective.checkpoint:3", "eval.batch:2")
        cases = [(2, number % 2, point) for number, point in enumerate(points)]
        cases += [(4, number % 4, point) for number, point in enumerate(points[1::2], start=1)]
        cases = some(cases, 3)

        def outcome(case):
            size, victim, point = case
            problems, errors, folder = self.lose(size, victim, point, "throw")
            line = f"fault point {point.partition(':')[0]}: thrown on request"
            if not errors[victim].endswith(f"unigrpo: {line}\n"):
                problems.append(f"rank {victim} says {errors[victim][-300:]}")
            for rank in set(range(size)) - {victim}:
                if f"rank {victim} failed: {line} (step " not in errors[rank]:
                    problems.append(f"rank {rank} does not quote it: {errors[rank][-300:]}")
            return problems + self.problems_after_resuming(folder, size)

        for size in (2, 4):
            self.reference(size)
        self.in_parallel(outcome, cases)

    def test_out_of_memory(self):
        for size, point, key in ((2, "rollout.denoising_step:5", "rollout.token_budget"),
                                 (4, "update.micro_batch:2", "grpo.micro_batch_tokens")):
            with self.subTest(point):
                problems, errors, _ = self.lose(size, 1, point, "memory")
                self.assertEqual(problems, [])
                line = rf"{point.partition('.')[0]}: out of memory; a {key} below \d+ takes less"
                self.assertRegex(errors[1], "unigrpo: " + line)
                self.assertRegex(errors[0], "rank 1 failed: " + line)

    def ends_of(self, size, folder, arguments=(), fault="", env=None):
        """[(code, stderr)] by rank; nobody may be left."""
        results = ranks_run.run(self.binary, size, "train", "tiny.toml", *arguments, cwd=folder, fault=fault)
        self.assertEqual(ranks_case.left_in(folder), [])
        return [(code, err) for code, _, err in results]

    def plugin_run(self, name, harm, on="", policy="stop"):
        folder = self.fresh(name)
        folder.chmod(0o700)
        recipe = PLUGIN.format(path=ranks_case.plugins() / "hostile.so", harm=harm, on=on, policy=policy)
        (folder / "tiny.toml").write_text((folder / "tiny.toml").read_text() + recipe)
        return folder

    def test_a_reward_that_stops_the_run(self):
        for size in (2, 4):
            with self.subTest(ranks=size):
                folder = self.plugin_run(f"stop-{size}", "throw std", "/2")  # of each group the last sample
                ends = self.ends_of(size, folder)
                with_line = [rank for rank, (code, _) in enumerate(ends) if code == 1]
                self.assertTrue(with_line)
                for rank, (code, err) in enumerate(ends):
                    self.assertIn(code, (1, 75), err)
                    self.assertIn("reward 'bad'", err)
                failures = (folder / "runs/tiny/failures").glob("*")
                self.assertTrue(any("bad" in path.read_text() for path in failures))

    def test_a_reward_that_stops_the_run_on_one_rank(self):
        rows = tiny_run.PROMPTS[:2]
        folder = self.plugin_run("stop-one", "throw std", "alone/0")
        (folder / "prompts.jsonl").write_text("".join(json.dumps({**row, "id": name}) + "\n"
                                                      for row, name in zip(rows, ("alone", "other"))))
        ends = self.ends_of(2, folder)
        self.assertEqual(sorted(code for code, _ in ends), [1, 75], ends)
        (failed,) = [rank for rank, (code, _) in enumerate(ends) if code == 1]
        self.assertIn(f"rank {failed}: ", ends[1 - failed][1])
        own = ends[failed][1].splitlines()[-1].removeprefix("unigrpo: ")
        self.assertIn(own, ends[1 - failed][1])

    def test_an_image_that_one_rank_cannot_read(self):
        folders = []
        for rank in range(2):
            folder = self.fresh(f"image-{rank}")
            for number, row in enumerate(tiny_run.PROMPTS):
                (folder / f"{number}.png").write_bytes(tiny_run.red_square())
            (folder / "prompts.jsonl").write_text("".join(
                json.dumps({**row, "images": [f"{number}.png"]}) + "\n" for number, row in enumerate(tiny_run.PROMPTS)))
            folders.append(folder)
        run = folders[0] / "runs/tiny"
        ranks = ranks_run.start(self.binary, 2, "train", "tiny.toml", "--set", f"run.dir={run}", cwd=folders,
                                fault="rollout.begin@1:2=stop")
        ranks_case.stopped_at(ranks[1], "rollout.begin:2")
        for image in folders[1].glob("*.png"):
            image.write_bytes(b"no image")
        os.kill(ranks[1].pid, signal.SIGCONT)
        (code, _, err), (code_1, _, err_1) = ranks_run.finish(ranks)
        self.assertEqual((code, code_1), (75, 2), err + err_1)
        self.assertRegex(err_1, r"unigrpo: \d.png: ")
        self.assertIn("rank 1 failed: " + err_1.splitlines()[-1].removeprefix("unigrpo: "), err)
        self.assertTrue((run / "checkpoints/step_000001").exists())

    # ---- numbers that are not finite

    def test_what_is_not_finite_on_one_rank_makes_all_skip_the_step(self):
        cases = [(size, point, action) for size in (2, 4) for action in ("nan", "inf")
                 for point in ("grad.reduced:2", "update.loss:2", "rollout.latent:1", "rollout.log_prob:1")]
        cases = some(cases, 3)  # each point, both actions and both sizes among them

        def outcome(case):
            size, point, action = case
            step = int(point[-1])
            folder = self.fresh(f"bad-{size}-{point}-{action}")
            name, _, hit = point.partition(":")
            ends = self.ends_of(size, folder, (*NO_EVALUATION, "--set", "checkpoint.keep_last=9"), f"{name}@{size - 1}:{hit}={action}")
            problems = [f"rank {rank} ended with {code}: {err[-300:]}" for rank, (code, err) in enumerate(ends) if code]
            if problems:
                return problems
            run = folder / "runs/tiny"
            skipped = [row["optim/skipped"] for row in tiny_run.metrics_of(run) if row["step"] > 0]
            if skipped != [float(number >= step) for number in (1, 2, 3)]:
                problems.append(f"skipped: {skipped}")
            weights = [ranks_run.part_of(run / f"checkpoints/step_{number:06}", "policy") for number in (1, 2, 3)]
            before = weights[0] if step == 2 else None  # of step 1: those that the run began with
            if before is not None and weights[1] != before:
                problems.append("the weights have moved")
            if weights[1] == weights[2]:
                problems.append("the weights do not move afterwards")
            return problems

        self.in_parallel(outcome, cases)

    def test_a_first_step_that_is_skipped_leaves_the_model_as_it_was(self):
        folder = self.fresh("first")
        ends = self.ends_of(2, folder, ("--set", "run.num_steps=1"), "update.loss@1:1=nan")
        self.assertEqual([code for code, _ in ends], [0, 0], ends)
        got = ranks_run.tensors_in(folder / "runs/tiny/final/ema.safetensors")
        for name, values in ranks_run.tensors_in(pathlib.Path(self.data) / "bagel_tiny/ema.safetensors").items():
            self.assertEqual(got[name], values, name)

    def test_too_many_of_them_end_all_alike(self):
        for size, point in ((2, "update.loss"), (4, "grad.reduced")):
            with self.subTest(ranks=size, point=point):
                fault = ",".join(f"{point}@1:{hit}=nan" for hit in (1, 2))
                ends = self.ends_of(size, self.fresh(f"max-{size}"), ("--set", "optim.max_skipped=2"), fault)
                for code, err in ends:
                    self.assertEqual(code, 1, err)
                    self.assertIn("optim.max_skipped = 2", err)

    # ---- disks

    def test_a_disk_that_fails_commits_nothing(self):
        def outcome(case):
            size, point, action = case
            folder = self.fresh(f"disk-{size}-{point}-{action}")
            name, _, hit = point.partition(":")
            ends = self.ends_of(size, folder, fault=f"{name}@0:{hit}={action}")
            problems = [f"rank {rank} ended with {code}: {err[-300:]}"
                        for rank, (code, err) in enumerate(ends) if code != (75 if rank else 1)]
            own = ends[0][1].splitlines()[-1].removeprefix("unigrpo: ")
            problems += [f"rank {rank} does not quote it: {err[-300:]}"
                         for rank, (_, err) in enumerate(ends) if rank and f"rank 0 failed: {own}" not in err]
            return problems + self.problems_after_resuming(folder, size)

        for size in (2, 4):
            self.reference(size)
        self.in_parallel(outcome, some([(2, "save.write:12", "enospc"), (2, "save.fsync:12", "eio"), (2, "save.open:12", "erofs"),
                                   (2, "save.manifest:2", "enospc"), (4, "save.commit:2", "enospc"), (4, "save.rename:12", "eio")], 2))

    def test_a_full_disk_may_cost_a_checkpoint_instead_of_the_run(self):
        for size in (2, 4):
            with self.subTest(ranks=size):
                reference, folder = self.reference(size), self.fresh(f"continue-{size}")
                ends = self.ends_of(size, folder, ("--set", "checkpoint.on_disk_full=continue"), "save.manifest@0:2=enospc")
                self.assertEqual([code for code, _ in ends], [0] * size, ends)
                self.assertIn("checkpoint.on_disk_full = continue", ends[0][1])
                name = "final/ema.safetensors"
                self.assertEqual((folder / "runs/tiny" / name).read_bytes(), (reference / name).read_bytes())

    def test_a_folder_that_only_rank_0_may_not_write_to(self):
        """Rank 0 owns the run folder: where it cannot be made nothing is begun, and every rank says why."""
        for size in (2, 4):
            with self.subTest(ranks=size):
                folder = self.fresh(f"read-only-{size}")
                (folder / "disk").mkdir()
                mounted = shutil.which("mount") and subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder / "disk")], capture_output=True, check=False)
                if not mounted or mounted.returncode != 0:
                    self.skipTest("nothing can be mounted here")
                try:
                    ends = self.ends_of(size, folder, ("--set", "run.dir=disk/run"))
                finally:
                    subprocess.run(["umount", str(folder / "disk")], check=True)
                self.assertEqual([code for code, _ in ends], [2] * size, ends)
                for _, err in ends:
                    self.assertRegex(err.splitlines()[-1], r"cannot create the run folder.*Read-only file system")

    # ---- who does not come

    def test_a_peer_that_never_comes(self):
        folder = self.fresh("alone")
        begin = time.monotonic()
        results = ranks_run.finish(ranks_run.start(self.binary, 4, "train", "tiny.toml", cwd=folder, absent=(2,)))
        self.assertLess(time.monotonic() - begin, 8 + ranks_case.WITHIN_S)
        for code, _, err in results:
            self.assertEqual(code, 75, err)
            self.assertRegex(err, r"rank 2 of 4 did not come to 127.0.0.1:\d+ within 8 s|"
                                  r"the meeting at 127.0.0.1:\d+ ended before .*rank 2\b.* was seen there: ")
            self.assertEqual(len(err.splitlines()), 1, err)
        self.assertFalse((folder / "runs").exists())

    def test_a_port_that_is_taken(self):
        folder = self.fresh("port")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()  # and never answers
            port = taken.getsockname()[1]
            ranks = ranks_run.start(self.binary, 2, "train", "tiny.toml", cwd=folder, port=port)
            begin = time.monotonic()
            for code, _, err in ranks_run.finish(ranks):
                self.assertEqual(code, 75, err)
                self.assertIn(f"127.0.0.1:{port}", err)
            self.assertLess(time.monotonic() - begin, 8 + ranks_case.WITHIN_S)
        self.assertFalse((folder / "runs").exists())

    def test_a_torchrun_that_is_killed(self):
        launch_run.require_torchrun(self)
        folder = self.fresh("torchrun")
        job = launch_run.start_torchrun(2, self.binary, "train", "tiny.toml", cwd=folder, fault="update.micro_batch:2=delay:3000")
        run = folder / "runs/tiny"
        launch_run.wait_for_step(run, 1)
        pids = launch_run.processes_in(folder) - {job.pid}
        job.kill()
        self.assertEqual(launch_run.wait_until_gone(pids, ranks_case.WITHIN_S), [])
        job.communicate()
        for log in ("log.txt", "logs/rank_1.txt"):
            self.assertRegex((run / log).read_text(), r"the launcher with the store at \S+ is gone \(step 2, ")
        self.reference(2)
        self.assertEqual(self.problems_after_resuming(folder, 2), [])

    # ---- launchers that are killed, and who is left

    def test_ranks_and_reward_workers_end_with_their_launcher(self):
        for size, harm in ((2, "hang"), (4, "hang"), (2, "")):
            with self.subTest(ranks=size, harm=harm):
                folder = self.plugin_run(f"launcher-{size}-{harm}", harm)
                job = launch_run.start(self.binary, size, "train", "tiny.toml", cwd=folder,
                                       fault="" if harm else "update.micro_batch:2=delay:60000")
                workers = self.reward_workers(job.pid, size)
                if not harm:
                    launch_run.wait_for_step(folder / "runs/tiny", 1)
                pids = launch_run.descendants(job.pid)
                self.assertLessEqual(workers, pids)
                job.kill()
                job.communicate()
                self.assertEqual(launch_run.wait_until_gone(pids, ranks_case.WITHIN_S), [])

    def reward_workers(self, pid, count):
        """Once there is one a rank."""
        def found():
            return {child for child in launch_run.descendants(pid)
                    if "unigrpo-reward-worker" in launch_run.command_of(child)}
        assert ranks_case.wait_until(lambda: len(found()) >= count), found()
        return found()

    def test_no_reward_worker_outlives_a_killed_rank(self):
        folder = self.plugin_run("killed", "hang")
        ranks = self.start(2, folder)
        workers = {worker for rank in ranks for worker in self.reward_workers(rank.pid, 1)}
        launch_run.ranks_of(folder / "runs/tiny")
        time.sleep(1)  # into its first reward
        ranks[1].kill()
        problems, errors = self.ends_of_the_others(ranks, 1, folder, ranks_case.WITHIN_S)
        self.assertEqual(problems, [])
        self.assertIn("rank 1 is lost: ", errors[0])
        self.assertEqual(launch_run.wait_until_gone(workers, 3), [])

    # ---- a slow rank is none that is lost

    def test_a_slow_rank_is_named_and_nothing_else_happens(self):
        for size, slow in ((2, 1), (4, 2)):
            with self.subTest(ranks=size):
                reference, folder = self.reference(size), self.fresh(f"slow-{size}")
                fault = ",".join(f"reward.begin@{slow}:{hit}=delay:300" for hit in (1, 2, 3))
                ends = self.ends_of(size, folder, fault=fault)
                self.assertEqual([code for code, _ in ends], [0] * size, ends)
                self.assertEqual(list(tiny_run.differences(folder / "runs/tiny", reference)), [])
                rows = [row for row in tiny_run.metrics_of(folder / "runs/tiny", steady=False) if row["step"] > 0]
                self.assertGreaterEqual([row["parallel/slowest_rank"] for row in rows].count(slow), 2, rows)
                self.assertGreater(max(row["parallel/wait_share_max"] for row in rows), 0.1)

    # ---- bad input

    def check_bad_input(self, ends, says, folder):
        for code, _, err in ends:
            self.assertEqual(code, 2, err)
            self.assertRegex(err, says)
            self.assertEqual(len(err.splitlines()), 1, err)
        self.assertFalse((folder / "runs").exists())

    def test_a_prompt_file_that_one_rank_cannot_read(self):
        for size, harm in ((2, lambda file: file.unlink()), (4, lambda file: file.write_text("no JSON\n"))):
            folders = [self.fresh(f"prompts-{size}-{rank}") for rank in range(size)]
            harm(folders[-1] / "prompts.jsonl")
            ends = ranks_run.finish(ranks_run.start(self.binary, size, "train", "tiny.toml", cwd=folders))
            self.check_bad_input(ends, r"prompts\.jsonl", folders[0])

    def test_recipes_that_differ(self):
        folders = [self.fresh(f"recipes-{rank}") for rank in range(2)]
        (folders[1] / "tiny.toml").write_text((folders[1] / "tiny.toml").read_text().replace("lr = 1e-3", "lr = 2e-3"))
        ends = ranks_run.finish(ranks_run.start(self.binary, 2, "train", "tiny.toml", cwd=folders))
        self.check_bad_input(ends, r"the ranks differ in the recipe: rank 0 on \S+ has 'lr = 0.001', "
                                   r"rank 1 on \S+ has 'lr = 0.002'", folders[0])

    def test_world_sizes_that_differ(self):
        folder = self.fresh("sizes")
        ranks = ranks_run.start(self.binary, 2, "train", "tiny.toml", cwd=folder, env=[{}, {"WORLD_SIZE": "3"}])
        self.check_bad_input(ranks_run.finish(ranks), r"the ranks differ in WORLD_SIZE: rank 0 on \S+ has '2', "
                                                      r"rank 1 on \S+ has '3'", folder)

    def test_two_processes_that_are_one_rank(self):
        folder = self.fresh("twice")
        ranks = ranks_run.start(self.binary, 3, "train", "tiny.toml", cwd=folder, env=[{}, {}, {"RANK": "1", "LOCAL_RANK": "1"}])
        results = ranks_run.finish(ranks)
        self.assertIn(2, [code for code, *_ in results])
        self.assertIn("two processes are rank 1", "".join(err for *_, err in results))
        self.assertFalse((folder / "runs").exists())

    def test_a_run_folder_that_another_run_holds(self):
        folder = self.fresh("locked")
        holder = self.start(2, folder, "rollout.begin:1=stop")
        for process in holder:
            ranks_case.stopped_at(process, "rollout.begin")
        before = tiny_run.files_in(folder)
        for size in (2, 3):
            for code, _, err in ranks_run.run(self.binary, size, "train", "tiny.toml", "--resume", cwd=folder):
                self.assertEqual(code, 2, err)
                self.assertRegex(err, r"^unigrpo: runs/tiny: the run folder is in use by process \d+\n$")
        self.assertEqual(tiny_run.files_in(folder), before)
        for process in holder:
            process.kill()
        ranks_run.finish(holder)

    def test_devices_and_backends(self):
        folder = self.fresh("devices")
        for sets, says in ((["parallel.backend=nccl"], r'parallel\.backend: "nccl" is for GPUs, and policy\.device is "cpu"'),
                           (["policy.device=cuda:0"], r'policy\.device: "cuda:0" is one device, and 2 ranks of this machine'),
                           (["policy.device=cuda"], r'policy\.device: "cuda:\d" needs a build with CUDA \(cmake --preset cuda\) on a machine'),
                           (["parallel.backend=gloo", "policy.device=cuda"], r'policy\.device: "cuda:\d" needs a build with CUDA'),
                           (["parallel.backend=mpi"], r"parallel\.backend=mpi: expected one of auto \| gloo \| nccl"),
                           (["parallel.backend=nccl", "policy.device=tpu"], r"policy\.device=tpu: expected")):
            arguments = [part for text in sets for part in ("--set", text)]
            self.check_bad_input(ranks_run.run(self.binary, 2, "train", "tiny.toml", *arguments, cwd=folder), says, folder)
        ends = ranks_run.run(self.binary, 2, "sample", "--model", f"{self.data}/bagel_tiny", "--prompt", "a", "--out", "runs",
                             "--device", "cuda:0", cwd=folder)
        self.check_bad_input(ends, '--device: "cuda:0" is one device', folder)
        ends = ranks_run.run(self.binary, 2, "train", "tiny.toml", "--set", "parallel.backend=gloo", "--set", "run.num_steps=1",
                             cwd=folder)
        self.assertEqual([code for code, *_ in ends], [0, 0], ends)


if __name__ == "__main__":
    tiny_case.main()
