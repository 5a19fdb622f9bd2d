#include "checkpoint/resume.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "io/checkpoint_layout.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/step_folder.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

constexpr int64_t kRun = int64_t{1} << 22;  // elements that are copied at once

void read_state(const std::filesystem::path& path, const io::Manifest& manifest, LoadedCheckpoint& checkpoint) {
  const nlohmann::json state = io::read_json_file(path);
  try {
    checkpoint.recipe_toml = state.at("recipe").get<std::string>();
    checkpoint.counters = state.at("counters").get<std::map<std::string, std::string>>();
    if (state.at("step").get<int64_t>() != manifest.step) {
      throw BadInput("{}: step is not its manifest's {}", path.string(), manifest.step);
    }
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not a checkpoint's state: {}", path.string(), error.what());
  }
}

/// Version 1: a file a part, with whole tensors.
void map_whole_files(const io::Manifest& manifest, LoadedCheckpoint& checkpoint) {
  for (const io::Manifest::File& file : manifest.files) {
    const std::filesystem::path name = file.name;
    if (name.extension() != ".safetensors") continue;
    checkpoint.files.emplace_back(checkpoint.folder / name);
    MappedTensors& part = checkpoint.parts[name.stem().string()];
    for (const io::TensorView& view : checkpoint.files.back().tensors()) part[view.name] = mapped(view);
  }
}

/// Version 2: the manifest says where the pieces are.
void map_pieces(const io::Manifest& manifest, LoadedCheckpoint& checkpoint) {
  std::map<std::string, size_t> places;  // file -> index
  for (const io::Manifest::File& file : manifest.files) {
    if (!file.name.ends_with(".safetensors")) continue;
    places.emplace(file.name, checkpoint.files.size());
    checkpoint.files.emplace_back(checkpoint.folder / file.name);
  }
  for (const auto& [part, tensors] : manifest.parts) {
    MappedTensors& of_part = checkpoint.parts[part];
    for (const auto& [name, stored] : tensors) {
      MappedTensor& tensor = of_part[name] = {.dtype = stored.dtype, .shape = stored.shape};
      for (const io::StoredPiece& piece : stored.pieces) {
        const auto place = places.find(piece.file);
        const std::string in_file = io::piece_name(name, piece.first);
        const io::TensorView* view = place == places.end() ? nullptr : checkpoint.files[place->second].find(in_file);
        if (view == nullptr || view->dtype != stored.dtype || view->shape != std::vector<int64_t>{piece.count}) {
          throw BadInput("{}: tensor {} is not there as the manifest says, {} elements of {}",
                         (checkpoint.folder / piece.file).string(), in_quotes(in_file), piece.count,
                         io::dtype_name(stored.dtype));
        }
        tensor.pieces.push_back({.first = piece.first, .count = piece.count, .bytes = view->bytes});
      }
    }
  }
}

/// What is wrong with a checkpoint, as the first rank that sees it says; "" where nothing is. `take`: opens it.
std::string damage_of(const Runtime& runtime, const std::function<void()>& take) {
  std::string damage;
  constexpr const char* kPurpose = "checkpoint's files";
  together(runtime, kPurpose, [&] {
    try {
      take();
    } catch (const BadInput& error) {
      damage = error.what();
    }
  });
  for (std::string& each : gather(runtime, damage, kPurpose)) {
    if (!each.empty()) return std::move(each);
  }
  return "";
}

}  // namespace

int64_t MappedTensor::num_elements() const { return c10::multiply_integers(shape); }

at::Tensor MappedTensor::elements(int64_t first, int64_t count) const {
  // Booleans come as bytes first: a bool that holds 2 is undefined behaviour.
  const bool is_bool = dtype == io::DType::boolean;
  const at::Tensor copy = at::empty({count}, is_bool ? at::kByte : tensor::to_scalar_type(dtype));
  auto* to = static_cast<std::byte*>(copy.mutable_data_ptr());
  const auto size = static_cast<int64_t>(io::dtype_size(dtype));
  for (const Piece& piece : pieces) {
    const int64_t begin = std::max(first, piece.first), end = std::min(first + count, piece.first + piece.count);
    if (begin >= end) continue;
    const auto from = piece.bytes.subspan(static_cast<size_t>((begin - piece.first) * size),
                                          static_cast<size_t>((end - begin) * size));
    std::memcpy(to + (begin - first) * size, from.data(), from.size());
    io::forget_pages(from);
  }
  return is_bool ? copy.ne(0) : copy;
}

at::Tensor MappedTensor::elements(const PieceOf& piece, int64_t count) const {
  if (piece.width == 0) return elements(piece.first, count);
  const int64_t row = shape.back(), first_row = piece.first / piece.width;
  const int64_t end_row = (piece.first + count + piece.width - 1) / piece.width;
  const int64_t rows_a_run = std::max<int64_t>(1, kRun / row);
  at::Tensor columns;  // of the rows that the piece touches
  for (int64_t from = first_row; from < end_row; from += rows_a_run) {
    const int64_t rows = std::min(rows_a_run, end_row - from);
    const at::Tensor run = elements(from * row, rows * row).view({rows, row}).narrow(1, piece.column, piece.width);
    if (!columns.defined()) columns = at::empty({end_row - first_row, piece.width}, run.options());
    columns.narrow(0, from - first_row, rows).copy_(run);
  }
  if (!columns.defined()) return elements(0, 0);
  return columns.view({-1}).narrow(0, piece.first - first_row * piece.width, count).clone();
}

at::Tensor MappedTensor::whole() const { return elements(0, num_elements()).view(shape); }

MappedTensor mapped(const io::TensorView& view) {
  MappedTensor tensor{.dtype = view.dtype, .shape = view.shape};
  tensor.pieces.push_back({.first = 0, .count = tensor.num_elements(), .bytes = view.bytes});
  return tensor;
}

void for_each_run(const MappedTensor& tensor, const std::function<void(const at::Tensor&)>& take) {
  const int64_t size = tensor.num_elements();
  for (int64_t first = 0; first < size; first += kRun) take(tensor.elements(first, std::min(kRun, size - first)));
}

const MappedTensor& stored_for(const NamedTensor& own, const MappedTensors& part, const std::string& where) {
  const auto found = part.find(own.name);
  if (found == part.end()) throw BadInput("{}: tensor '{}' is missing", where, own.name);
  if (found->second.shape != own.shape()) {
    throw BadInput("{}: tensor '{}' has shape [{}], expected [{}]", where, own.name,
                   fmt::join(found->second.shape, ", "), fmt::join(own.shape(), ", "));
  }
  return found->second;
}

const MappedTensors& LoadedCheckpoint::part(std::string_view name) const {
  const auto found = parts.find(std::string(name));
  if (found == parts.end()) throw BadInput("{}: has no {}", folder.string(), io::part_file_name(name));
  return found->second;
}

optim::NamedParameters LoadedCheckpoint::tensors(std::string_view name) const {
  optim::NamedParameters result;
  for (const auto& [tensor, stored] : part(name)) result.push_back({tensor, stored.whole()});
  return result;
}

int64_t LoadedCheckpoint::counter(const std::string& name) const {
  const std::string where = (folder / io::kStateFile).string();
  const auto found = counters.find(name);
  if (found == counters.end()) throw BadInput("{}: counter '{}' is missing", where, name);
  const std::string& text = found->second;
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) {
    throw BadInput("{}: counter '{}' is '{}', a whole number was expected", where, name, text);
  }
  return value;
}

void assign_converted(const optim::NamedParameters& parameters, optim::NamedParameters values,
                      const std::string& where) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::ScalarType> types;
  for (const optim::NamedParameter& own : parameters) types.emplace(own.name, own.tensor.scalar_type());
  for (optim::NamedParameter& value : values) {
    const auto own = types.find(value.name);  // absent: assign() tells
    if (own != types.end()) value.tensor = value.tensor.to(own->second);
  }
  optim::assign(parameters, values, where);
}

LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, const io::Share& share) {
  const io::Manifest manifest = io::read_manifest(folder / io::kManifestFile);
  const auto step = io::parse_step_name(folder.filename().string());
  if (step && *step != manifest.step) {
    throw BadInput("{}: is of step {}, not of the folder's", (folder / io::kManifestFile).string(), manifest.step);
  }
  io::verify_files(folder, manifest, share);
  LoadedCheckpoint checkpoint{.folder = folder, .step = manifest.step};
  read_state(folder / io::kStateFile, manifest, checkpoint);
  if (manifest.parts.empty()) {
    map_whole_files(manifest, checkpoint);
  } else {
    map_pieces(manifest, checkpoint);
  }
  return checkpoint;
}

std::optional<LoadedCheckpoint> newest_checkpoint(const std::filesystem::path& folder,
                                                  const std::function<void(const std::filesystem::path&)>& on_damaged,
                                                  const Runtime& runtime) {
  const std::vector<int64_t> steps = from_root(runtime, io::list_steps(folder), "checkpoints");
  const io::Share share{.rank = runtime.mesh.rank, .size = runtime.mesh.world_size};
  std::vector<std::filesystem::path> damaged;
  std::string first_damage;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::filesystem::path path = folder / io::step_name(*step);
    std::optional<LoadedCheckpoint> checkpoint;
    const std::string damage = damage_of(runtime, [&] { checkpoint = open_checkpoint(path, share); });
    if (!damage.empty()) {
      if (is_root(runtime)) log::warn(damage);
      if (first_damage.empty()) first_damage = damage;
      damaged.push_back(path);
      continue;
    }
    if (!damaged.empty() && is_root(runtime)) {
      log::warn(fmt::format("resuming from step {}, not from the newest checkpoint, which does not verify: {}",
                            checkpoint->step, first_damage));
    }
    together(runtime, "checkpoints", [&] {
      if (!on_damaged || !is_root(runtime)) return;
      for (const std::filesystem::path& other : damaged) on_damaged(other);
    });
    return checkpoint;
  }
  if (damaged.empty()) return std::nullopt;
  throw BadInput("{}: none of {} checkpoints verifies; the newest: {}", folder.string(), damaged.size(), first_damage);
}

}  // namespace unigrpo::checkpoint
