#include "cli/selftest_report.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "tensor/shape.h"

namespace unigrpo::cli {

void SelftestReport::report(const std::string& name, bool good, const std::string& detail) {
  out_ << fmt::format("{:<4} {:<56} {}\n", good ? "ok" : "FAIL", name, detail);
  ++(good ? passed_ : failed_);
}

void SelftestReport::compare(const std::string& name, const at::Tensor& found, const at::Tensor& want,
                             double tolerance) {
  const at::Tensor got = found.detach().cpu();
  if (got.sizes() != want.sizes()) {
    fail(name, fmt::format("shape {}, expected {}", tensor::shape_text(got.sizes()), tensor::shape_text(want.sizes())));
    return;
  }
  const double error = got.numel() == 0 ? 0 : (got - want).abs().max().item<double>();
  report(name, error <= tolerance, fmt::format("largest error {:.2e} (at most {:.0e})", error, tolerance));
}

void SelftestReport::compare_relative(const std::string& name, const at::Tensor& got, const at::Tensor& want,
                                      double tolerance) {
  const double scale = want.numel() == 0 ? 1 : std::max(want.abs().max().item<double>(), 1e-12);
  compare(name, got / scale, want / scale, tolerance);
}

int SelftestReport::finish() {
  out_ << fmt::format("{} passed, {} failed\n", passed_, failed_);
  return failed_ == 0 ? 0 : 1;
}

}  // namespace unigrpo::cli
