#include "data/prompt_file.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/image_codec.h"
#include "io/json.h"

namespace unigrpo::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxLineBytes = size_t{4} << 20;
constexpr size_t kMaxPromptBytes = size_t{64} << 10;
constexpr size_t kMaxShortTextBytes = size_t{4} << 10;  // id, tag, class names, one path
constexpr size_t kMaxRows = 4'000'000;
constexpr int64_t kMaxCount = 1'000'000;

constexpr std::string_view kJsonLines[] = {".jsonl", ".json", ".ndjson"};
// Formats that as plain text would be prompts that nobody meant.
constexpr std::string_view kNotRead[] = {
    ".csv",  ".tsv",  ".psv",    ".parquet", ".arrow", ".feather", ".orc", ".avro", ".yaml",   ".yml", ".toml",
    ".xml",  ".html", ".xls",    ".xlsx",    ".ods",   ".npy",     ".npz", ".pkl",  ".pickle", ".pt",  ".h5",
    ".hdf5", ".db",   ".sqlite", ".gz",      ".bz2",   ".xz",      ".zst", ".zip",  ".tar",    ".tgz", ".tfrecord"};
constexpr std::string_view kWhatIsRead =
    "prompt files are JSONL (.jsonl: a JSON object a line, with a \"prompt\") or plain text (.txt: a prompt a line)";

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// White_Space of Unicode above ASCII, as UTF-8.
constexpr std::array<std::string_view, 19> kWideSpaces = {
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83",
    "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
    "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};

bool is_blank(std::string_view text) {
  while (!text.empty()) {
    const auto c = static_cast<unsigned char>(text.front());
    // U+001C..U+001F separate records and are blank too, as Python's str.strip has it.
    if (c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F)) {
      text.remove_prefix(1);
      continue;
    }
    const auto* space =
        std::find_if(kWideSpaces.begin(), kWideSpaces.end(), [&](std::string_view s) { return text.starts_with(s); });
    if (space == kWideSpaces.end()) return false;
    text.remove_prefix(space->size());
  }
  return true;
}

bool is_json_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

std::string found(const Json& value) {
  if (value.is_object() || value.is_array() || value.is_null()) return value.type_name();
  return in_quotes(value.is_string() ? value.get_ref<const std::string&>() : value.dump(), 40);
}

/// Reads one row's fields; `where` is "file:line".
class RowReader {
 public:
  RowReader(std::string where, const std::filesystem::path& folder) : where_(std::move(where)), folder_(folder) {}

  Prompt read(std::string_view line) const {
    // Integers beyond 64 bits come through as reals, to be refused by the name of their field.
    Json row = io::parse_json(line, where_, {.wide_integers = true});
    if (!row.is_object()) {
      throw BadInput("{}: a row must be a JSON object, found {}", where_, row.type_name());
    }
    Prompt prompt;
    Json metadata = Json::object();
    for (auto& [name, value] : row.items()) {
      if (name == "prompt") {
        prompt.text = string(name, value, kMaxPromptBytes);
        check_prompt(prompt.text);
      } else if (name == "id") {
        prompt.id = string(name, value, kMaxShortTextBytes);
        if (prompt.id.empty()) throw BadInput("{}: id must not be empty", where_);
      } else if (name == "seed") {
        prompt.seed = integer(name, value, 0, std::numeric_limits<int64_t>::max());
      } else if (name == "weight") {
        prompt.weight = weight(value);
      } else if (name == "images") {
        prompt.images = images(value);
      } else if (name == "target") {
        prompt.target = target(value);
      } else {
        check_metadata(name, value);
        if (name == "tag") prompt.tag = value.get<std::string>();
        metadata[name] = std::move(value);
      }
    }
    if (!row.contains("prompt")) throw BadInput("{}: prompt is missing", where_);
    prompt.metadata_json = metadata.dump();
    return prompt;
  }

  void check_prompt(std::string_view text) const {
    if (is_blank(text)) throw BadInput("{}: prompt is blank", where_);
    if (text.size() > kMaxPromptBytes) {
      throw BadInput("{}: prompt has {} bytes, at most {} are allowed (64 KiB)", where_, text.size(), kMaxPromptBytes);
    }
    if (text.find('\0') != std::string_view::npos) {
      throw BadInput("{}: prompt holds a NUL character", where_);
    }
  }

 private:
  std::string string(std::string_view name, const Json& value, size_t max_bytes) const {
    if (!value.is_string()) {
      throw BadInput("{}: {} must be a string, found {}", where_, name, found(value));
    }
    const auto& text = value.get_ref<const std::string&>();
    if (text.size() > max_bytes) {
      throw BadInput("{}: {} has {} bytes, at most {} are allowed", where_, name, text.size(), max_bytes);
    }
    if (text.find('\0') != std::string::npos) {
      throw BadInput("{}: {} holds a NUL character", where_, name);
    }
    return text;
  }

  int64_t integer(std::string_view name, const Json& value, int64_t low, int64_t high) const {
    const bool fits =
        value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(high) : value.is_number_integer();
    if (!fits || value.get<int64_t>() < low) {
      throw BadInput("{}: {} must be an integer in {}..{}, found {}", where_, name, low, high, found(value));
    }
    return value.get<int64_t>();
  }

  double weight(const Json& value) const {
    const double number = value.is_number() ? value.get<double>() : 0.0;
    if (!(number > 0) || !std::isfinite(number)) {
      throw BadInput("{}: weight must be a finite number above 0, found {}", where_, found(value));
    }
    return number;
  }

  const Json& array(std::string_view name, const Json& value) const {
    if (!value.is_array()) {
      throw BadInput("{}: {} must be a list, found {}", where_, name, found(value));
    }
    return value;
  }

  /// A path inside the dataset folder, joined to it.
  std::string image_path(const std::string& name, const Json& value) const {
    const std::string path = string(name, value, kMaxShortTextBytes);
    if (const std::string why = path_fault(path); !why.empty()) {
      throw BadInput("{}: {}: {} {}; a relative path inside the dataset folder is expected", where_, name,
                     in_quotes(path), why);
    }
    return (folder_ / path).string();
  }

  std::vector<std::string> images(const Json& value) const {
    std::vector<std::string> paths;
    for (const Json& item : array("images", value)) {
      paths.push_back(image_path(fmt::format("images[{}]", paths.size()), item));
    }
    return paths;
  }

  /// [{"type": "text", "text"} or {"type": "image", "path"}, ...]
  std::vector<TargetSegment> target(const Json& value) const {
    std::vector<TargetSegment> segments;
    for (const Json& item : array("target", value)) {
      const std::string name = fmt::format("target[{}]", segments.size());
      if (!item.is_object()) throw BadInput("{}: {} must be an object, found {}", where_, name, found(item));
      const std::string type = item.contains("type") ? string(name + ".type", item["type"], kMaxShortTextBytes) : "";
      if (type != "text" && type != "image") {
        throw BadInput("{}: {}.type must be \"text\" or \"image\", found {}", where_, name,
                       item.contains("type") ? in_quotes(type) : "none");
      }
      const std::string key = type == "text" ? "text" : "path";
      for (const auto& [field, unused] : item.items()) {
        if (field != "type" && field != key) {
          throw BadInput("{}: unknown field {} in {} of type \"{}\"", where_, in_quotes(field), name, type);
        }
      }
      if (!item.contains(key)) throw BadInput("{}: {}.{} is missing", where_, name, key);
      TargetSegment& segment = segments.emplace_back();
      if (type == "image") {
        segment.image = image_path(name + ".path", item[key]);
        continue;
      }
      segment.text = string(name + ".text", item[key], kMaxLineBytes);
      if (is_blank(segment.text)) throw BadInput("{}: {}.text is blank", where_, name);
    }
    if (segments.empty()) throw BadInput("{}: target must not be empty", where_);
    return segments;
  }

  // Why a path may lead out of the dataset folder or is none; empty where it is good. What other
  // systems or a URL decoder would take for a separator or for dots is refused as well.
  static std::string path_fault(std::string_view path) {
    if (is_blank(path)) return "is empty";
    if (path.find('\\') != std::string_view::npos) return "holds a backslash";
    if (path.front() == '/') return "is absolute";
    if (path.front() == '~') return "starts in a home folder";
    if (std::any_of(path.begin(), path.end(),
                    [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; })) {
      return "holds a control character";
    }
    const std::string lower = lower_case(std::string(path));
    for (const char* code : {"%2e", "%2f", "%5c", "%00"}) {
      if (lower.find(code) != std::string::npos) return "is URL-encoded";
    }
    const size_t colon = lower.find(':');
    if (colon != std::string::npos && colon > 0 &&
        lower.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+.-") == colon) {
      return "is a URL or names a drive";
    }
    for (size_t begin = 0; begin <= path.size();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      const std::string_view part = path.substr(begin, end - begin);
      if (part == "..") return "has a '..' part";
      if (end == path.size() && (part.empty() || part == ".")) return "names a folder";
      begin = end + 1;
    }
    return {};
  }

  void check_metadata(const std::string& name, const Json& value) const {
    if (name == "tag") {
      string(name, value, kMaxShortTextBytes);
    } else if (name == "reference") {
      string(name, value, kMaxLineBytes);
    } else if (name == "tags") {
      size_t index = 0;
      for (const Json& item : array(name, value)) {
        string(fmt::format("tags[{}]", index++), item, kMaxShortTextBytes);
      }
    } else if (name == "metadata") {
      if (!value.is_object()) {
        throw BadInput("{}: metadata must be an object, found {}", where_, found(value));
      }
    } else if (name == "include" || name == "exclude") {
      size_t index = 0;
      for (const Json& item : array(name, value)) {
        check_requirement(fmt::format("{}[{}]", name, index++), item, value.size());
      }
    } else {
      static const std::vector<std::string> known = {"prompt", "id",      "seed",    "weight",    "images",   "tag",
                                                     "tags",   "include", "exclude", "reference", "metadata", "target"};
      const std::string near = nearest(name, known);
      throw BadInput("{}: unknown field {}{}", where_, in_quotes(name),
                     near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
    }
  }

  // One entry of GenEval's include or exclude: {class, count, color?, position?: [relation,
  // index]}.
  void check_requirement(const std::string& name, const Json& value, size_t num_entries) const {
    if (!value.is_object()) {
      throw BadInput("{}: {} must be an object, found {}", where_, name, found(value));
    }
    for (const auto& [key, item] : value.items()) {
      const std::string full = name + "." + key;
      if (key == "class" || key == "color") {
        if (string(full, item, kMaxShortTextBytes).empty()) {
          throw BadInput("{}: {} must not be empty", where_, full);
        }
      } else if (key == "count") {
        integer(full, item, 1, kMaxCount);
      } else if (key == "position") {
        if (array(full, item).size() != 2) {
          throw BadInput("{}: {} must be [relation, index], found {} items", where_, full, item.size());
        }
        string(full + "[0]", item[0], kMaxShortTextBytes);
        integer(full + "[1]", item[1], 0, static_cast<int64_t>(num_entries) - 1);
      } else {
        throw BadInput("{}: unknown field {} in {}", where_, in_quotes(key), name);
      }
    }
    for (const char* key : {"class", "count"}) {
      if (!value.contains(key)) throw BadInput("{}: {}.{} is missing", where_, name, key);
    }
  }

  std::string where_;
  const std::filesystem::path& folder_;
};

// Rows without an id are called by their index; where a row elsewhere took that for its own, by
// "row-<index>" (with more dashes until it is free).
void name_rows(const std::filesystem::path& path, std::vector<Prompt>& prompts) {
  std::map<std::string, int64_t> line_of_id;
  for (const Prompt& prompt : prompts) {
    if (prompt.id.empty()) continue;
    const auto [other, is_new] = line_of_id.try_emplace(prompt.id, prompt.line);
    if (!is_new) {
      throw BadInput("{}:{}: duplicate id {}, line {} has it already", path.string(), prompt.line, in_quotes(prompt.id),
                     other->second);
    }
  }
  for (Prompt& prompt : prompts) {
    if (!prompt.id.empty()) continue;
    prompt.id = std::to_string(prompt.index);
    std::string dashes = "-";
    while (line_of_id.contains(prompt.id)) {
      prompt.id = "row" + dashes + std::to_string(prompt.index);
      dashes += "-";
    }
  }
}

// A list, or one object over several lines, is JSON and no JSONL.
void refuse_one_value(const std::filesystem::path& path, const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return;
  const std::string where = fmt::format("{}:{}", path.string(), 1 + std::ranges::count(text.substr(0, begin), '\n'));
  if (text[begin] == '[') throw BadInput("{}: a JSON list; {}", where, kWhatIsRead);
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (text[begin] != '{' || text[end] != '}') return;
  const size_t line_end = text.find_last_not_of(" \t\r", std::min(text.find('\n', begin), end + 1) - 1);
  if (text[line_end] != '{' && text[line_end] != ',') return;  // a row, or one that its own error tells of
  if (!Json::accept(text)) return;
  throw BadInput("{}: one JSON object over several lines; {}", where, kWhatIsRead);
}

// What has the name of plain text, and is not: files with a magic number, and rows of JSON.
void refuse_hidden_format(const std::filesystem::path& path, const std::string& text) {
  const std::pair<std::string_view, const char*> magics[] = {{"PAR1", "a Parquet file"},
                                                             {"ARROW1", "an Arrow file"},
                                                             {"\x1F\x8B", "compressed by gzip"},
                                                             {"PK\x03\x04", "a zip file"},
                                                             {"\x28\xB5\x2F\xFD", "compressed by zstd"},
                                                             {"SQLite format 3", "a database"},
                                                             {"\xEF\xBB\xBF", "begins with a byte order mark"}};
  for (const auto& [magic, what] : magics) {
    if (text.starts_with(magic)) throw BadInput("{}: {}; {}", path.string(), what, kWhatIsRead);
  }
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos || text[begin] != '{') return;
  const std::string_view line = std::string_view(text).substr(begin, text.find('\n', begin) - begin);
  if (!Json::parse(line, nullptr, false).is_object()) return;
  throw BadInput("{}: rows of JSON, in a file whose name does not end in .jsonl; {}", path.string(), kWhatIsRead);
}

}  // namespace

std::vector<Prompt> read_prompt_file(const std::filesystem::path& path) {
  const std::string extension = lower_case(path.extension().string());
  const bool is_json = std::ranges::find(kJsonLines, extension) != std::end(kJsonLines);
  if (std::ranges::find(kNotRead, extension) != std::end(kNotRead)) {
    throw BadInput("{}: {} files are not read; {}", path.string(), extension, kWhatIsRead);
  }
  const std::string text = io::read_text_file(path, kMaxFileBytes);
  if (is_json) {
    refuse_one_value(path, text);
  } else {
    refuse_hidden_format(path, text);
  }
  const std::filesystem::path folder = path.parent_path();
  std::vector<Prompt> prompts;
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const std::string where = fmt::format("{}:{}", path.string(), ++line_number);
    if (line.size() > kMaxLineBytes) {
      throw BadInput("{}: the line has {} bytes, at most {} are allowed for a prompt row", where, line.size(),
                     kMaxLineBytes);
    }
    if (is_json_blank(line)) continue;
    if (prompts.size() == kMaxRows) {
      throw BadInput("{}: more than {} prompt rows", where, kMaxRows);
    }
    const RowReader reader(where, folder);
    Prompt prompt;
    if (is_json) {
      prompt = reader.read(line);
    } else {
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!is_valid_utf8(line)) throw BadInput("{}: prompt is not valid UTF-8; {}", where, kWhatIsRead);
      reader.check_prompt(line);
      prompt.text = line;
    }
    prompt.index = static_cast<int64_t>(prompts.size());
    prompt.line = line_number;
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) throw BadInput("{}: empty: no prompt rows in the file", path.string());
  name_rows(path, prompts);
  return prompts;
}

std::vector<Prompt> spread_over(std::span<const Prompt> prompts, int64_t count) {
  const auto size = static_cast<int64_t>(prompts.size());
  if (count >= size) return {prompts.begin(), prompts.end()};
  std::vector<Prompt> chosen;
  for (int64_t i = 0; i < count; ++i) chosen.push_back(prompts[static_cast<size_t>(i * size / count)]);
  return chosen;
}

std::vector<Image> read_prompt_images(const Prompt& prompt) {
  std::vector<Image> images;
  for (const std::string& path : prompt.images) images.push_back(io::read_image(path));
  return images;
}

std::vector<std::shared_ptr<const Image>> shared_images(std::vector<Image> images) {
  std::vector<std::shared_ptr<const Image>> shared;
  for (Image& image : images) shared.push_back(std::make_shared<const Image>(std::move(image)));
  return shared;
}

}  // namespace unigrpo::data
