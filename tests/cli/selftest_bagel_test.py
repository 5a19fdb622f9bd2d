"""`unigrpo selftest --bagel` passes on the official code's numbers, and fails where a weight is 1% off.

usage: selftest_bagel_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
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
    "ema.safetensors": [
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_norm.weight",
        "language_model.model.layers.1.mlp.down_proj.weight",
        "language_model.model.layers.2.self_attn.v_proj_moe_gen.weight",
        "language_model.lm_head.weight",
        "time_embedder.mlp.2.weight",
        "latent_pos_embed.pos_embed",
        "vae2llm.weight",
        "llm2vae.weight",
        "vit_model.vision_model.encoder.layers.1.mlp.fc2.weight",
        "connector.fc1.weight",
    ],
    "ae.safetensors": ["encoder.conv_in.weight", "decoder.conv_out.weight"],
}


def selftest(binary, folder):
    result = subprocess.run([binary, "selftest", "--bagel", folder], capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout, result.stderr


def scale_tensor(path, name, factor):
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + length])[name]
    assert entry["dtype"] == "F32", entry
    first, last = (8 + length + offset for offset in entry["data_offsets"])
    values = struct.unpack_from(f"<{(last - first) // 4}f", data, first)
    struct.pack_into(f"<{len(values)}f", data, first, *(v * factor for v in values))
    path.write_bytes(data)


def main(binary, data):
    source = pathlib.Path(data) / "bagel_tiny"
    code, out, err = selftest(binary, source)
    assert code == 0 and out.endswith("49 passed, 0 failed\n") and not err, (code, out, err)
    assert all(line.startswith("ok ") for line in out.splitlines()[:-1]), out

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "model"
        for file, names in CHANGED.items():
            for name in names:
                shutil.copytree(source, folder)
                scale_tensor(folder / file, name, 1.01)
                code, out, err = selftest(binary, folder)
                assert code == 1 and "FAIL" in out and " 0 failed" not in out, (name, code, out, err)
                shutil.rmtree(folder)

        # Entries that are not known fail by name; a folder without golden values is bad input.
        shutil.copytree(source, folder)
        golden = json.loads((folder / "golden.json").read_text())
        (folder / "golden.json").write_text(json.dumps(golden | {"surprise": 1}))
        code, out, err = selftest(binary, folder)
        assert code == 1 and "surprise" in out and "49 passed, 1 failed" in out, (code, out, err)
        (folder / "golden.json").unlink()
        code, out, err = selftest(binary, folder)
        assert code == 2 and not out and "golden.json" in err and err.count("\n") == 1, (code, out, err)
    print("selftest --bagel: good passes, 13 changed tensors fail")


main(sys.argv[1], sys.argv[2])
