#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "io/safetensors.h"

namespace unigrpo::io {

/// Names in a folder of checkpoints, beside those of io/step_folder.h:
///   step_000020/             committed: <part>.safetensors ... (of several ranks
///   <part>.rank_00002-of-00004.safetensors
///                            each), state.json, manifest.json
///   .tmp-step_000020-<nonce> being written, or left by a run that died
///   .trash-step_000020-<nonce>  being deleted
///   damaged-step_000020-<nonce> did not verify when a run resumed; kept for its owner to look at
inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr std::string_view kStateFile = "state.json";
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";
inline constexpr std::string_view kTrashPrefix = ".trash-";
inline constexpr std::string_view kDamagedPrefix = "damaged-";

/// "policy" -> "policy.safetensors"; rank 2's of 4 "policy.rank_00002-of-00004.safetensors".
std::string part_file_name(std::string_view part, int64_t rank = 0, int64_t world_size = 1);

/// A run of a tensor's elements in row-major order, stored as a tensor of one dimension.
struct StoredPiece {
  std::string file;
  int64_t first = 0;  // element
  int64_t count = 0;
};
/// "layers.0.weight", 4096 -> "layers.0.weight@4096": what the piece's file calls it.
std::string piece_name(std::string_view tensor, int64_t first);

/// A tensor that lies in pieces, which together are the whole of it.
struct StoredTensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape = {};
  std::vector<StoredPiece> pieces = {};  // in order, none empty
};
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

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
  /// Of a checkpoint that several ranks wrote (version 2). Empty: each part is one file with whole tensors (version 1).
  std::map<std::string, StoredTensors> parts = {};
};

template <typename Bytes, SameAs<Manifest::File> T>
void fields(Bytes& bytes, T& file) {
  bytes(file.name, file.size, file.sha256);
}

/// JSON with a SHA-256 of its own content, so that a damaged manifest is told from a damaged file.
std::string write_manifest(const Manifest& manifest);
/// Throws BadInput naming the file, and where pieces leave a hole, overlap, or lie in no file of the checkpoint.
Manifest read_manifest(const std::filesystem::path& path);

/// Who of several looks at a file: number i of the manifest is that of `rank` i mod `size`.
struct Share {
  int64_t rank = 0, size = 1;
};
/// Every file of the share that the manifest lists must be in the folder with its size and SHA-256; rank 0 also sees
/// that no other is beside them. Throws BadInput naming the damaged file. Fault point: load.file.
void verify_files(const std::filesystem::path& folder, const Manifest& manifest, const Share& share = {});

/// One file of a part on its way to disk; the tensors' bytes belong to somebody else.
struct PartFile {
  std::string name;
  std::vector<TensorView> tensors;
};
/// Writes them into `folder`, each durable, and says what they are. Throws RuntimeFailure where the disk refuses,
/// DiskFull where it has no space. Fault points: save.part and those of AtomicFile, for each file.
std::vector<Manifest::File> write_part_files(const std::filesystem::path& folder, const std::vector<PartFile>& files);

/// A file that is there, as a manifest lists it.
Manifest::File describe_file(const std::filesystem::path& path);
/// Does nothing for error 0; throws DiskFull or RuntimeFailure "<path>: cannot <doing>: <cause>".
void check_write(int error, const std::filesystem::path& path, std::string_view doing);

}  // namespace unigrpo::io
