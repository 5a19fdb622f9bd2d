"""Ranks that share sequences (parallel.sp), layers (parallel.tp) or both, layer by layer (parallel.plan), give the result of
one process, which ignores these keys.

usage: sharing_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data
UNIGRPO_RANKS_FULL=1: also what takes more than a minute.
"""

import json
import os
import pathlib
import re
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
EMA = {"optim.ema.enabled": "true"}
LORA = {"policy.train": "lora", "policy.lora.rank": 4, "policy.lora.alpha": 8, "grpo.text.kl_beta": 0.1}
MANY_STEPS = equality_test.MANY_STEPS
FULL = os.environ.get("UNIGRPO_RANKS_FULL") == "1"
ONE_PROCESS = equality_test.ONE_PROCESS
SLICED = re.compile(r"layers\..*_proj|embed_tokens|lm_head")


def add_row(file, name):
    """Another row of zeros, of a tensor that then comes last."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), data[start:]
    entry = header.pop(name)
    first, last = entry["data_offsets"]
    row = (last - first) // entry["shape"][0]
    rest = b""
    for other, each in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])):
        if other != "__metadata__":
            begin, end = each["data_offsets"]
            each["data_offsets"] = [len(rest), len(rest) + end - begin]
            rest += body[begin:end]
    entry["shape"][0] += 1
    entry["data_offsets"] = [len(rest), len(rest) + last - first + row]
    text = json.dumps({**header, name: entry}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + rest + body[first:last] + bytes(row))


class Sharing(resume_test.Resume):
    """Borrows the comparison and the stops; has tests of its own."""

    def plan(self, layers):
        file = pathlib.Path(self.holder.name) / f"plan-{next(self.count)}.json"
        file.write_text(json.dumps({"layers": layers}))
        return file

    def check_case(self, run, reference, size, parallel):
        """Also ranks.json: how the ranks share the work, and how many of them hold the model between them."""
        self.check(run, reference, same_bits=parallel.get("rollout") != "tp")
        mesh = json.loads((run / "ranks.json").read_text())["mesh"]
        shape = {"sp": 1, "tp": 1, **parallel}
        shares = "shard" in parallel
        if "plan" in parallel:
            plan = json.loads(parallel["plan"].read_text())
            layers = [{"sp": 1, "tp": 1, **parallel, **layer} for layer in plan["layers"]]
            shape.update(max(layers, key=lambda layer: layer["tp"] * layer["sp"]))
            shares = "format" in plan or any("shard" in layer for layer in layers)
        tp = shape["tp"]
        same_slices = parallel.get("shard_ranks", size // tp) if shares else 1
        self.assertEqual(mesh, {"stages": 1, "data": size // (shape["sp"] * tp), "sequence": shape["sp"], "tensor": tp,
                                "shard": same_slices * tp})

    def test_sequences(self):
        self.as_one({**EMA, "eval.prompts": "prompts.jsonl", "eval.every": 2, **MANY_STEPS,
                     "grpo.image.context_gradient": "detached"},
                    [(2, {"sp": 2}), (4, {"sp": 2})] + FULL * [(3, {"sp": 1}), (4, {"sp": 4}), (8, {"sp": 4})])

    def test_layers(self):
        self.as_one({**EMA, **MANY_STEPS}, [(2, {"tp": 2}), (4, {"tp": 2})])

    def test_layers_and_sequences(self):
        self.as_one({"grpo.image.context_gradient": "detached", "policy.recompute": "true"},
                    [(4, {"tp": 2, "sp": 2})] + FULL * [(8, {"tp": 2, "sp": 2})])

    def test_layer_by_layer(self):
        layers = [{"tp": 2, "sp": 1}, {"tp": 1, "sp": 2, "recompute": True}, {"tp": 2, "sp": 1, "stage": 0}]
        cases = [(2, {"plan": self.plan(layers), "sp": 2})]
        layers = [{"tp": 2, "sp": 2}, {"tp": 1, "sp": 4}, {"tp": 2, "sp": 2, "recompute": True}]
        self.as_one({}, cases + [(4, {"plan": self.plan(layers)})])

    def test_layers_that_fewer_ranks_share(self):
        """Between them rows move to the ranks that have whole sequences, and back; a prompt's are then on several."""
        layers = [{"tp": 1, "sp": 2}, {"tp": 1, "sp": 1}, {"tp": 1, "sp": 1, "recompute": True}]
        cases = [(2, {"plan": self.plan(layers)}), (4, {"plan": self.plan([*layers[1:], {"tp": 2, "sp": 1}])})]
        layers = [{"tp": 1, "sp": 1}, {"tp": 2, "sp": 2}, {"tp": 2, "sp": 1}]
        self.as_one({"grpo.image.context_gradient": "detached", "grpo.micro_batch_tokens": 60},
                    cases + [(4, {"plan": self.plan(layers)})])
        if FULL:
            mixed = [{"tp": 1, "sp": 2, "shard": "weights"}, {"tp": 1, "sp": 1}, {"tp": 2, "sp": 1, "shard": "optimizer"}]
            self.as_one({**EMA, **LORA, "policy.lora.dropout": 0.3}, [(4, {"plan": self.plan(mixed)})])
            self.as_one({"policy.freeze": '["*_moe_gen*"]', **MANY_STEPS}, [(8, {"plan": self.plan(layers)})])

    def test_shards_layer_by_layer(self):
        levels = [{"shard": level} for level in ("none", "weights", "gradients")]
        sliced = [{"shard": "weights", "tp": 2}, {"shard": "optimizer", "sp": 1}, {"shard": "weights", "sp": 2}]
        self.as_one({**EMA, "grpo.micro_batch_tokens": 60},
                    [(2, {"plan": self.plan(levels)}), (4, {"plan": self.plan(sliced)})])
        if FULL:
            self.as_one({**EMA, "policy.recompute": "true"}, [(3, {"plan": self.plan(levels)}),
                                                              (4, {"plan": self.plan(sliced), "shard_ranks": 2})])

    def test_what_the_planner_wrote(self):
        layer = {"pp": 1, "tp": 1, "sp": 1, "dp": 4, "zero": 3, "recompute": False}
        plan = {"format": "unigrpo-plan/1", "world": 4, "global_batch": 4, "micro_batches": 1, "schedule": "1f1b", "partition": [3],
                "embed": {"tp": 1, "sp": 1, "zero": 2},
                "layers": [{**layer, "tp": 2, "dp": 2, "zero": 1}, {**layer, "recompute": True}, {**layer, "sp": 2, "dp": 2}]}
        file = self.plan([])
        file.write_text(json.dumps(plan))
        self.as_one({}, [(4, {"plan": file})])
        ranks = ranks_run.start(BINARY, 2, "train", "tiny.toml", "--set", f"parallel.plan={file}", cwd=self.fresh())
        for code, _, stderr in ranks_run.finish(ranks):
            self.assertEqual(code, 2, stderr)
            self.assertIn(f"{file}: world: a plan for 4 ranks, this run has 2", stderr)

    def test_with_shards(self):
        layers = self.plan([{"tp": 2, "sp": 1}, {"tp": 1, "sp": 2}, {"tp": 2, "sp": 1}])
        cases = [(2, {"sp": 2, "shard": "weights"}), (2, {"tp": 2, "shard": "gradients"}), (4, {"tp": 2, "shard": "weights"})]
        for shard in FULL * ("optimizer", "gradients", "weights"):
            cases += [(2, {"sp": 2, "shard": shard}), (2, {"tp": 2, "shard": shard}), (2, {"plan": layers, "shard": shard}),
                      (4, {"sp": 2, "shard": shard, "shard_ranks": 2}), (4, {"tp": 2, "shard": shard}),
                      (4, {"tp": 2, "shard": shard, "shard_ranks": 1})]
        self.as_one({**EMA, "grpo.micro_batch_tokens": 60}, cases)

    @unittest.skipUnless(FULL, "long")
    def test_more_ranks_than_key_heads(self):
        self.as_one({}, [(4, {"sp": 4})])

    def test_a_rank_holds_its_slices_alone(self):
        """Weights, gradients, moments and averages of what is sliced: an even part of one process's. Of the rest, the
        moments and averages."""
        def held(size, parallel):
            keys = {f"parallel.{key}": value for key, value in parallel.items()}
            run = self.train(size, {**EMA, "run.num_steps": 1, **keys})
            return tiny_run.metrics_of(run, steady=False)[-1]["memory/state_bytes"], run
        whole, run = held(ONE_PROCESS, {})
        (last,) = (run / "checkpoints").glob("step_*")
        sizes = {name: 4 * len(values) for name, values in ranks_run.part_of(last, "policy").items()}
        every, sliced = sum(sizes.values()), sum(size for name, size in sizes.items() if SLICED.search(name))
        self.assertGreater(sliced, 0.5 * every)
        frozen = whole - 5 * every
        ends = 5 * 4 * 4096 * 4  # of buffers: a cell each of four units
        self.assertLess(held(2, {"tp": 2})[0], 5 * sliced / 2 + 3.5 * (every - sliced) + frozen + ends)
        self.assertLess(held(4, {"tp": 2, "shard": "weights"})[0], (5 * every + frozen) / 4 + 2 * ends)

    def test_lora_and_its_dropout(self):
        """The mask belongs to a sequence and a token, and of a layer's inputs each rank drops its own."""
        self.as_one({**LORA, "policy.lora.dropout": 0.3}, [(2, {"sp": 2}), (2, {"tp": 2}), (2, {"tp": 2, "shard": "weights"})])
        if FULL:
            self.as_one({**LORA}, [(4, {"tp": 2, "sp": 2, "shard": "weights"})])

    def test_frozen_experts(self):
        for frozen in ('["*layers.?.self_attn.?_proj.*", "*layers.?.mlp.*"]', *FULL * ('["*_moe_gen*"]',)):
            self.as_one({"policy.freeze": frozen}, [(2, {"sp": 2})] + FULL * [(2, {"tp": 2})])

    def test_layers_that_run_again_in_the_backward_pass(self):
        self.as_one({"policy.recompute": "true", "grpo.micro_batch_tokens": 60, "grpo.num_minibatches": 2},
                    [(2, {"sp": 2})])

    def test_two_turns(self):
        """One step: the second turn reads the first one's image in 8 bits, and its latents are those of one process to
        rounding alone."""
        self.as_one({"run.num_steps": 1, "rollout.episode": '["text", "image", "text", "image"]'},
                    [(2, {"sp": 2}), (2, {"tp": 2})])

    def test_a_pair(self):
        pair = pathlib.Path(self.holder.name) / "pair"
        shutil.copytree(f"{DATA}/qwen2_tiny", pair / "text")
        shutil.copytree(f"{DATA}/bagel_tiny", pair / "image")
        (pair / "config.json").write_text('{"model_type": "unigrpo_pair", "text": "text/", "image": "image/"}')
        self.as_one({"policy.model": pair}, [(2, {"sp": 2})])

    def test_a_text_model(self):
        self.rewards = equality_test.REWARDS.partition('[[rewards]]\nkind = "saturation"')[0]
        self.as_one({"policy.model": f"{DATA}/qwen2_tiny_tied", "rollout.episode": '["text"]'},
                    [(2, {"sp": 2}), (2, {"tp": 2})])

    def test_a_vocabulary_that_ranks_cannot_share_evenly(self):
        self.rewards = equality_test.REWARDS.partition('[[rewards]]\nkind = "saturation"')[0]
        model = pathlib.Path(self.holder.name) / "odd"
        shutil.copytree(f"{DATA}/qwen2_tiny_tied", model)
        config = json.loads((model / "config.json").read_text())
        config["vocab_size"] += 1
        (model / "config.json").write_text(json.dumps(config))
        name = "model.embed_tokens.weight"
        add_row(model / json.loads((model / "model.safetensors.index.json").read_text())["weight_map"][name], name)
        self.as_one({**EMA, "policy.model": model, "rollout.episode": '["text"]'},
                    [(2, {"tp": 2}), (2, {"tp": 2, "shard": "weights", "rollout": "tp"})])

    def test_supervised(self):
        rows = {"sft.output": "trained", "sft.batch_size": 6, "sft.num_examples": 40, "sft.edit": 0.3, "sft.self_correct": 0.3,
                "sft.describe": 0.2, "sft.prompt_dropout": 0.3}
        self.same_supervised({**rows, "parallel.sp": 2}, sizes=(ONE_PROCESS, 2, *FULL * (4,)))
        if FULL:
            self.same_supervised({**rows, "parallel.tp": 2, "parallel.shard": "weights"}, sizes=(ONE_PROCESS, 2))
        self.same_supervised({"parallel.sp": 2, "sft.output": "trained", "sft.batch_size": 4, "sft.stage": "autoencoder",
                              "optim.lr": 1e-4}, sizes=(ONE_PROCESS, 2))

    def test_a_signal_to_one_rank_stops_those_that_share_its_sequences(self):
        sp = {"checkpoint.every": 0, "parallel.sp": 2}
        left_alone = self.train(2, sp, base=resume_test.BASE)
        stops = ((1, "update.micro_batch@1:3", signal.SIGTERM), (0, "rollout.decode_step@0:9", signal.SIGINT),
                 (1, "rollout.denoising_step@1:6", signal.SIGUSR1))
        for rank, point, number in stops if FULL else stops[::2]:
            with self.subTest(point=point):
                folder, results = self.interrupted(sp, 2, rank, point, number)
                self.assertEqual([code for code, _, _ in results], [130, 130], results)
                run = self.train(2, sp, folder=folder, resume=True, base=resume_test.BASE)
                self.assertEqual((run / "final/ema.safetensors").read_bytes(),
                                 (left_alone / "final/ema.safetensors").read_bytes())

    def test_saved_by_ranks_that_share_resumed_by_others(self):
        reference = self.train(ONE_PROCESS, {"checkpoint.keep_last": 1}, base=resume_test.BASE)
        for first, then in (((2, {"sp": 2}), (ONE_PROCESS, {})), ((2, {"tp": 2, "shard": "weights"}), (2, {"sp": 2})),
                            ((ONE_PROCESS, {}), (4, {"tp": 2, "shard": "weights"}))):
            with self.subTest(saved_on=first, resumed_on=then):
                folder = self.fresh()
                keys = [{f"parallel.{key}": value for key, value in table.items()} for _, table in (first, then)]
                self.train(first[0], keys[0], folder=folder, fault="optim.before@0:4=kill", code=None, base=resume_test.BASE)
                self.assertEqual(self.steps(folder / "runs/tiny"), [1, 2, 3])
                run = self.train(then[0], {**keys[1], "checkpoint.keep_last": 1}, folder=folder, resume=True,
                                 base=resume_test.BASE)
                self.check(run, reference)

    def test_rollouts_in_slices(self):
        """parallel.rollout = "tp": no rank ever has whole layers, and all draw what one process draws; of images, which are
        sums in another order, some pixels may be a level apart."""
        self.rewards = equality_test.TEXT_REWARDS
        self.as_one({**EMA},
                    [(2, {"tp": 2, "rollout": "tp"}), (4, {"tp": 2, "sp": 2, "rollout": "tp", "shard": "weights"})])
        if FULL:
            self.as_one({**LORA}, [(2, {"tp": 2, "rollout": "tp"})])
            self.as_one({"run.num_steps": 1, "rollout.episode": '["text", "image", "text", "image"]'},
                        [(2, {"tp": 2, "rollout": "tp"})])

    def test_what_is_saved_in_slices_is_loaded_to_the_bit(self):
        """A step with a gradient that is not finite changes nothing, so that its checkpoint holds what was loaded."""
        layers = self.plan([{"tp": 2, "sp": 1}, {"tp": 1, "sp": 2}, {"tp": 2, "sp": 1}])
        shapes = [(2, {"tp": 2}), (ONE_PROCESS, {}), (4, {"tp": 2, "shard": "weights"}), (3, {"shard": "optimizer"}),
                  (2, {"plan": layers, "shard": "weights"})]
        parts = ("policy", "optimizer", "ema")
        for first, others in ((shapes[0], shapes[1:]), (shapes[1], shapes[:1]), *FULL * ((shapes[2], shapes), (shapes[4], shapes))):
            saved = self.fresh()
            base = {**resume_test.BASE, "run.num_steps": 3}
            self.train(first[0], {f"parallel.{key}": value for key, value in first[1].items()}, folder=saved,
                       fault="optim.before@0:3=kill", code=None, base=base)
            want = {part: ranks_run.part_of(saved / "runs/tiny/checkpoints/step_000002", part) for part in parts}
            for size, parallel in others:
                with self.subTest(saved_on=first, loaded_on=(size, parallel)):
                    folder = self.fresh()
                    shutil.rmtree(folder)
                    shutil.copytree(saved, folder)
                    run = self.train(size, {f"parallel.{key}": value for key, value in parallel.items()}, folder=folder,
                                     resume=True, fault="grad.reduced@0:1=nan", base=base)
                    for part in parts:
                        self.assertEqual(ranks_run.part_of(run / "checkpoints/step_000003", part), want[part], part)

    def test_plans_that_differ_between_ranks_are_refused(self):
        folders = [self.fresh(), self.fresh()]
        for folder, recompute in zip(folders, ("true", "false")):
            (folder / "plan.json").write_text('{"layers": [{}, {"recompute": %s}, {}]}' % recompute)
        ranks = ranks_run.start(BINARY, 2, "train", "tiny.toml", "--set", "parallel.plan=plan.json", "--set", "parallel.sp=2",
                                cwd=folders)
        for code, _, stderr in ranks_run.finish(ranks):
            self.assertEqual(code, 2, stderr)
            self.assertIn("the ranks differ in the plan of layers: rank 0", stderr)
        for folder in folders:
            self.assertFalse((folder / "runs").exists())

    def test_what_cannot_be_shared(self):
        for size, settings, line in (
                (3, {"sp": 2}, "sp = 2 does not divide 3 ranks"),
                (3, {"sp": 3}, "parallel.sp: 3 ranks cannot share the 4 query heads (num_attention_heads) of "),
                (3, {"tp": 3}, "parallel.tp: 3 ranks cannot share the 2 key heads (num_key_value_heads) of "),
                (4, {"tp": 4}, "expected one of 1, 2"),
                (2, {"plan": self.plan(4 * [{"sp": 2}])}, "has 3 (num_hidden_layers)"),
                (ONE_PROCESS, {"plan": self.plan(2 * [{}])}, "has 3 (num_hidden_layers)"),
                (2, {"plan": self.plan(3 * [{"sp": 2, "stages": 0}])}, "layers[0]: unknown field 'stages'"),
                (6, {"plan": self.plan([{"sp": 2}, {"sp": 3}, {"sp": 2}])}, "expected a product that divides the largest, 3"),
                (2, {"plan": "nowhere.json"}, "nowhere.json"),
                (2, {"tp": 2, "sp": 2}, "tp = 2 x sp = 2 does not divide 2 ranks"),
                (4, {"tp": 2, "shard": "weights", "shard_ranks": 3}, "expected 0 (all), 1, 2"),
                (2, {"tp": 2, "rollout": "slices"}, "parallel.rollout"),
                (2, {"plan": self.plan([{"tp": 2}, {"sp": 2}, {"tp": 2}]), "rollout": "tp"}, 'parallel.rollout: "tp" with '),
                (2, {"sp": 2, "exact_reduction": "true"}, "parallel.exact_reduction: expected tp = 1, sp = 1"),
                (2, {"tp": 0}, "parallel.tp"), (2, {"sp": 0}, "parallel.sp"), (2, {"sp": '"two"'}, "parallel.sp")):
            self.check_refused(size, settings, line)


load_tests = ranks_run.own_tests(Sharing)


if __name__ == "__main__":
    ranks_run.main(unittest, sys.modules[__name__])
