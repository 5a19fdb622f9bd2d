#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace unigrpo::io {

/// Writes a whole file or nothing: temporary file beside it, fsync, rename, fsync of the folder.
/// Throws RuntimeFailure naming path and cause (with bytes needed and free when the disk is full).
void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomic(const std::filesystem::path& path, std::string_view text);

/// fsync of a folder, so that a rename in it survives power loss.
void sync_folder(const std::filesystem::path& folder);

/// The file's bytes as text. Throws BadInput (missing, unreadable, a folder, over `max_bytes`).
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{256} << 20);

}  // namespace unigrpo::io
