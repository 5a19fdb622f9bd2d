#pragma once

#include <filesystem>

#include "media/clip.h"

namespace unigrpo::media {

/// A WAV file of 16-bit samples (rounded, limited to -1..1), written whole or not at all. Throws RuntimeFailure for no
/// sound, a channel count above 65,535 or what cannot be written; and for samples that are no numbers.
void write_wav(const std::filesystem::path& path, const Sound& sound);

/// Reads such a file back. Not for files of others (read_clip.h): throws BadInput for anything that write_wav does not
/// write.
Sound read_wav(const std::filesystem::path& path);

}  // namespace unigrpo::media
