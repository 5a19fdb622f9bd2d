"""Makes tests/data/clip_tiny_5: tests/data/clip_tiny as transformers 5 saves it, by the command of docs/MODELS.md.

usage: clip_processor_5.py DATA    DATA: tests/data

Needs `transformers` 5 (made with 5.24.0), `torch` and `pillow`, which nothing else here does: use an environment of its own. The
weights, which are those of clip_tiny, are left out. Image settings stand in processor_config.json, under `image_processor`; there
is no preprocessor_config.json.
"""

import pathlib
import sys

from transformers import CLIPModel, CLIPProcessor

if __name__ == "__main__":
    data = pathlib.Path(sys.argv[1])
    folder = data / "clip_tiny_5"
    CLIPModel.from_pretrained(data / "clip_tiny").save_pretrained(folder)
    CLIPProcessor.from_pretrained(data / "clip_tiny").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
