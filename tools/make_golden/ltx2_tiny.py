"""Writes a tiny random LTX-2 folder with what diffusers computes on it: DATA/ltx2_tiny/v25.

usage: ltx2_tiny.py DATA    DATA: tests/data; needs torch 2.11, diffusers 0.42.1

The settings that v20 and v23 beside it do not have: interleaved positions, no biases in feed-forwards and attention,
widths and heads that differ between the streams, static modulation of the text, keyframes, no registers, other shapes of
the towers. tests/data/README.md tells the schema.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler
from diffusers import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from safetensors.torch import save_file

FRAMES, HEIGHT, WIDTH, AUDIO_FRAMES, FPS, TEXT = 2, 3, 2, 7, 16.0, 5

TRANSFORMER = dict(
    in_channels=6, out_channels=6, num_attention_heads=3, attention_head_dim=10, cross_attention_dim=30,
    vae_scale_factors=(4, 16, 16), pos_embed_max_pos=2, base_height=64, base_width=128, gated_attn=True,
    cross_attn_mod=True, audio_in_channels=32, audio_out_channels=32, audio_num_attention_heads=2,
    audio_attention_head_dim=14, audio_cross_attention_dim=28, audio_pos_embed_max_pos=5, audio_sampling_rate=8000,
    audio_hop_length=80, audio_gated_attn=False, audio_cross_attn_mod=False, num_layers=3, caption_channels=9,
    attention_bias=False, attention_out_bias=True, rope_theta=1000.0, rope_double_precision=False,
    cross_attn_timestep_scale_multiplier=500, rope_type="interleaved", use_prompt_embeddings=False, perturbed_attn=True,
    ff_bias=False, audio_ff_bias=True, use_prompt_adaln_single=False, use_keyframes_abs_pos_embedding=True,
)
CONNECTORS = dict(
    caption_channels=9, text_proj_in_factor=2, video_connector_num_attention_heads=3,
    video_connector_attention_head_dim=10, video_connector_num_layers=2, video_connector_num_learnable_registers=None,
    video_gated_attn=True, audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=14,
    audio_connector_num_layers=1, audio_connector_num_learnable_registers=None, audio_gated_attn=False,
    connector_rope_base_seq_len=32, rope_theta=100.0, rope_type="interleaved", per_modality_projections=True,
    video_hidden_dim=30, audio_hidden_dim=28, proj_bias=False,
)
VAE = dict(
    latent_channels=6, block_out_channels=(8, 16, 16), down_block_types=("LTX2VideoDownBlock3D",) * 3,
    decoder_block_out_channels=(8, 16), layers_per_block=(2, 1, 1, 1), decoder_layers_per_block=(1, 2, 1),
    spatio_temporal_scaling=(True, True, True), decoder_spatio_temporal_scaling=(True, True),
    decoder_inject_noise=(False, False, False), downsample_type=("spatial", "temporal", "spatiotemporal"),
    upsample_type=("spatiotemporal", "spatiotemporal"), upsample_residual=(True, False), upsample_factor=(1, 2),
    patch_size=4, decoder_causal=True, encoder_spatial_padding_mode="reflect", decoder_spatial_padding_mode="replicate",
    scaling_factor=0.5,
)
AUDIO_VAE = dict(
    base_channels=32, output_channels=2, ch_mult=(1, 1, 1), num_res_blocks=1, attn_resolutions=(32,), resolution=64,
    latent_channels=16, norm_type="group", causality_axis="none", mid_block_add_attention=True, sample_rate=8000,
    mel_hop_length=80, mel_bins=8,
)
VOCODER = dict(
    in_channels=16, hidden_channels=16, upsample_kernel_sizes=[8, 4, 4], upsample_factors=[4, 2, 2],
    resnet_kernel_sizes=[3, 5], resnet_dilations=[[1, 2], [1]], act_fn="snake", antialias=False, final_act_fn="clamp",
    final_bias=False, output_sampling_rate=8000,
)
UPSAMPLER = dict(in_channels=6, mid_channels=32, num_blocks_per_stage=1, dims=2, rational_spatial_scale=1.5)
SCHEDULER = dict(
    use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
    shift_terminal=0.1,
)


def scrambled(model, generator):
    """Random numbers of a sensible size everywhere, norms and gates too; nothing is zero or one."""
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith(("filter", "kernel")):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("latents_std"):
            noise = 1 + 0.2 * noise.abs()
        elif "norm" in name and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        elif tensor.ndim > 1 and "table" not in name:
            noise = noise / (tensor[0].numel() ** 0.5)
        else:
            noise = 0.2 * noise
        tensor.data.copy_(noise)
    return model.eval()


def main(data):
    out = pathlib.Path(data) / "ltx2_tiny" / "v25"
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(25)
    randn = lambda *shape: torch.randn(shape, generator=generator)
    transformer = scrambled(LTX2VideoTransformer3DModel(**TRANSFORMER), generator)
    connectors = scrambled(LTX2TextConnectors(**CONNECTORS), generator)
    vae = scrambled(AutoencoderKLLTX2Video(**VAE), generator)
    audio_vae = scrambled(AutoencoderKLLTX2Audio(**AUDIO_VAE), generator)
    vocoder = scrambled(LTX2Vocoder(**VOCODER), generator)
    upsampler = scrambled(LTX2LatentUpsamplerModel(**UPSAMPLER), generator)
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    parts = dict(transformer=transformer, connectors=connectors, vae=vae, audio_vae=audio_vae, vocoder=vocoder,
                 latent_upsampler=upsampler, scheduler=scheduler)
    for name, part in parts.items():
        part.save_pretrained(out / name)
    index = {"_class_name": "LTX2Pipeline", "_diffusers_version": "0.42.1"}
    for name in ("text_encoder", "tokenizer", "processor", "prompt_enhancer", "duration_head"):
        index[name] = [None, None]
    for name in ("transformer", "vae", "audio_vae", "scheduler"):
        index[name] = ["diffusers", type(parts[name]).__name__]
    for name in ("connectors", "vocoder"):
        index[name] = ["ltx2", type(parts[name]).__name__]
    (out / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    g, facts = {}, {"format": "ltx2-tiny/1", "layout": "v25"}
    tokens = FRAMES * HEIGHT * WIDTH
    facts["shape"] = dict(latent_frames=FRAMES, latent_height=HEIGHT, latent_width=WIDTH, audio_frames=AUDIO_FRAMES,
                          fps=FPS, audio_latent_mel=2)
    with torch.no_grad():
        text = randn(2, TEXT, 9, 2)
        mask = torch.tensor([[1] * TEXT, [0, 0] + [1] * (TEXT - 2)])
        g["text.hidden_states"], g["text.mask"] = text, mask
        g["text.video_embeds"], g["text.audio_embeds"], g["text.out_mask"] = connectors(text, mask)
        coords = transformer.rope.prepare_video_coords(1, FRAMES, HEIGHT, WIDTH, "cpu", fps=FPS)
        audio_coords = transformer.audio_rope.prepare_audio_coords(1, AUDIO_FRAMES, "cpu")
        g["rope.video_coords"], g["rope.audio_coords"] = coords, audio_coords
        for name, rope, c in [("video", transformer.rope, coords), ("audio", transformer.audio_rope, audio_coords),
                              ("cross_video", transformer.cross_attn_rope, coords[:, :1]),
                              ("cross_audio", transformer.cross_attn_audio_rope, audio_coords[:, :1])]:
            g[f"rope.{name}_cos"], g[f"rope.{name}_sin"] = rope(c)

    g["in.video"], g["in.audio"] = randn(2, tokens, 6), randn(2, AUDIO_FRAMES, 32)
    g["in.text_video"], g["in.text_audio"] = randn(2, TEXT, 30), randn(2, TEXT, 28)
    g["in.text_mask"] = torch.tensor([[1] * TEXT, [1] * (TEXT - 2) + [0, 0]])
    per_token = torch.tensor([350.0, 120.0])[:, None].repeat(1, tokens)
    per_token[:, : HEIGHT * WIDTH] = 0
    g["in.timestep_per_token"] = per_token

    def forward(video, audio, case, texts=None, sigma=None):
        tensor = lambda key: torch.tensor(case[key], dtype=torch.float32) if key in case else None
        timestep = per_token if case["timestep"] == "in.timestep_per_token" else tensor("timestep")
        audio_timestep = timestep if "audio_timestep" not in case else tensor("audio_timestep")
        first = tensor("sigma") if "sigma" in case else timestep
        second = tensor("audio_sigma") if "audio_sigma" in case else audio_timestep
        keep = tensor("perturbation_mask")
        return transformer(
            hidden_states=video, audio_hidden_states=audio, encoder_hidden_states=(texts or g)["in.text_video"],
            audio_encoder_hidden_states=(texts or g)["in.text_audio"], timestep=timestep, audio_timestep=audio_timestep,
            sigma=first, audio_sigma=second, encoder_attention_mask=g["in.text_mask"],
            audio_encoder_attention_mask=g["in.text_mask"], num_frames=FRAMES, height=HEIGHT, width=WIDTH,
            fps=case.get("fps", FPS), audio_num_frames=AUDIO_FRAMES,
            isolate_modalities=case.get("isolate_modalities", False),
            spatio_temporal_guidance_blocks=case.get("stg_blocks"), perturbation_mask=keep,
            use_cross_timestep=case.get("use_cross_timestep", True), return_dict=False)

    cases = [
        {"name": "t_mixed", "timestep": [350, 120]},
        {"name": "own_sigma", "timestep": [350, 120], "audio_timestep": [700, 40], "use_cross_timestep": False},
        {"name": "own_sigma_cross", "timestep": [350, 120], "audio_timestep": [700, 40], "use_cross_timestep": True},
        {"name": "first_frame_clean", "timestep": "in.timestep_per_token", "sigma": [350, 120],
         "audio_timestep": [350, 120], "audio_sigma": [350, 120], "use_cross_timestep": True},
        {"name": "isolated", "timestep": [350, 120], "isolate_modalities": True},
        {"name": "slow_motion", "timestep": [350, 120], "fps": 32.0},
        {"name": "stg", "timestep": [350, 120], "stg_blocks": [0, 2]},
        {"name": "stg_first_only", "timestep": [350, 120], "stg_blocks": [1], "perturbation_mask": [0, 1]},
    ]
    facts["velocity_cases"] = cases
    with torch.no_grad():
        for case in cases:
            video, audio = forward(g["in.video"], g["in.audio"], case)
            g[f"velocity.{case['name']}.video"], g[f"velocity.{case['name']}.audio"] = video, audio

    train = {"timestep": [350, 120], "audio_timestep": [700, 40], "use_cross_timestep": True}
    g["train.target_video"], g["train.target_audio"] = randn(2, tokens, 6), randn(2, AUDIO_FRAMES, 32)
    video_in, audio_in = g["in.video"].clone().requires_grad_(), g["in.audio"].clone().requires_grad_()
    video, audio = forward(video_in, audio_in, train)
    loss_video, loss_audio = (video - g["train.target_video"]).square().mean(), (audio - g["train.target_audio"]).square().mean()
    (loss_video + loss_audio).backward()
    g["grad_input.video"], g["grad_input.audio"] = video_in.grad, audio_in.grad
    grads = {name: p.grad for name, p in transformer.named_parameters()}
    train["without_grad"] = [name for name, grad in grads.items() if grad is None]
    train["grad_norm"] = {name: grad.double().norm().item() for name, grad in grads.items() if grad is not None}
    train["grad_norm_total"] = float(np.sqrt(sum(n * n for n in train["grad_norm"].values())))
    train["loss_video"], train["loss_audio"] = loss_video.item(), loss_audio.item()
    for name in ("proj_in.weight", "transformer_blocks.1.prompt_scale_shift_table", "transformer_blocks.0.attn1.to_q.weight"):
        g["grad." + name] = grads[name]
    facts["train"] = train

    facts["schedules"] = {}
    for steps, count in [(4, tokens), (30, 4096)]:
        mu = 0.95 + (2.05 - 0.95) / (4096 - 1024) * (count - 1024)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        facts["schedules"][f"n{steps}_tokens{count}"] = dict(mu=mu, num_steps=steps, tokens=count,
                                                            sigmas=scheduler.sigmas.tolist())
    with torch.no_grad():
        video, audio, sigmas = g["in.video"], g["in.audio"], facts["schedules"][f"n4_tokens{tokens}"]["sigmas"]
        for i, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
            v, a = forward(video, audio, {"timestep": [1000 * sigma] * 2})
            video, audio = video + (after - sigma) * v, audio + (after - sigma) * a
        g["sample.euler4.step3_video"], g["sample.euler4.step3_audio"] = video, audio
        facts["samples"] = [dict(name="euler4", start="in.video, in.audio", guidance=None, use_cross_timestep=True, sigmas=sigmas)]

        pixels = torch.randint(-127, 128, (1, 3, 5, 48, 32), generator=generator, dtype=torch.int8)
        g["vae.video_u8"] = pixels
        posterior = vae.encode(pixels.float() / 127).latent_dist
        g["vae.mean"], g["vae.logvar"] = posterior.mean, posterior.logvar
        g["vae.decode_in"] = randn(1, 6, FRAMES, HEIGHT, WIDTH)
        decoded = vae.decode(g["vae.decode_in"]).sample
        g["vae.decode_out_stride4"] = decoded[:, :, :, ::4, ::4]
        facts["vae"] = dict(decode_out_shape=list(decoded.shape), decode_out_mean=decoded.mean().item(),
                            decode_out_std=decoded.std().item())
        mel = randn(1, 2, 20, 8)
        posterior = audio_vae.encode(mel).latent_dist
        # Without a wave the spectrogram enters as the decoder's input does: what is decoded is encoded.
        g["audio.decode_in"] = posterior.mean[:, :16].contiguous()
        g["audio.decode_out"] = audio_vae.decode(g["audio.decode_in"]).sample
        g["audio.vocoder_out"] = vocoder(g["audio.decode_out"])
        facts["audio"] = dict(vocoder_rate=vocoder.config.output_sampling_rate)
        g["upsampler.in"] = randn(1, 6, FRAMES, HEIGHT, WIDTH)
        g["upsampler.out"] = upsampler(g["upsampler.in"])
    g = {name: tensor.detach().contiguous() for name, tensor in g.items()}
    facts["tensors"] = {name: dict(shape=list(t.shape), dtype=str(t.dtype).split(".")[1]) for name, t in sorted(g.items())}
    save_file(g, out / "golden.safetensors")
    (out / "golden.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


main(sys.argv[1])
