#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace unigrpo::planner {

/// Strict reads of one JSON object of a plan: every key is of a known name, type and range. Throws BadInput
/// `where: key: ...`.
class Fields {
 public:
  static constexpr int64_t kMany = int64_t{1} << 24;  // ranks, layers, samples

  Fields(const nlohmann::json& object, std::string where);
  /// Throws where a key is none of these.
  void only(std::initializer_list<const char*> keys) const;

  bool has(const char* key) const;
  const nlohmann::json& at(const char* key) const;  // must be there
  int64_t integer(const char* key, int64_t low, int64_t high = kMany) const;
  double number(const char* key) const;  // finite, at least 0
  bool boolean(const char* key) const;
  std::string text(const char* key) const;
  std::vector<int64_t> integers(const char* key, int64_t low, int64_t high = kMany) const;
  std::vector<double> numbers(const char* key) const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

/// A key that is a number of ranks or a degree. Throws BadInput `where: 'key': ...`.
int64_t whole_number(const std::string& key, const std::string& where);

}  // namespace unigrpo::planner
