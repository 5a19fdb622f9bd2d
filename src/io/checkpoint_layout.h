#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::io {

/// Names in a folder of checkpoints, beside those of io/step_folder.h:
///   step_000020/             committed: <part>.safetensors ..., state.json, manifest.json
///   .tmp-step_000020-<nonce> being written, or left by a run that died
///   .trash-step_000020-<nonce>  being deleted
///   damaged-step_000020-<nonce> did not verify when a run resumed; kept for its owner to look at
inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr std::string_view kStateFile = "state.json";
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";
inline constexpr std::string_view kTrashPrefix = ".trash-";
inline constexpr std::string_view kDamagedPrefix = "damaged-";

/// "policy" -> "policy.safetensors".
std::string part_file_name(std::string_view part);

/// What manifest.json says: every file of the checkpoint but itself.
struct Manifest {
  struct File {
    std::string name;
    uint64_t size = 0;   // bytes
    std::string sha256;  // lower-case hexadecimal
  };
  int64_t step = 0;
  int64_t world_size = 1;
  std::string recipe_sha256 = {};
  std::vector<File> files = {};
};

/// JSON with a SHA-256 of its own content, so that a damaged manifest is told from a damaged file.
std::string write_manifest(const Manifest& manifest);
/// Throws BadInput naming the file.
Manifest read_manifest(const std::filesystem::path& path);
/// Every file that the manifest lists must be in the folder with its size and SHA-256, no other beside them. Throws
/// BadInput naming the damaged file. Fault point: load.file.
void verify_files(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace unigrpo::io
