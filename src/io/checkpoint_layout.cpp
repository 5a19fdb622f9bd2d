#include "io/checkpoint_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/fault.h"
#include "base/sha256.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/safetensors_header.h"

namespace unigrpo::io {
namespace {

constexpr std::string_view kFormat = "unigrpo checkpoint";
constexpr int64_t kWholeFiles = 1, kPieces = 2;  // versions
constexpr size_t kMaxBytes = size_t{256} << 20;

// Of everything but the checksum itself; keys are sorted, so the text is a function of the content.
std::string checksum(nlohmann::json object) {
  object.erase("sha256");
  return sha256_hex(object.dump());
}

nlohmann::json to_json(const std::map<std::string, StoredTensors>& parts) {
  nlohmann::json object = nlohmann::json::object();
  for (const auto& [part, tensors] : parts) {
    nlohmann::json& list = object[part] = nlohmann::json::object();
    for (const auto& [name, tensor] : tensors) {
      nlohmann::json pieces = nlohmann::json::array();
      for (const StoredPiece& piece : tensor.pieces) {
        pieces.push_back({{"file", piece.file}, {"first", piece.first}, {"count", piece.count}});
      }
      list[name] = {{"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"pieces", pieces}};
    }
  }
  return object;
}

StoredTensor to_tensor(const nlohmann::json& object, const std::set<std::string>& files, const std::string& where) {
  const auto dtype = enum_value<DType>(object.at("dtype").get<std::string>());
  StoredTensor tensor{.shape = object.at("shape").get<std::vector<int64_t>>()};
  const bool counted = dtype && std::ranges::none_of(tensor.shape, [](int64_t size) { return size < 0; });
  const auto bytes = counted ? tensor_bytes(tensor.shape, *dtype) : std::nullopt;
  if (!bytes) throw BadInput("{}: is of no dtype or shape that we know", where);
  tensor.dtype = *dtype;
  const auto num_elements = static_cast<int64_t>(*bytes / dtype_size(*dtype));
  int64_t covered = 0;
  for (const nlohmann::json& each : object.at("pieces")) {
    const StoredPiece piece{.file = each.at("file").get<std::string>(),
                            .first = each.at("first").get<int64_t>(),
                            .count = each.at("count").get<int64_t>()};
    if (!files.contains(piece.file))
      throw BadInput("{}: lies in {}, which is not listed", where, in_quotes(piece.file));
    if (piece.first != covered || piece.count < 1 || piece.count > num_elements - covered) {
      throw BadInput("{}: {} elements from {} on do not follow the {} before them, of {}", where, piece.count,
                     piece.first, covered, num_elements);
    }
    covered += piece.count;
    tensor.pieces.push_back(piece);
  }
  if (covered != num_elements) throw BadInput("{}: has {} of {} elements", where, covered, num_elements);
  return tensor;
}

void read_parts(const nlohmann::json& object, const std::string& where, Manifest& manifest) {
  std::set<std::string> files;
  for (const Manifest::File& file : manifest.files) files.insert(file.name);
  for (const auto& [part, tensors] : object.items()) {
    StoredTensors& stored = manifest.parts[part];
    for (const auto& [name, tensor] : tensors.items()) {
      stored.emplace(name, to_tensor(tensor, files, fmt::format("{}: tensor {} of {}", where, in_quotes(name), part)));
    }
  }
}

}  // namespace

std::string part_file_name(std::string_view part, int64_t rank, int64_t world_size) {
  if (world_size == 1) return fmt::format("{}.safetensors", part);
  return fmt::format("{}.rank_{:05}-of-{:05}.safetensors", part, rank, world_size);
}

std::string piece_name(std::string_view tensor, int64_t first) { return fmt::format("{}@{}", tensor, first); }

std::string write_manifest(const Manifest& manifest) {
  nlohmann::json files = nlohmann::json::array();
  for (const Manifest::File& file : manifest.files) {
    files.push_back({{"name", file.name}, {"size", file.size}, {"sha256", file.sha256}});
  }
  nlohmann::json object = {{"format", kFormat},
                           {"version", manifest.parts.empty() ? kWholeFiles : kPieces},
                           {"step", manifest.step},
                           {"world_size", manifest.world_size},
                           {"recipe_sha256", manifest.recipe_sha256},
                           {"files", files}};
  if (!manifest.parts.empty()) object["parts"] = to_json(manifest.parts);
  object["sha256"] = checksum(object);
  return object.dump(2) + "\n";
}

Manifest read_manifest(const std::filesystem::path& path) {
  const nlohmann::json object = read_json_file(path, {.max_depth = 8, .max_values = 16'000'000}, kMaxBytes);
  const std::string where = path.string();
  try {
    if (object.at("sha256").get<std::string>() != checksum(object)) {
      throw BadInput("{}: its content does not match its own SHA-256; the file is damaged", where);
    }
    const auto version = object.at("version").get<int64_t>();
    if (object.at("format").get<std::string>() != kFormat || (version != kWholeFiles && version != kPieces)) {
      throw BadInput("{}: not a manifest of '{}', version {} or {}", where, kFormat, kWholeFiles, kPieces);
    }
    Manifest manifest{.step = object.at("step").get<int64_t>(),
                      .world_size = object.at("world_size").get<int64_t>(),
                      .recipe_sha256 = object.at("recipe_sha256").get<std::string>()};
    for (const nlohmann::json& file : object.at("files")) {
      manifest.files.push_back({.name = file.at("name").get<std::string>(),
                                .size = file.at("size").get<uint64_t>(),
                                .sha256 = file.at("sha256").get<std::string>()});
      const std::string& name = manifest.files.back().name;
      if (name.empty() || name.find('/') != std::string::npos || name.front() == '.') {
        throw BadInput("{}: '{}' is not a plain file name", where, name);
      }
    }
    if (version == kPieces) read_parts(object.at("parts"), where, manifest);
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not a checkpoint's manifest: {}", where, error.what());
  }
}

void verify_files(const std::filesystem::path& folder, const Manifest& manifest, const Share& share) {
  std::set<std::string> expected = {std::string(kManifestFile)};
  int64_t number = 0;
  for (const Manifest::File& file : manifest.files) {
    const std::filesystem::path path = folder / file.name;
    expected.insert(file.name);
    if (number++ % share.size != share.rank) continue;
    fault::point("load.file");
    if (const uint64_t size = InputFile(path).size(); size != file.size) {
      throw BadInput("{}: has {} bytes, its manifest says {}", path.string(), size, file.size);
    }
    // Read, not mapped: a file may be larger than the memory that its reader is to take.
    const std::string found = sha256_of_file(path);
    if (found != file.sha256) {
      throw BadInput("{}: SHA-256 is {}, its manifest says {}; the file is damaged", path.string(), found, file.sha256);
    }
  }
  if (share.rank != 0) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!expected.contains(entry.path().filename().string())) {
      throw BadInput("{}: not a file of this checkpoint's manifest", entry.path().string());
    }
  }
}

std::vector<Manifest::File> write_part_files(const std::filesystem::path& folder, const std::vector<PartFile>& files) {
  std::vector<Manifest::File> written;
  for (const PartFile& file : files) {
    const std::filesystem::path path = folder / file.name;
    check_write(fault::effect("save.part").error, path, "write");
    write_safetensors(path, file.tensors);
    written.push_back(describe_file(path));
  }
  return written;
}

Manifest::File describe_file(const std::filesystem::path& path) {
  return {.name = path.filename().string(), .size = std::filesystem::file_size(path), .sha256 = sha256_of_file(path)};
}

void check_write(int error, const std::filesystem::path& path, std::string_view doing) {
  if (error == 0) return;
  if (error == ENOSPC || error == EDQUOT) {
    throw DiskFull("{}: cannot {}: {}", path.string(), doing, std::strerror(error));
  }
  throw RuntimeFailure("{}: cannot {}: {}", path.string(), doing, std::strerror(error));
}

}  // namespace unigrpo::io
