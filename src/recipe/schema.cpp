#include "recipe/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {

namespace {

/// A bound as people write it: 0.5, 65536, 1e9.
std::string plain(double value) {
  double mantissa = value;
  int exponent = 0;
  while (std::abs(mantissa) >= 10 && std::fmod(mantissa, 10) == 0) {
    mantissa /= 10;
    ++exponent;
  }
  return exponent >= 6 ? fmt::format("{}e{}", mantissa, exponent) : fmt::format("{}", value);
}

/// A recipe in which every field of the schema exists, so that its type can be asked for.
Recipe with_one_element_each() {
  Recipe recipe;
  for (const Section& section : schema()) {
    if (section.is_list()) section.resize(recipe, 1);
  }
  return recipe;
}

}  // namespace

const std::vector<Section>& schema() {
  static const std::vector<Section> sections = [] {
    std::vector<Section> all;
    for (const auto module : {run_sections, policy_sections, data_sections, rollout_sections, grpo_sections,
                              reward_sections, optim_sections, checkpoint_sections, parallel_sections, monitor_sections,
                              eval_sections, sft_sections, task_sections}) {
      for (Section& section : module()) all.push_back(std::move(section));
    }
    return all;
  }();
  return sections;
}

const Section* find_section(std::string_view key) {
  const auto found = std::ranges::find(schema(), key, &Section::key);
  return found == schema().end() ? nullptr : &*found;
}

const Field* find_field(const Section& section, std::string_view name) {
  const auto found = std::ranges::find(section.fields, name, &Field::name);
  return found == section.fields.end() ? nullptr : &*found;
}

bool has_table(const Section& section, std::string_view name) {
  return std::ranges::any_of(section.fields, [&](const Field& field) {
    return field.name.size() > name.size() && field.name.starts_with(name) && field.name[name.size()] == '.';
  });
}

bool in_range(double value, const Limits& limits) {
  if (limits.special && value == *limits.special) return true;
  const bool low = limits.above_min ? value > limits.min : value >= limits.min;
  const bool high = limits.below_max ? value < limits.max : value <= limits.max;
  return low && high && std::abs(value) <= limits.cap && std::isfinite(value);
}

std::string interval(const Limits& limits, bool with_cap) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double cap = with_cap ? limits.cap : infinity;
  const double min = std::max(limits.min, -cap), max = std::min(limits.max, cap);
  const bool low = min != -infinity;
  const bool high = max != infinity;
  if (low && high && !limits.above_min && !limits.below_max) {
    return fmt::format("from {} to {}", plain(min), plain(max));
  }
  std::string out;
  if (low) out = fmt::format("{} {}", limits.above_min ? ">" : ">=", plain(min));
  if (high) {
    if (low) out += " and ";
    out += fmt::format("{} {}", limits.below_max ? "<" : "<=", plain(max));
  }
  return out;
}

std::string type_name(const Field& field) {
  struct Visitor {
    const char* operator()(bool*) const { return "boolean"; }
    const char* operator()(int64_t*) const { return "integer"; }
    const char* operator()(double*) const { return "float"; }
    const char* operator()(std::string*) const { return "string"; }
    const char* operator()(std::vector<std::string>*) const { return "list of strings"; }
    const char* operator()(const EnumRef&) const { return "choice"; }
    const char* operator()(const EnumListRef&) const { return "list of strings"; }
    const char* operator()(const TableRef&) const { return "table"; }
    const char* operator()(const ShareRef&) const { return "float or points"; }
  };
  Recipe sample = with_one_element_each();
  return std::visit(Visitor{}, field.at(sample, 0));
}

std::string expectation(const Field& field, bool with_cap) {
  Recipe sample = with_one_element_each();
  const Limits& limits = field.limits;
  const auto number = [&](const char* kind) {
    std::string out = limits.special ? fmt::format("{} or {}", plain(*limits.special), kind) : kind;
    const std::string range = interval(limits, with_cap);
    return range.empty() ? out : out + " " + range;
  };
  struct Visitor {
    const Limits& limits;
    const decltype(number)& number_text;
    std::string operator()(bool*) const { return "true or false"; }
    std::string operator()(int64_t*) const { return number_text("an integer"); }
    std::string operator()(double*) const { return number_text("a number"); }
    std::string operator()(std::string*) const {
      return std::string(limits.rule != nullptr ? limits.rule->one : "a string");
    }
    std::string operator()(std::vector<std::string>*) const { return list(); }
    std::string operator()(const EnumListRef&) const { return list(); }
    std::string list() const {
      return fmt::format("a {}list of {}", limits.non_empty ? "non-empty " : "",
                         limits.rule != nullptr ? limits.rule->many : "strings");
    }
    std::string operator()(const EnumRef& value) const { return "one of " + join(value.choices(), " | "); }
    std::string operator()(const TableRef&) const { return "a table"; }
    std::string operator()(const ShareRef&) const {
      return fmt::format("{}, or a list of points [step, share]", number_text("a number"));
    }
  };
  return std::visit(Visitor{limits, number}, field.at(sample, 0));
}

}  // namespace unigrpo::recipe
