#include "io/checkpoint_layout.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/fault.h"
#include "base/text.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace unigrpo::io {
namespace {

constexpr std::string_view kFormat = "unigrpo checkpoint";
constexpr int64_t kVersion = 1;

// Of everything but the checksum itself; keys are sorted, so the text is a function of the content.
std::string checksum(nlohmann::json object) {
  object.erase("sha256");
  return sha256_hex(object.dump());
}

}  // namespace

std::string part_file_name(std::string_view part) { return fmt::format("{}.safetensors", part); }

std::string write_manifest(const Manifest& manifest) {
  nlohmann::json files = nlohmann::json::array();
  for (const Manifest::File& file : manifest.files) {
    files.push_back({{"name", file.name}, {"size", file.size}, {"sha256", file.sha256}});
  }
  nlohmann::json object = {{"format", kFormat},
                           {"version", kVersion},
                           {"step", manifest.step},
                           {"world_size", manifest.world_size},
                           {"recipe_sha256", manifest.recipe_sha256},
                           {"files", files}};
  object["sha256"] = checksum(object);
  return object.dump(2) + "\n";
}

Manifest read_manifest(const std::filesystem::path& path) {
  const nlohmann::json object = read_json_file(path, {.max_depth = 8}, size_t{16} << 20);
  const std::string where = path.string();
  try {
    if (object.at("sha256").get<std::string>() != checksum(object)) {
      throw BadInput("{}: its content does not match its own SHA-256; the file is damaged", where);
    }
    if (object.at("format").get<std::string>() != kFormat || object.at("version").get<int64_t>() != kVersion) {
      throw BadInput("{}: not a manifest of '{}', version {}", where, kFormat, kVersion);
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
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not a checkpoint's manifest: {}", where, error.what());
  }
}

void verify_files(const std::filesystem::path& folder, const Manifest& manifest) {
  std::set<std::string> expected = {std::string(kManifestFile)};
  for (const Manifest::File& file : manifest.files) {
    const std::filesystem::path path = folder / file.name;
    expected.insert(file.name);
    fault::point("load.file");
    const MappedFile mapped(path);
    if (mapped.bytes().size() != file.size) {
      throw BadInput("{}: has {} bytes, its manifest says {}", path.string(), mapped.bytes().size(), file.size);
    }
    const char* text = reinterpret_cast<const char*>(mapped.bytes().data());
    const std::string found = sha256_hex({text, mapped.bytes().size()});
    if (found != file.sha256) {
      throw BadInput("{}: SHA-256 is {}, its manifest says {}; the file is damaged", path.string(), found, file.sha256);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!expected.contains(entry.path().filename().string())) {
      throw BadInput("{}: not a file of this checkpoint's manifest", entry.path().string());
    }
  }
}

}  // namespace unigrpo::io
