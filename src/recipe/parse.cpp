#include "recipe/parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "base/utf8.h"
#include "recipe/checks.h"
#include "recipe/document.h"
#include "recipe/free_table.h"
#include "recipe/schema.h"
#include "recipe/suggest.h"

namespace unigrpo::recipe {

namespace {

/// What is wrong with one value: where in the text, below which key, and the sentence.
struct Problem {
  Position at;
  std::string key;                       // dotted, as the user wrote it
  std::function<std::string()> message;  // a function: a search for the nearest key is made once, for the first error
};

/// Keeps the problem that stands first in the text; tables come in no order.
class FirstProblem {
 public:
  void offer(Problem problem) {
    if (!first_ || problem.at < first_->at) first_ = std::move(problem);
  }
  const std::optional<Problem>& get() const { return first_; }

 private:
  std::optional<Problem> first_;
};

/// Who gave a key its value: a place in the file or an override.
struct Origin {
  std::string text;  // "recipe.toml:3:9", "--set grpo.group_size=4"
  bool is_override = false;
};
using Origins = std::map<std::string, Origin>;

bool has_control_character(std::string_view text, bool line_breaks) {
  return std::ranges::any_of(
      text, [&](char c) { return (static_cast<unsigned char>(c) < 0x20 && !(line_breaks && c == '\n')) || c == 0x7F; });
}

constexpr int64_t kLastStep = 1'000'000'000;  // as of run.num_steps

/// Checks a value against a field and stores it.
class Assigner {
 public:
  Assigner(const Field& field, const Node& node, std::string key) : field_(field), node_(node), key_(std::move(key)) {}

  std::optional<Problem> operator()(bool* out) const {
    const auto* value = std::get_if<bool>(&node_.value);
    if (value == nullptr) return mismatch(node_);
    *out = *value;
    return {};
  }

  std::optional<Problem> operator()(int64_t* out) const {
    const auto* value = std::get_if<int64_t>(&node_.value);
    if (value == nullptr || !in_range(static_cast<double>(*value), field_.limits)) return mismatch(node_);
    *out = *value;
    return {};
  }

  std::optional<Problem> operator()(double* out) const {
    double value = 0;
    if (const auto* integer = std::get_if<int64_t>(&node_.value)) {
      value = static_cast<double>(*integer);
    } else if (const auto* number = std::get_if<double>(&node_.value)) {
      value = *number;
    } else {
      return mismatch(node_);
    }
    if (!in_range(value, field_.limits)) {  // as nan and inf never are
      return mismatch(node_, "", /*with_cap=*/std::isfinite(value) && std::abs(value) > field_.limits.cap);
    }
    *out = value;
    return {};
  }

  std::optional<Problem> operator()(std::string* out) const {
    const auto* value = std::get_if<std::string>(&node_.value);
    if (value == nullptr) return mismatch(node_);
    if (auto problem = check_text(node_, *value, key_)) return problem;
    *out = *value;
    return {};
  }

  std::optional<Problem> operator()(std::vector<std::string>* out) const {
    const auto* items = std::get_if<std::vector<Node>>(&node_.value);
    if (items == nullptr || (items->empty() && field_.limits.non_empty)) return mismatch(node_);
    std::vector<std::string> values;
    for (const Node& item : *items) {
      const std::string key = fmt::format("{}.{}", key_, values.size());
      const auto* value = std::get_if<std::string>(&item.value);
      if (value == nullptr) return text_mismatch(item, key);
      if (auto problem = check_text(item, *value, key)) return problem;
      values.push_back(*value);
    }
    *out = std::move(values);
    return {};
  }

  std::optional<Problem> operator()(const EnumRef& out) const {
    const auto* value = std::get_if<std::string>(&node_.value);
    if (value == nullptr) return mismatch(node_);
    if (out.set(out.value, *value)) return {};
    return mismatch(node_, near_choice(*value, out));
  }

  std::optional<Problem> operator()(const EnumListRef& out) const {
    std::vector<std::string> names;
    if (auto problem = (*this)(&names)) return problem;
    out.set(out.values, names);
    return {};
  }

  /// A number, or points of steps that rise.
  std::optional<Problem> operator()(const ShareRef& out) const {
    std::vector<Share::Point> points;
    if (const auto* items = std::get_if<std::vector<Node>>(&node_.value)) {
      if (items->empty()) return mismatch(node_);
      for (const Node& item : *items) {
        const std::optional<Share::Point> point = share_point(item);
        const std::string key = fmt::format("{}.{}", key_, points.size());
        const int64_t least = points.empty() ? 0 : points.back().step + 1;
        if (!point || point->step < least) {
          return problem(item, key,
                         fmt::format("expected a point [step, share], its step an integer >= {} (they increase), its "
                                     "share a number {}, got {}",
                                     least, interval(field_.limits), shown_point(item)));
        }
        points.push_back(*point);
      }
    } else if (auto bad = (*this)(&points.emplace_back().share)) {
      return bad;
    }
    out.share->points = std::move(points);
    return {};
  }

  std::optional<Problem> operator()(const TableRef& out) const {
    const auto* table = std::get_if<Table>(&node_.value);
    if (table == nullptr) return mismatch(node_);
    if (const auto unfit = find_unfit(node_, key_))
      return Problem{unfit->at, unfit->key, [unfit] { return unfit->message; }};
    *out.json = table_json(*table);
    return {};
  }

 private:
  std::optional<Share::Point> share_point(const Node& node) const {
    const auto* pair = std::get_if<std::vector<Node>>(&node.value);
    if (pair == nullptr || pair->size() != 2) return {};
    const auto* step = std::get_if<int64_t>(&(*pair)[0].value);
    Share::Point point;
    if (step == nullptr || *step > kLastStep || Assigner(field_, (*pair)[1], key_)(&point.share)) return {};
    point.step = *step;
    return point;
  }
  static std::string shown_point(const Node& node) {
    const auto* pair = std::get_if<std::vector<Node>>(&node.value);
    if (pair == nullptr || pair->size() != 2) return describe(node);
    return fmt::format("[{}, {}]", describe((*pair)[0]), describe((*pair)[1]));
  }

  Problem problem(const Node& node, std::string key, std::string message) const {
    return {node.at, std::move(key), [message = std::move(message)] { return message; }};
  }
  Problem mismatch(const Node& node, const std::string& hint = "", bool with_cap = false) const {
    return problem(node, key_,
                   fmt::format("expected {}, got {}{}", expectation(field_, with_cap), describe(node), hint));
  }
  Problem text_mismatch(const Node& node, const std::string& key) const {
    const TextRule* rule = field_.limits.rule;
    return problem(node, key,
                   fmt::format("expected {}, got {}", rule != nullptr ? rule->one : "a string", describe(node)));
  }
  std::optional<Problem> check_text(const Node& node, const std::string& value, const std::string& key) const {
    if (has_control_character(value, field_.limits.line_breaks)) {
      return problem(node, key, fmt::format("expected a string without control characters, got {}", describe(node)));
    }
    if (field_.limits.rule != nullptr && !field_.limits.rule->accepts(value)) return text_mismatch(node, key);
    return {};
  }

  const Field& field_;
  const Node& node_;
  std::string key_;
};

/// Binds a parsed tree to a recipe.
class Binder {
 public:
  /// `note` hears of every key that was bound, with the place of its value.
  Binder(Recipe& recipe, std::function<void(const std::string& key, Position at)> note)
      : recipe_(recipe), note_(std::move(note)) {}

  /// The top of the document (section nullptr), a table, or element `index` of a list of tables; of that, the
  /// sub-table `inside` ("http."), if any.
  void bind_table(const Table& table, const Section* section, const std::string& prefix, size_t index = 0,
                  const std::string& inside = "") {
    for (const Entry& entry : table) {
      const std::string key = (prefix.empty() ? "" : prefix + ".") + key_part(entry.key);
      if (section != nullptr && entry.key.find('.') == std::string::npos) {
        const std::string name = inside + entry.key;
        if (const Field* field = find_field(*section, name)) {
          bind_field(*field, index, entry.node, key);
          continue;
        }
        if (has_table(*section, name)) {
          bind_sub_table(*section, name, entry.node, key, index);
          continue;
        }
      }
      const bool can_hold_tables = section == nullptr || !section->is_list();
      const Section* inner = can_hold_tables ? find_section(key) : nullptr;
      if (inner == nullptr) {
        const bool is_table = std::holds_alternative<Table>(entry.node.value);
        errors_.offer(
            {entry.at, key, [key, section, is_table, inside] { return unknown_key(key, section, is_table, inside); }});
      } else if (inner->is_list()) {
        bind_list(*inner, entry.node);
      } else if (const auto* inner_table = std::get_if<Table>(&entry.node.value)) {
        bind_table(*inner_table, inner, key);
      } else {
        errors_.offer({entry.node.at, key, [key, node = &entry.node] {
                         return fmt::format("expected a table [{}], got {}", key, describe(*node));
                       }});
      }
    }
  }

  void bind_sub_table(const Section& section, const std::string& name, const Node& node, const std::string& key,
                      size_t index) {
    if (const auto* table = std::get_if<Table>(&node.value))
      return bind_table(*table, &section, key, index, name + ".");
    errors_.offer({node.at, key, [header = section.key + "." + name, &node] {
                     return fmt::format("expected a table [{}], got {}", header, describe(node));
                   }});
  }

  void bind_field(const Field& field, size_t index, const Node& node, const std::string& key) {
    note_(key, node.at);
    if (auto problem = std::visit(Assigner(field, node, key), field.at(recipe_, index))) {
      errors_.offer(*std::move(problem));
    }
  }

  void bind_list(const Section& section, const Node& node) {
    note_(section.key, node.at);
    const auto wrong = [&](const Node& found, std::string key) {
      errors_.offer({found.at, std::move(key), [&section, &found] {
                       return fmt::format("expected a list of tables [[{}]], got {}", section.key, describe(found));
                     }});
    };
    const auto* items = std::get_if<std::vector<Node>>(&node.value);
    if (items == nullptr) return wrong(node, section.key);
    section.resize(recipe_, 0);
    section.resize(recipe_, items->size());
    for (size_t i = 0; i < items->size(); ++i) {
      const std::string key = fmt::format("{}.{}", section.key, i);
      if (const auto* table = std::get_if<Table>(&(*items)[i].value)) {
        bind_element(section, *table, key, i);
      } else {
        wrong((*items)[i], key);
      }
    }
  }

  const std::optional<Problem>& first_problem() const { return errors_.get(); }

 private:
  void bind_element(const Section& section, const Table& table, const std::string& key, size_t index) {
    bind_table(table, &section, key, index);
    for (const Field& field : section.fields) {
      const auto same_name = [&](const Entry& entry) { return entry.key == field.name; };
      if ((field.required & kAlways) == 0 || std::ranges::any_of(table, same_name)) continue;
      missing_.push_back({fmt::format("{}.{}", key, field.name), &field});
    }
  }

 public:
  struct Missing {
    std::string key;
    const Field* field;
  };
  const std::vector<Missing>& missing() const { return missing_; }

 private:
  Recipe& recipe_;
  std::function<void(const std::string& key, Position at)> note_;
  FirstProblem errors_;
  std::vector<Missing> missing_;
};

std::string missing_text(const std::string& key, const Field& field) {
  return fmt::format("{}: missing ({}: {})", key, type_name(field), field.meaning);
}

std::string read_file(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    throw BadInput("{}: no such file{}", path.string(), seen_from(path));
  if (std::filesystem::is_directory(status)) throw BadInput("{}: a folder, expected a recipe file", path.string());
  if (error) throw BadInput("{}: cannot be read: {}", path.string(), error.message());
  if (!std::filesystem::is_regular_file(status)) throw BadInput("{}: not a regular file", path.string());
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxDocumentBytes + 1, '\0');
  if (file) file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) throw BadInput("{}: cannot be read: {}", path.string(), std::strerror(errno));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

/// A command line argument in one line of printable text.
std::string shown(std::string_view argument) {
  constexpr size_t kMaxShown = 200;
  const bool utf8 = is_valid_utf8(argument);
  std::string out;
  for (const char c : argument) {
    const auto byte = static_cast<unsigned char>(c);
    const bool starts = (byte & 0xC0) != 0x80;
    if (out.size() >= kMaxShown && starts) return out + "...";
    out += byte < 0x20 || byte == 0x7F || (byte >= 0x80 && !utf8) ? '?' : c;
  }
  return out;
}

/// What an override's key leads to: one value (`field`), or a whole list of tables.
struct Target {
  const Section* section = nullptr;
  const Field* field = nullptr;
  size_t index = 0;
};

/// "rewards.0.http.url" as the list of tables it is in, "0" and "http.url"; no section where it is in none.
struct ElementKey {
  const Section* section = nullptr;
  std::string index, name;
};

ElementKey element_key(const std::string& key) {
  for (const Section& section : schema()) {
    if (!section.is_list() || !key.starts_with(section.key + ".")) continue;
    const std::string rest = key.substr(section.key.size() + 1);
    const size_t dot = std::min(rest.find('.'), rest.size());
    return {&section, rest.substr(0, dot), rest.substr(std::min(dot + 1, rest.size()))};
  }
  return {};
}

/// Cuts a key that leads into a free-form table behind that table; gives back what lies below it, nothing for other
/// keys. Such tables stand in elements of lists.
std::string cut_free_part(std::string& key) {
  const ElementKey element = element_key(key);
  if (element.section == nullptr || element.index.find_first_not_of("0123456789") != std::string::npos) return "";
  for (const Field& field : element.section->fields) {
    if (!element.name.starts_with(field.name + ".") || type_name(field) != "table") continue;
    const std::string below = element.name.substr(field.name.size() + 1);
    key.resize(key.size() - below.size() - 1);
    return below.empty() ? "." : below;  // a dot without a key behind it is an error, told by set_entry
  }
  return "";
}

/// Throws BadInput `who: ...` where the key leads nowhere.
Target resolve(const Recipe& recipe, const std::string& key, const std::string& who) {
  if (const Section* whole = find_section(key)) {
    if (whole->is_list()) return {whole, nullptr, 0};
    throw BadInput("{}: {} is a table, expected one of its keys ({})", who, key,
                   fmt::format("{}.{}, ...", key, whole->fields.front().name));
  }
  if (const ElementKey element = element_key(key); element.section != nullptr) {
    const Section& section = *element.section;
    size_t index = 0;
    const char* end = element.index.data() + element.index.size();
    const auto [stop, failure] = std::from_chars(element.index.data(), end, index);
    if (element.index.empty() || stop != end || failure != std::errc()) {
      throw BadInput("{}: {}", who, unknown_key(key, nullptr, false));
    }
    const size_t size = section.size(recipe);
    if (index >= size) {
      throw BadInput("{}: {} has {} element{}, counted from 0", who, section.key, size, size == 1 ? "" : "s");
    }
    if (const Field* field = find_field(section, element.name)) return {&section, field, index};
    if (has_table(section, element.name)) throw BadInput("{}: {} is a table, expected one of its keys", who, key);
    const std::string table = element.name.substr(0, element.name.rfind('.'));
    const std::string inside = has_table(section, table) ? table + "." : "";
    throw BadInput("{}: {}", who, unknown_key(key, &section, false, inside));
  }
  const size_t dot = key.rfind('.');
  const Section* section = dot == std::string::npos ? nullptr : find_section(key.substr(0, dot));
  if (section != nullptr) {
    if (const Field* field = find_field(*section, key.substr(dot + 1))) return {section, field, 0};
  }
  throw BadInput("{}: {}", who, unknown_key(key, section, false));
}

/// The value of an override as a tree: raw text stands for a string where the key takes one.
Node override_value(const Target& target, const Ref* ref, const std::string& text, const std::string& who) {
  const bool takes_text =
      ref != nullptr && (std::holds_alternative<std::string*>(*ref) || std::holds_alternative<EnumRef>(*ref));
  const bool is_quoted = text.starts_with('"') || text.starts_with('\'');
  if (takes_text && !is_quoted) return {{}, text};
  if (auto node = read_value(text)) return *std::move(node);
  throw BadInput("{}: expected {}, got {}", who,
                 target.field != nullptr ? expectation(*target.field) : "a list of tables",
                 text.empty() ? "nothing" : describe({{}, text}));
}

void apply_override(Recipe& recipe, Origins& origins, const std::string& argument) {
  const std::string who = "--set " + shown(hide_password(argument));
  if (!is_valid_utf8(argument)) throw BadInput("{}: not UTF-8", who);
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0) throw BadInput("{}: expected key=value", who);
  std::string key = argument.substr(0, equals);
  const std::string below = cut_free_part(key);
  const Target target = resolve(recipe, key, who);
  if (!below.empty()) {
    const Ref ref = target.field->at(recipe, target.index);
    set_entry(*std::get<TableRef>(ref).json, below, argument.substr(equals + 1), who);
    origins[key] = {who, true};
    return;
  }

  std::optional<Ref> ref;
  if (target.field != nullptr) ref = target.field->at(recipe, target.index);
  const Node node = override_value(target, ref ? &*ref : nullptr, argument.substr(equals + 1), who);
  Binder binder(recipe, [&](const std::string& bound, Position) { origins[bound] = {who, true}; });
  if (target.field != nullptr) {
    binder.bind_field(*target.field, target.index, node, key);
  } else {
    // The list is replaced, and with it whatever the file said of its elements.
    std::erase_if(origins, [&](const auto& item) { return item.first.starts_with(key + "."); });
    binder.bind_list(*target.section, node);
  }
  if (const auto& problem = binder.first_problem()) {
    const std::string inside = problem->key == key ? "" : problem->key + ": ";
    throw BadInput("{}: {}{}", who, inside, problem->message());
  }
  if (!binder.missing().empty()) {
    throw BadInput("{}: {}", who, missing_text(binder.missing().front().key, *binder.missing().front().field));
  }
}

bool is_needed(unsigned required, Command command) {
  return (command == Command::train && (required & kForTrain) != 0) ||
         (command == Command::sft && (required & kForSft) != 0);
}

/// A hint where a recipe lacks what one command needs and has what the other is for.
std::string other_command(const Recipe& recipe, const Origins& origins, Command command) {
  const auto has_sft = std::ranges::any_of(origins, [](const auto& item) { return item.first.starts_with("sft."); });
  if (command == Command::train && has_sft) return "; the recipe has an [sft] table: did you mean `unigrpo sft`?";
  if (command == Command::sft && !recipe.reward.terms.empty()) {
    return "; the recipe has [[rewards]]: did you mean `unigrpo train`?";
  }
  return "";
}

/// Required keys of the command. A string counts as there when it is not empty.
void check_required(Recipe& recipe, const Origins& origins, Command command, const std::string& name) {
  for (const Section& section : schema()) {
    if (section.is_list()) {
      if (is_needed(section.required, command) && section.size(recipe) == 0) {
        throw BadInput("{}: {}: missing (list of tables: {}){}", name, section.key, section.meaning,
                       other_command(recipe, origins, command));
      }
      continue;
    }
    for (const Field& field : section.fields) {
      if (!is_needed(field.required, command)) continue;
      if (field.key == "data.prompts" && command == Command::train && !recipe.tasks.empty()) continue;
      const auto ref = field.at(recipe, 0);
      const auto* const* text = std::get_if<std::string*>(&ref);
      if (text == nullptr || !(*text)->empty()) continue;
      const auto origin = origins.find(field.key);
      if (origin == origins.end()) {
        throw BadInput("{}: {}{}", name, missing_text(field.key, field), other_command(recipe, origins, command));
      }
      throw BadInput("{}: {}: expected a non-empty string, got \"\"", origin->second.text, field.key);
    }
  }
}

/// A key that was given to an element of a list whose kind does not have it.
std::optional<Conflict> find_misplaced(Recipe& recipe, const Origins& origins) {
  for (const Section& section : schema()) {
    const Field* kind = find_field(section, "kind");
    for (size_t i = 0; section.is_list() && i < section.size(recipe); ++i) {
      for (const Field& field : section.fields) {
        const std::string element = fmt::format("{}.{}.", section.key, i);
        if (field.applies(recipe, i) || !origins.contains(element + field.name)) continue;
        const auto found = std::get<EnumRef>(kind->at(recipe, i));
        return Conflict{
            {element + field.name, element + kind->name},
            fmt::format("belongs to kind {}, not to kind {}", join(field.owners, " or "), found.name(found.value))};
      }
    }
  }
  return {};
}

/// Whom a conflict is laid to: an override that took part, or else the place of the first key that
/// the file has.
std::string culprit(const Conflict& conflict, const Origins& origins, const std::string& name) {
  std::string in_file;
  for (const std::string& key : conflict.keys) {
    const auto origin = origins.find(key);
    if (origin == origins.end()) continue;
    if (origin->second.is_override) return origin->second.text;
    if (in_file.empty()) in_file = origin->second.text;
  }
  return in_file.empty() ? name : in_file;
}

}  // namespace

Recipe parse(const std::filesystem::path& path, const std::vector<std::string>& overrides, Command command) {
  return parse_text(read_file(path), path.string(), overrides, command);
}

Recipe parse_text(std::string_view text, const std::string& name, const std::vector<std::string>& overrides,
                  Command command) {
  const Table document = read_document(text, name);

  Recipe recipe;
  Origins origins;
  Binder binder(recipe, [&](const std::string& key, Position at) {
    origins[key] = {fmt::format("{}:{}:{}", name, at.line, at.column)};
  });
  binder.bind_table(document, nullptr, "");
  if (const auto& problem = binder.first_problem()) {
    throw BadInput("{}:{}:{}: {}: {}", name, problem->at.line, problem->at.column, problem->key, problem->message());
  }
  if (!binder.missing().empty()) {
    throw BadInput("{}: {}", name, missing_text(binder.missing().front().key, *binder.missing().front().field));
  }

  for (const std::string& argument : overrides) apply_override(recipe, origins, argument);
  check_required(recipe, origins, command, name);
  auto conflict = find_misplaced(recipe, origins);
  if (!conflict) conflict = find_conflict(recipe, command);
  if (conflict) {
    throw BadInput("{}: {}: {}", culprit(*conflict, origins, name), conflict->keys.front(), conflict->message);
  }
  for (const auto& [key, origin] : origins) recipe.given[key] = origin.text;
  return recipe;
}

}  // namespace unigrpo::recipe
