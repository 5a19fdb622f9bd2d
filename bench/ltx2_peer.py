"""Writes a random LTX-2 folder of the embedded audio-video world's size and measures diffusers on it, as bench/ltx2.cpp.

usage: ltx2_peer.py FOLDER [--repeats N]    needs torch 2.11, diffusers 0.42.1
"""

import pathlib
import sys
import time

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler
from diffusers import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

FRAMES, HEIGHT, WIDTH, AUDIO_FRAMES, FPS, TEXT = 9, 4, 4, 27, 16.0, 16
INDEX = """{"_class_name": "LTX2Pipeline", "_diffusers_version": "0.42.1",
 "transformer": ["diffusers", "LTX2VideoTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLLTX2Video"],
 "audio_vae": ["diffusers", "AutoencoderKLLTX2Audio"], "connectors": ["ltx2", "LTX2TextConnectors"],
 "vocoder": ["ltx2", "LTX2Vocoder"], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
"""


def build(folder):
    torch.manual_seed(0)
    parts = dict(
        transformer=LTX2VideoTransformer3DModel(
            in_channels=16, out_channels=16, num_attention_heads=4, attention_head_dim=24, cross_attention_dim=96,
            vae_scale_factors=(2, 8, 8), pos_embed_max_pos=2, base_height=32, base_width=32, gated_attn=True,
            cross_attn_mod=True, audio_in_channels=32, audio_out_channels=32, audio_num_attention_heads=4,
            audio_attention_head_dim=16, audio_cross_attention_dim=64, audio_pos_embed_max_pos=2, audio_gated_attn=True,
            audio_cross_attn_mod=True, audio_sampling_rate=8000, audio_hop_length=80, num_layers=4, rope_type="split",
            use_prompt_embeddings=False, perturbed_attn=True),
        connectors=LTX2TextConnectors(
            caption_channels=64, text_proj_in_factor=1, video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=24, video_connector_num_layers=1,
            video_connector_num_learnable_registers=4, audio_connector_num_attention_heads=4,
            audio_connector_attention_head_dim=16, audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=4, rope_type="split", per_modality_projections=True,
            video_hidden_dim=96, audio_hidden_dim=64),
        vae=AutoencoderKLLTX2Video(
            latent_channels=16, block_out_channels=(32, 64), down_block_types=("LTX2VideoDownBlock3D",) * 2,
            decoder_block_out_channels=(32, 64), layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
            spatio_temporal_scaling=(True, True), decoder_spatio_temporal_scaling=(True, True),
            decoder_inject_noise=(False,) * 3, downsample_type=("spatial", "spatiotemporal"),
            upsample_type=("spatiotemporal", "spatial"), upsample_residual=(True, True), upsample_factor=(2, 2),
            patch_size=2, decoder_causal=False, decoder_spatial_padding_mode="zeros"),
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=32, ch_mult=(1, 2, 2), num_res_blocks=1, latent_channels=4, sample_rate=8000,
            mel_hop_length=80, mel_bins=32),
        vocoder=LTX2Vocoder(
            in_channels=64, hidden_channels=64, upsample_kernel_sizes=[10, 8, 4], upsample_factors=[5, 8, 2],
            resnet_kernel_sizes=[3, 7], resnet_dilations=[[1, 3], [1, 3]], output_sampling_rate=8000),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1))
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(INDEX)
    return parts


def best_of(repeats, work):
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def main(folder, repeats):
    parts = build(folder)
    transformer, scheduler = parts["transformer"], parts["scheduler"]
    tokens = FRAMES * HEIGHT * WIDTH
    texts = lambda batch: (torch.randn(batch, TEXT, 96), torch.randn(batch, TEXT, 64), torch.ones(batch, TEXT))

    def call(video, audio, text, sigma):
        t = torch.full((len(video),), 1000.0 * sigma)
        return transformer(
            hidden_states=video, audio_hidden_states=audio, encoder_hidden_states=text[0],
            audio_encoder_hidden_states=text[1], timestep=t, sigma=t, encoder_attention_mask=text[2],
            audio_encoder_attention_mask=text[2], num_frames=FRAMES, height=HEIGHT, width=WIDTH, fps=FPS,
            audio_num_frames=AUDIO_FRAMES, use_cross_timestep=True, return_dict=False)

    def walk(video, audio, text):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), mu=0.95 + 1.1 * (tokens - 1024) / 3072)
        for sigma, after in zip(scheduler.sigmas.tolist(), scheduler.sigmas.tolist()[1:]):
            v, a = call(video, audio, text, sigma)
            video, audio = video + (after - sigma) * v, audio + (after - sigma) * a

    noise = lambda batch: (torch.randn(batch, tokens, 16), torch.randn(batch, AUDIO_FRAMES, 32), texts(batch))
    show = lambda what, seconds: print(f"{what:<44} {seconds * 1e3:9.1f} ms")
    small, large = noise(16), noise(64)
    with torch.no_grad():
        show("forward, 16 clips", best_of(repeats, lambda: call(*small, 0.5)))
        show("64 clips x 8 steps", best_of(max(1, repeats // 2), lambda: walk(*large)))
        video, audio = torch.randn(4, 16, FRAMES, HEIGHT, WIDTH), torch.randn(4, 4, AUDIO_FRAMES, 8)
        show("decode 4 videos", best_of(repeats, lambda: parts["vae"].decode(video)))
        show("decode 4 sounds", best_of(repeats, lambda: parts["vocoder"](parts["audio_vae"].decode(audio).sample)))

    def step():
        v, a = call(*small, 0.5)
        (v.square().mean() + a.square().mean()).backward()

    show("forward and backward, 16 clips", best_of(repeats, step))


main(pathlib.Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 5)
