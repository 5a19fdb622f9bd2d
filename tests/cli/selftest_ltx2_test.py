"""`unigrpo selftest --ltx2` passes on what diffusers computes, fails where a weight is 1% off, and names what is wrong.

usage: selftest_ltx2_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

# One tensor of each part that the entries look at.
CHANGED = {
    "transformer": ["proj_in.weight", "audio_scale_shift_table", "transformer_blocks.1.video_to_audio_attn.norm_k.weight",
                    "transformer_blocks.0.audio_ff.net.2.weight", "transformer_blocks.0.attn2.to_gate_logits.weight",
                    "transformer_blocks.1.prompt_scale_shift_table", "av_cross_attn_video_a2v_gate.linear.weight",
                    "transformer_blocks.1.video_a2v_cross_attn_scale_shift_table"],
    "connectors": ["video_connector.learnable_registers", "audio_text_proj_in.weight"],
    "vae": ["encoder.conv_in.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.conv.weight", "latents_std"],
    "audio_vae": ["encoder.mid.block_2.conv1.conv.weight", "decoder.conv_out.conv.weight", "latents_mean"],
    "vocoder": ["vocoder.upsamplers.0.weight", "bwe_generator.conv_out.weight", "mel_stft.mel_basis"],
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def selftest(binary, folder, *more):
    result = subprocess.run([binary, "selftest", "--ltx2", folder, *more], capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout, result.stderr


def header_of(data):
    (length,) = struct.unpack_from("<Q", data)
    return length, json.loads(data[8 : 8 + length])


def scale_tensor(path, name, factor):
    data = bytearray(path.read_bytes())
    length, header = header_of(data)
    first, last = (8 + length + offset for offset in header[name]["data_offsets"])
    values = struct.unpack_from(f"<{(last - first) // 4}f", data, first)
    struct.pack_into(f"<{len(values)}f", data, first, *(v * factor for v in values))
    path.write_bytes(data)


def rename_tensor(path, name, new):
    data = path.read_bytes()
    length, header = header_of(data)
    header[new] = header.pop(name)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def set_key(path, key, value):
    config = json.loads(path.read_text())
    config[key] = value
    path.write_text(json.dumps(config))


def drop(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# What is done to a good folder, and what the one line must name.
BAD = [
    (lambda f: drop(f / "model_index.json"), ["model_index.json"]),
    (lambda f: drop(f / "golden.json"), ["golden.json"]),
    (lambda f: drop(f / "vocoder"), ["vocoder/config.json"]),
    (lambda f: drop(f / "vae" / WEIGHTS), ["vae/" + WEIGHTS]),
    (lambda f: (f / "vae" / WEIGHTS).write_bytes(b"1234"), ["vae/" + WEIGHTS]),
    (lambda f: set_key(f / "model_index.json", "vae", ["diffusers", "AutoencoderKL"]), ["'vae'", "AutoencoderKL"]),
    (lambda f: set_key(f / "model_index.json", "painter", ["diffusers", "Painter"]), ["'painter'"]),
    (lambda f: set_key(f / "model_index.json", "_class_name", "FluxPipeline"), ["_class_name", "FluxPipeline"]),
    (lambda f: set_key(f / "transformer" / "config.json", "_class_name", "X"), ["transformer/config.json", '"X"']),
    (lambda f: set_key(f / "transformer" / "config.json", "surprise", 1), ["transformer/config.json", "'surprise'"]),
    (lambda f: set_key(f / "transformer" / "config.json", "num_layers", 3), ["transformer/", "missing", "blocks.2."]),
    (lambda f: set_key(f / "transformer" / "config.json", "num_layers", 1), ["transformer/", "blocks.1."]),
    (lambda f: set_key(f / "transformer" / "config.json", "num_layers", -1), ["'num_layers'", "-1"]),
    (lambda f: set_key(f / "transformer" / "config.json", "in_channels", 9), ["proj_in.weight", "[32, 8]", "[32, 9]"]),
    (lambda f: set_key(f / "transformer" / "config.json", "qk_norm", "layer"), ["'qk_norm'", "layer"]),
    (lambda f: set_key(f / "transformer" / "config.json", "rope_type", "spiral"), ["'rope_type'", "spiral"]),
    (lambda f: set_key(f / "vae" / "config.json", "timestep_conditioning", True), ["vae/", "timestep_conditioning"]),
    (lambda f: set_key(f / "vae" / "config.json", "upsample_factor", [2]), ["vae/", "upsample_factor"]),
    (lambda f: set_key(f / "audio_vae" / "config.json", "base_channels", 16), ["audio_vae/", "base_channels"]),
    (lambda f: set_key(f / "vocoder" / "config.json", "act_fn", "relu"), ["vocoder/", "act_fn"]),
    (lambda f: set_key(f / "connectors" / "config.json", "video_hidden_dim", 31), ["connectors/", "video_hidden_dim"]),
    (lambda f: set_key(f / "scheduler" / "scheduler_config.json", "time_shift_type", "linear"), ["time_shift_type"]),
    (lambda f: rename_tensor(f / "transformer" / WEIGHTS, "proj_out.bias", "proj_out.beast"),
     ["transformer/" + WEIGHTS, "proj_out.bias", "proj_out.beast"]),
    (lambda f: rename_tensor(f / "golden.safetensors", "in.video", "in.vedio"), ["golden.safetensors", "in.video"]),
    (lambda f: set_key(f / "golden.json", "format", "ltx2-tiny/9"), ["golden.json", "format"]),
    (lambda f: set_key(f / "golden.json", "velocity_cases", [{"name": "t900", "timestep": "soon"}]), ["soon"]),
]


def check_changed(binary, source, scratch):
    folder = scratch / "model"
    for part, names in CHANGED.items():
        for name in names:
            shutil.copytree(source, folder)
            scale_tensor(folder / part / WEIGHTS, name, 1.02)
            code, out, err = selftest(binary, folder)
            assert code == 1 and "FAIL" in out and " 0 failed" not in out, (part, name, code, out, err)
            shutil.rmtree(folder)


def check_bad(binary, source, scratch):
    folder = scratch / "model"
    for number, (harm, expected) in enumerate(BAD):
        shutil.copytree(source, folder)
        harm(folder)
        code, out, err = selftest(binary, folder)
        assert code == 2 and err.count("\n") == 1, (number, expected, code, out[-300:], err)
        assert all(text in err for text in expected), (number, expected, err)
        shutil.rmtree(folder)


def check_written_again(binary, source, scratch):
    out_folder = scratch / "again"
    code, out, err = selftest(binary, source, "--out", out_folder)
    assert code == 0 and out.endswith(" 0 failed\n"), (code, out, err)
    for path in source.rglob("*"):
        again = out_folder / path.relative_to(source)
        if path.is_dir() or path.name.startswith("golden"):
            continue
        if path.suffix == ".json":
            assert again.read_bytes() == path.read_bytes(), path
            continue
        old, new = path.read_bytes(), again.read_bytes()
        (old_length, old_header), (new_length, new_header) = header_of(old), header_of(new)
        assert old_header.keys() == new_header.keys(), path
        for name in old_header.keys() - {"__metadata__"}:
            a, b = old_header[name], new_header[name]
            assert (a["dtype"], a["shape"]) == (b["dtype"], b["shape"]), name
            one, other = (slice(8 + n + h["data_offsets"][0], 8 + n + h["data_offsets"][1])
                          for n, h in ((old_length, a), (new_length, b)))
            assert old[one] == new[other], name
    code, out, err = selftest(binary, source, "--out", out_folder)
    assert code == 2 and "exists and is not an empty folder" in err, (code, out, err)


def main(binary, data):
    root = pathlib.Path(data) / "ltx2_tiny"
    passed = {}
    for layout in ("v20", "v23", "v25"):
        code, out, err = selftest(binary, root / layout)
        assert code == 0 and out.endswith(" 0 failed\n") and not err, (layout, code, out, err)
        assert all(line.startswith("ok ") for line in out.splitlines()[:-1]), out
        passed[layout] = int(out.splitlines()[-1].split()[0])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        check_changed(binary, root / "v23", scratch)
        check_bad(binary, root / "v23", scratch)
        check_written_again(binary, root / "v20", scratch)

        # Entries that are not known fail by name.
        folder = scratch / "surprised"
        shutil.copytree(root / "v23", folder)
        set_key(folder / "golden.json", "surprise", 1)
        code, out, err = selftest(binary, folder)
        assert code == 1 and "surprise" in out and f"{passed['v23']} passed, 1 failed" in out, (code, out, err)
    print(f"selftest --ltx2: {passed} entries pass, {sum(map(len, CHANGED.values()))} changed tensors fail, {len(BAD)} bad folders are named")


main(sys.argv[1], sys.argv[2])
