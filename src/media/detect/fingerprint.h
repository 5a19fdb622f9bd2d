#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "media/clip.h"

/// Short descriptions of a clip that survive coding it anew.
namespace unigrpo::media::detect {

/// Signs of the lowest 8 x 8 frequencies (DCT-II, but for the mean) of the picture's brightness at 32 x 32, against
/// their median: "pHash" (Zauner 2010). Of frames at a tenth, half and nine tenths of the clip.
std::array<uint64_t, 3> hash_pictures(const Frames& frames);

/// Signs of the differences of the energies of 17 bands (300 to 3,000 Hz), in time and band: 16 bits every 16 ms, after
/// Haitsma and Kalker 2002 (who have 32 bits every 12 ms). 0 where nothing is heard. For 8,000 samples a second.
std::vector<uint16_t> hash_sound(const Sound& sound);

/// Share of other bits at the best of the places within a quarter of a second, 0..1; bits of silence in both do not
/// count. 0 for two that are both silent, 1 where only one is.
double sound_distance(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b);

}  // namespace unigrpo::media::detect
