#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <iosfwd>
#include <string>

namespace unigrpo::cli {

/// The lines of a selftest: "ok" or "FAIL", an entry's name and how far off it is, and their count.
class SelftestReport {
 public:
  explicit SelftestReport(std::ostream& out) : out_(out) {}

  void report(const std::string& name, bool good, const std::string& detail);
  void fail(const std::string& name, const std::string& why) { report(name, false, why); }
  /// Shapes must be equal, the largest difference at most `tolerance`; one that is not a number fails.
  void compare(const std::string& name, const at::Tensor& found, const at::Tensor& want, double tolerance);
  /// The same against the largest absolute value of `want`.
  void compare_relative(const std::string& name, const at::Tensor& got, const at::Tensor& want, double tolerance);
  /// "N passed, M failed"; the process's exit code.
  int finish();

 private:
  std::ostream& out_;
  int64_t passed_ = 0, failed_ = 0;
};

}  // namespace unigrpo::cli
