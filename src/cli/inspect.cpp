#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/inspect_run.h"
#include "data/prompt_file.h"
#include "data/tokenizer/tokenizer.h"
#include "io/checkpoint_layout.h"
#include "io/model_folder.h"
#include "io/step_folder.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

UNIGRPO_ENUM(Kind, safetensors, tokenizer, prompts, checkpoint, run);

struct Options {
  std::string path;
  std::string as;
  std::optional<std::string> text;
  bool json = false;
};

constexpr size_t kPeekBytes = 64 << 10;

std::string first_bytes(const fs::path& path) {
  std::string bytes(kPeekBytes, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

Kind kind_of_folder(const fs::path& folder) {
  if (fs::exists(folder / io::kManifestFile) && fs::exists(folder / io::kStateFile)) return Kind::checkpoint;
  if (fs::exists(folder / "recipe.toml") || fs::exists(folder / "metrics.jsonl")) return Kind::run;
  if (const auto steps = io::list_steps(folder); !steps.empty()) {
    throw BadInput("{}: holds {} steps; name one, the newest is {}", folder.string(), steps.size(),
                   (folder / io::step_name(steps.back())).string());
  }
  bool tensors = false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) tensors = true;
  }
  const bool tokenizer = fs::exists(folder / "vocab.json") || fs::exists(folder / "merges.txt") ||
                         fs::exists(folder / "tokenizer.json") || fs::exists(folder / "tokenizer.model");
  if (tensors && tokenizer) {
    throw BadInput("{}: holds both a checkpoint and a tokenizer; say which with --as safetensors or --as tokenizer",
                   folder.string());
  }
  if (!tensors && !tokenizer) {
    throw BadInput(
        "{}: holds neither a checkpoint (*.safetensors) nor a tokenizer (vocab.json + merges.txt, "
        "tokenizer.json, tokenizer.model) nor a run (recipe.toml, metrics.jsonl)",
        folder.string());
  }
  return tensors ? Kind::safetensors : Kind::tokenizer;
}

/// By the name where it says enough, else by the first bytes. The loader then judges the whole file.
Kind detect_kind(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw BadInput("{}: no such file or folder{}", path.string(), seen_from(path));
  if (fs::is_directory(path)) return kind_of_folder(path);
  const std::string name = path.filename().string();
  const std::string extension = path.extension().string();
  if (extension == ".safetensors" || name.ends_with(".index.json")) return Kind::safetensors;
  if (extension == ".model") return Kind::tokenizer;
  if (extension == ".toml") throw BadInput("{}: a recipe; `unigrpo recipe {}` checks it", path.string(), path.string());
  if (name == "metrics.jsonl" || name == "samples.jsonl") {
    throw BadInput("{}: written by a run; `unigrpo inspect` takes the run folder, `unigrpo report` shows what is in it",
                   path.string());
  }
  if (extension == ".jsonl" || extension == ".txt") return Kind::prompts;
  const std::string head = first_bytes(path);
  if (extension == ".json") {
    if (head.find("\"weight_map\"") != std::string::npos) return Kind::safetensors;
    for (const char* key : {"\"model\"", "\"vocab\"", "\"added_tokens\""}) {
      if (head.find(key) != std::string::npos) return Kind::tokenizer;
    }
    return head.find("\"prompt\"") != std::string::npos ? Kind::prompts : Kind::tokenizer;
  }
  if (head.size() > 8 && head[8] == '{') return Kind::safetensors;  // 8 bytes of length, then the header
  if (head.starts_with('{')) return Kind::prompts;
  throw BadInput("{}: cannot tell what this is; say it with --as {}", path.string(), enum_choices<Kind>());
}

std::string_view bytes_of(const io::TensorView& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

std::string inspect_safetensors(const Options& options) {
  const auto checkpoint = io::Checkpoint::open(options.path);
  if (options.json) {
    Json tensors = Json::array();
    for (const io::TensorView* tensor : checkpoint.tensors()) {
      tensors.push_back(Json{{"name", tensor->name},
                             {"dtype", io::dtype_name(tensor->dtype)},
                             {"shape", tensor->shape},
                             {"sha256", sha256_hex(bytes_of(*tensor))}});
    }
    return Json{{"kind", "safetensors"}, {"tensors", tensors}, {"metadata", checkpoint.metadata()}}.dump();
  }
  uint64_t total = 0;
  std::string lines;
  for (const io::TensorView* tensor : checkpoint.tensors()) {
    total += tensor->bytes.size();
    lines += fmt::format("\n  {} {:<7} {:<20} {}", sha256_hex(bytes_of(*tensor)), io::dtype_name(tensor->dtype),
                         fmt::format("[{}]", fmt::join(tensor->shape, ", ")), Json(tensor->name).dump());
  }
  std::string text =
      fmt::format("{}: safetensors, {} tensors, {}", options.path, checkpoint.tensors().size(), human_bytes(total)) +
      lines;
  for (const auto& [key, value] : checkpoint.metadata()) {
    text += fmt::format("\n  metadata {}: {}", Json(key).dump(), Json(value).dump());
  }
  return text;
}

std::string inspect_tokenizer(const Options& options) {
  const auto tokenizer = data::open_tokenizer(options.path);
  std::optional<std::vector<int64_t>> ids;
  if (options.text) ids = tokenizer->encode(*options.text);
  if (options.json) {
    Json result{{"kind", "tokenizer"},
                {"vocab_size", tokenizer->vocab_size()},
                {"special_tokens", tokenizer->special_tokens()}};
    if (ids) result["ids"] = *ids;
    return result.dump();
  }
  std::string text = fmt::format("{}: tokenizer, {} ids, {} special tokens", options.path, tokenizer->vocab_size(),
                                 tokenizer->special_tokens().size());
  for (const auto& [token, id] : tokenizer->special_tokens()) {
    text += fmt::format("\n  {:>6} {}", id, Json(token).dump());
  }
  if (ids) text += "\n  ids " + Json(*ids).dump();
  return text;
}

/// Prompts by tag, in order of name; rows without one come as "".
std::map<std::string, int64_t> count_tags(std::span<const data::Prompt> prompts) {
  std::map<std::string, int64_t> tags;
  for (const data::Prompt& prompt : prompts) ++tags[prompt.tag];
  return tags;
}

/// How the reader understood a row: what a prompt file that is read as plain text by mistake shows.
Json row_json(const data::Prompt& prompt) {
  Json row{{"id", prompt.id}, {"prompt", prompt.text}};
  if (!prompt.images.empty()) row["images"] = prompt.images;
  if (!prompt.target.empty()) row["target"] = prompt.target.size();
  if (prompt.seed) row["seed"] = *prompt.seed;
  if (prompt.weight != 1.0) row["weight"] = prompt.weight;
  if (prompt.metadata_json != "{}") row.update(Json::parse(prompt.metadata_json));
  return row;
}

std::string inspect_prompts(const Options& options) {
  const auto prompts = data::read_prompt_file(options.path);
  if (options.json) return Json{{"kind", "prompts"}, {"rows", prompts.size()}}.dump();
  auto tags = count_tags(prompts);
  const auto with = [&](auto has) { return std::ranges::count_if(prompts, has); };
  const auto images = with([](const data::Prompt& prompt) { return !prompt.images.empty(); });
  const auto targets = with([](const data::Prompt& prompt) { return !prompt.target.empty(); });
  std::string text = fmt::format("{}: prompts, {} rows", options.path, prompts.size());
  if (images > 0) text += fmt::format(", {} with images", images);
  if (targets > 0) text += fmt::format(", {} with a target", targets);
  if (const auto plain = tags.extract(""); plain && !tags.empty()) tags["(none)"] = plain.mapped();
  for (const auto& [tag, count] : tags) text += fmt::format("\n  tag {:<20} {:>8} rows", tag, count);
  return text + "\n  first row " + row_json(prompts.front()).dump();
}

// The answer is complete before its first byte is printed: a rejected file leaves nothing on stdout.
std::string inspect(const Options& options, Kind kind) {
  if (options.text && kind != Kind::tokenizer)
    throw BadInput("--text goes with a tokenizer, {} holds {}", options.path, enum_name(kind));
  if (options.text && !is_valid_utf8(*options.text)) throw BadInput("--text: not UTF-8");
  switch (kind) {
    case Kind::safetensors:
      return inspect_safetensors(options);
    case Kind::tokenizer:
      return inspect_tokenizer(options);
    case Kind::prompts:
      return inspect_prompts(options);
    case Kind::checkpoint:
      return inspect_checkpoint(options.path, options.json);
    case Kind::run:
      return inspect_run(options.path, options.json);
  }
  throw RuntimeFailure("unknown kind");
}

int run_inspect(const Options& options) {
  const Kind kind = options.as.empty() ? detect_kind(options.path) : *enum_value<Kind>(options.as);
  const std::string answer = inspect(options, kind) + "\n";
  std::fwrite(answer.data(), 1, answer.size(), stdout);
  return 0;
}

}  // namespace

Run declare_inspect(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("path", options->path, "File or folder: weights, a tokenizer, prompts, a run, a checkpoint of one")
      ->required();
  app.add_option("--as", options->as, "What it is; found out from name and content without this")
      ->check(CLI::IsMember({"safetensors", "tokenizer", "prompts", "checkpoint", "run"}));
  app.add_option("--text", options->text, "Tokenizer: print the ids of this text (no specials added)");
  app.add_flag("--json", options->json, "One JSON object on one line");
  return [options] { return run_inspect(*options); };
}

}  // namespace unigrpo::cli
