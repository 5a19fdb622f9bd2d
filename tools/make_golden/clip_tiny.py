"""Makes tests/data/clip_tiny and tests/data/clip_tiny_gelu: tiny random CLIP checkpoints and what transformers makes of them.

usage: clip_tiny.py DATA    DATA: tests/data

Needs `transformers` 4 (made with 4.57.6), `torch`, `safetensors` and `pillow` before 12 (made with 11.3; later ones resize in
another order of passes), which nothing else here does: use an environment of its own. The vocabulary is CLIP's in small: the
same 512 characters, some merges, the same two special tokens at its end.

golden.json: `texts`, and their `input_ids` with both special tokens, cut at the model's length. golden.safetensors: `image.i`
[height, width, 3] bytes; `pixel_values` of all of them; `image_features`, `text_features` (of the first five texts),
`logits_per_image`: CLIPModel's in float32; `aesthetic` [images]: the head of aesthetic.safetensors on image embeddings of length 1.
"""

import collections
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"
CORPUS = """a photo of a red circle above a blue square and two green triangles the cat's hat isn't there don't we've
three small dogs running through the snow at night with lights cafe naive 1 2 3 ! ? . , ... an oil painting in the style of"""
# The first five are prompts, the others test the tokenizer.
TEXTS = [
    "a photo of a red circle",
    "Two GREEN triangles, and a blue square!",
    "",
    "The cat's hat isn't there; we've 1234 dogs...",
    "an oil painting of three small dogs running through the snow at night with lights above the cat's hat, " * 5,
    "  leading,\ttabs\nnew lines\r\n and   trailing  ",
    "don'T I'LL you'RE they'D ''s 'sun 'tis !'s ?'ll",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030angstrom",
    "\u0130stanbul \u1e9e \u03a3\u03a3 \u01c4 \u2167 \uff21\uff22 \u13a0 \u1c90",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u732b \u0e41\u0e21\u0e27 \u0915\u0941\u0924\u094d\u0924\u093e \u0663\u0664 \u00bd x\u00b2",
    "emoji \U0001f600\U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "nbsp\u00a0thin\u2009ideo\u3000mongolian\u180ezero\u200bbom\ufeffend",
    "control\x01 \x7f\x85 line\u2028sep",
    f"{EOS} in the {BOS}middle!{EOS}? <|ENDOFTEXT|> <|endoftext >",
    "a</w> </w> <w>",
    "under_score-dash/slash\\back @user #tag 50% (x+y)=z $9.99 \u20ac5 \u201cquotes\u201d \u2018s \u2019s",
    "e\u0301\u0327 \u1e69 s\u0323\u0307 \uac00 \u1100\u1161 \ufb01",
    "x" * 300,
]


def vocabulary(num_merges):
    """Tokens by id and merges by rank, learned from CORPUS as BPE is."""
    alphabet = list(bytes_to_unicode().values())
    words = collections.Counter(tuple(word[:-1]) + (word[-1] + END,) for word in CORPUS.replace("'", " '").split())
    merges = []
    for _ in range(num_merges):
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = collections.Counter()
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                both = word[i:i + 2] == best
                out.append("".join(best) if both else word[i])
                i += 2 if both else 1
            merged[tuple(out)] += count
        words = merged
    tokens = alphabet + [c + END for c in alphabet] + ["".join(pair) for pair in merges] + [BOS, EOS]
    assert len(set(tokens)) == len(tokens)
    return tokens, merges


def write_tokenizer(folder, tokens, merges, max_length, as_json):
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2"] + [" ".join(pair) for pair in merges]) + "\n")
    CLIPTokenizerFast(folder / "vocab.json", folder / "merges.txt", model_max_length=max_length).save_pretrained(folder)
    for name in ["vocab.json", "merges.txt"] if as_json else ["tokenizer.json"]:
        (folder / name).unlink()
    return CLIPTokenizerFast.from_pretrained(folder)


def make_images(generator):
    """Images of several shapes: to shrink, to grow, of the right size already, and long ones."""
    images = []
    for height, width in [(45, 61), (20, 17), (32, 32), (28, 28), (120, 33), (9, 40)]:
        coarse = torch.rand((1, 3, 5, 6), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
        noise = 0.3 * (torch.rand((height, width, 3), generator=generator) - 0.5)
        images.append(((smooth + noise).clamp(0, 1) * 255).to(torch.uint8).contiguous())
    return images


def head_weights(sizes, linear, generator):
    """An aesthetic head by the published names: of the linear one, or of the MLP (dropouts count as layers there)."""
    layers, index = {}, 0
    for i, (inner, outer) in enumerate(zip(sizes, sizes[1:])):
        name = "" if linear else f"layers.{index}."
        layers[name + "weight"] = torch.randn((outer, inner), generator=generator)
        layers[name + "bias"] = torch.randn((outer,), generator=generator)
        index += 2 if i + 2 < len(sizes) - 1 else 1
    return layers


def apply_head(layers, x):
    for name in sorted(key for key in layers if key.endswith("weight")):
        x = torch.nn.functional.linear(x, layers[name], layers[name.replace("weight", "bias")])
    return x[:, 0]


def make(folder, seed, config, half, head_sizes, preprocessor):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tokens, merges = vocabulary(num_merges=120)
    config["text_config"].update(vocab_size=len(tokens), bos_token_id=len(tokens) - 2)
    if config["text_config"].get("eos_token_id") != 2:
        config["text_config"]["eos_token_id"] = len(tokens) - 1
    max_length = config["text_config"]["max_position_embeddings"]
    tokenizer = write_tokenizer(folder, tokens, merges, max_length, as_json=half)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")

    model = CLIPModel(CLIPConfig(**config, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape, generator=generator)
            if name == "logit_scale":
                weight.fill_(3.0)
            elif "norm" in name or "layrnorm" in name:
                weight.copy_(0.2 * draw + (1 if name.endswith("weight") else 0))
            else:
                weight.copy_((0.5 if name.endswith("bias") else 0.3) * draw)
    if half:  # in shards of float16; what is computed below is float32 of the same numbers
        model.half().save_pretrained(folder, max_shard_size="60KB")
        model = model.float()
    else:  # with the buffers that older files hold
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        for tower in ["text_model", "vision_model"]:
            weights[f"{tower}.embeddings.position_ids"] = getattr(model, tower).embeddings.position_ids
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    processor = CLIPImageProcessor.from_pretrained(folder)
    images = make_images(generator)
    golden = {f"image.{i}": image for i, image in enumerate(images)}
    pixels = processor([image.numpy() for image in images], return_tensors="pt")["pixel_values"]
    texts = tokenizer(TEXTS, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    prompts = {"input_ids": texts["input_ids"][:5], "attention_mask": texts["attention_mask"][:5]}
    head = head_weights(head_sizes, linear=half, generator=generator)
    save_file(head, folder / "aesthetic.safetensors")
    with torch.no_grad():
        golden["pixel_values"] = pixels
        golden["image_features"] = model.get_image_features(pixels)
        golden["text_features"] = model.get_text_features(**prompts)
        golden["logits_per_image"] = model(pixel_values=pixels, **prompts).logits_per_image.contiguous()
        golden["aesthetic"] = apply_head(head, torch.nn.functional.normalize(golden["image_features"], dim=-1))
    save_file(golden, folder / "golden.safetensors")
    ids = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in TEXTS]
    (folder / "golden.json").write_text(json.dumps({"texts": TEXTS, "input_ids": ids}, indent=0) + "\n")
    for name in ["image_features", "text_features", "logits_per_image", "aesthetic"]:
        print(folder.name, name, "largest", golden[name].abs().max().item())


def main():
    data = pathlib.Path(sys.argv[1])
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    # As the first published checkpoints: quick_gelu, an eos_token_id of 2 that is not the tokenizer's.
    make(data / "clip_tiny", seed=1, half=False, head_sizes=[24, 16, 8, 6, 4, 1],
         config={"projection_dim": 24,
                 "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                                 "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2},
                 "vision_config": {"hidden_size": 40, "intermediate_size": 80, "num_hidden_layers": 2,
                                   "num_attention_heads": 5, "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu"}},
         preprocessor={"crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True,
                       "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 32, **clip})
    # As the later ones: gelu, the tokenizer's own eos_token_id, sizes as objects; a short text, another epsilon, other means.
    make(data / "clip_tiny_gelu", seed=2, half=True, head_sizes=[16, 1],
         config={"projection_dim": 16,
                 "text_config": {"hidden_size": 24, "intermediate_size": 60, "num_hidden_layers": 3, "num_attention_heads": 3,
                                 "max_position_embeddings": 20, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
                 "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                                   "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "hidden_act": "gelu"}},
         preprocessor={"crop_size": {"height": 28, "width": 28}, "do_center_crop": True, "do_convert_rgb": True,
                       "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.45, 0.4],
                       "image_processor_type": "CLIPImageProcessor", "image_std": [0.25, 0.3, 0.35], "resample": 3,
                       "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 30}})


if __name__ == "__main__":
    main()
