#include "cli/selftest_vectors.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "flow/sde_step.h"
#include "flow/time_grid.h"
#include "flow/velocity_penalty.h"
#include "grpo/advantages.h"
#include "grpo/image_loss.h"
#include "grpo/text_loss.h"
#include "io/json.h"
#include "kernels/filtered_probs.h"
#include "kernels/gather_log_prob.h"
#include "tensor/shape.h"

namespace unigrpo::cli {
namespace {

using nlohmann::json;
using Results = std::map<std::string, at::Tensor>;

const json& field(const json& object, const std::string& key, const std::string& where) {
  if (!object.is_object()) throw BadInput("{}: expected an object", where);
  const auto found = object.find(key);
  if (found == object.end()) throw BadInput("{}: '{}' is missing", where, key);
  return *found;
}

double number(const json& value, const std::string& where) {
  if (!value.is_number()) throw BadInput("{}: expected a number, got {}", where, value.dump());
  return value.get<double>();
}

std::string text(const json& value, const std::string& where) {
  if (!value.is_string()) throw BadInput("{}: expected a string, got {}", where, value.dump());
  return value.get<std::string>();
}

double element(const json& value, const std::string& where) {
  if (value.is_number()) return value.get<double>();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  throw BadInput("{}: expected a number, \"inf\", \"-inf\" or \"nan\", got {}", where, value.dump());
}

constexpr uint64_t kMaxAxis = uint64_t{1} << 31;
constexpr uint64_t kMaxCount = std::numeric_limits<uint64_t>::max();

/// Floats come as float64: expected values are computed in it.
at::Tensor read_tensor(const json& value, const std::string& where) {
  const json& shape_json = field(value, "shape", where);
  const json& data = field(value, "data", where);
  const std::string dtype = text(field(value, "dtype", where), where + ".dtype");
  if (!shape_json.is_array() || !data.is_array()) {
    throw BadInput("{}: 'shape' and 'data' must be arrays", where);
  }
  std::vector<int64_t> shape;
  uint64_t count = 1;
  for (const json& size : shape_json) {
    if (!size.is_number_unsigned()) {
      throw BadInput("{}: 'shape' holds {}, expected sizes", where, size.dump());
    }
    const auto axis = size.get<uint64_t>();
    if (axis > kMaxAxis) throw BadInput("{}: an axis of 'shape' has {} elements", where, axis);
    // Saturates instead of wrapping: a product that wraps to the right count is not a shape.
    count = axis != 0 && count > kMaxCount / axis ? kMaxCount : count * axis;
    shape.push_back(static_cast<int64_t>(axis));
  }
  if (count != data.size()) {
    throw BadInput("{}: shape {} does not fit {} data values", where, shape_json.dump(), data.size());
  }
  if (dtype == "f32") {
    std::vector<double> values;
    for (const json& item : data) values.push_back(element(item, where));
    return at::tensor(values, at::kDouble).view(shape);
  }
  if (dtype == "i64") {
    std::vector<int64_t> values;
    for (const json& item : data) {
      if (!item.is_number_integer()) {
        throw BadInput("{}: expected an integer, got {}", where, item.dump());
      }
      values.push_back(item.get<int64_t>());
    }
    return at::tensor(values, at::kLong).view(shape);
  }
  if (dtype == "bool") {
    std::vector<int64_t> values;
    for (const json& item : data) {
      if (!item.is_boolean()) {
        throw BadInput("{}: expected true or false, got {}", where, item.dump());
      }
      values.push_back(item.get<bool>() ? 1 : 0);
    }
    return at::tensor(values, at::kLong).view(shape).to(at::kBool);
  }
  throw BadInput("{}: unknown dtype '{}' (f32 | i64 | bool)", where, dtype);
}

/// One case, read as it is asked for; messages name the file, the case and the field.
class Case {
 public:
  Case(const json& value, std::string where, at::Device device)
      : json_(value), where_(std::move(where)), device_(device) {}

  /// An input as training would see it: float32, int64 or bool, on the device.
  at::Tensor input(const std::string& key) const {
    const at::Tensor tensor = raw_input(key);
    return tensor.to(device_, tensor.scalar_type() == at::kDouble ? at::kFloat : tensor.scalar_type());
  }
  at::Tensor raw_input(const std::string& key) const {
    return read_tensor(field(field(json_, "inputs", where_), key, where_ + ": inputs"), where_ + ": inputs." + key);
  }
  double param(const std::string& key) const { return number(param_json(key), where_ + ": params." + key); }
  int64_t integer(const std::string& key) const {
    const json& value = param_json(key);
    if (!value.is_number_integer()) {
      throw BadInput("{}: params.{}: expected an integer, got {}", where_, key, value.dump());
    }
    return value.get<int64_t>();
  }
  template <typename E>
  E choice(const std::string& key) const {
    const std::string name = text(param_json(key), where_ + ": params." + key);
    const auto value = enum_value<E>(name);
    if (!value) {
      throw BadInput("{}: params.{}: unknown value '{}' ({})", where_, key, name, enum_choices<E>());
    }
    return *value;
  }
  std::vector<double> numbers(const std::string& key) const {
    const json& value = param_json(key);
    if (!value.is_array()) throw BadInput("{}: params.{}: expected a list", where_, key);
    std::vector<double> out;
    for (const json& item : value) out.push_back(number(item, where_ + ": params." + key));
    return out;
  }

 private:
  const json& param_json(const std::string& key) const {
    return field(field(json_, "params", where_), key, where_ + ": params");
  }

  const json& json_;
  std::string where_;
  at::Device device_;
};

/// d output / d input, of a scalar.
at::Tensor gradient(const at::Tensor& output, const at::Tensor& input) {
  return torch::autograd::grad({output}, {input}).at(0);
}

flow::SdeConfig sde_config(const Case& c) {
  return {.kind = c.choice<flow::SdeKind>("kind"), .noise_level = c.param("noise_level")};
}

flow::TimeSpan time_span(const Case& c) {
  return {.t = c.param("t"), .t_next = c.param("t_next"), .t_max = c.param("t_max")};
}

Results run_time_grid(const Case& c) {
  const auto grid = flow::time_grid(c.integer("num_steps"), c.param("shift"));
  return {{"t", at::tensor(grid, at::kDouble)}};
}

Results run_sde_step(const Case& c) {
  const auto step = flow::sde_step(sde_config(c), c.input("x"), c.input("v"), c.input("noise"), time_span(c));
  return {{"mean", step.mean}, {"std", step.std.select(0, 0)}, {"x_next", step.x_next}};
}

Results run_sde_log_prob(const Case& c) {
  const at::Tensor v = c.input("v").requires_grad_();
  const at::Tensor log_prob = flow::sde_log_prob(sde_config(c), c.input("x"), v, c.input("x_next"), time_span(c));
  return {{"log_prob", log_prob}, {"grad_v", gradient(log_prob.sum(), v)}};
}

Results run_latent_kl(const Case& c) {
  tensor::check_same_shape(c.input("x"), "x", c.input("v"), "v");
  return {{"kl", flow::latent_kl(sde_config(c), c.input("v"), c.input("v_ref"), time_span(c))}};
}

Results run_velocity_mse(const Case& c) { return {{"mse", flow::velocity_mse(c.input("v"), c.input("v_ref"))}}; }

Results run_ratio_norm(const Case& c) {
  const at::Tensor v = c.input("v").requires_grad_();
  const at::Tensor norm =
      flow::ratio_norm_log_ratio(sde_config(c), c.input("x"), v, c.input("v_old"), c.input("x_next"), time_span(c));
  const at::Tensor plain =
      flow::log_ratio(sde_config(c), c.input("x"), v, c.input("v_old"), c.input("x_next"), time_span(c));
  return {{"log_ratio", plain}, {"log_ratio_norm", norm}, {"grad_v", gradient(norm.sum(), v)}};
}

std::vector<int64_t> group_ids(const Case& c) {
  const at::Tensor ids = c.raw_input("group_ids");
  tensor::check_shape(ids, {-1}, "group_ids [N]");
  const at::Tensor flat = ids.to(at::kLong).contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

Results run_group_advantages(const Case& c) {
  const at::Tensor rewards = c.raw_input("rewards");
  tensor::check_shape(rewards, {-1}, "rewards [N]");
  std::vector<double> values(rewards.const_data_ptr<double>(), rewards.const_data_ptr<double>() + rewards.numel());
  const grpo::AdvantageConfig config{.normalization = c.choice<grpo::Normalization>("normalization"),
                                     .eps = c.param("eps"),
                                     .ddof = c.integer("ddof")};
  const auto advantages = grpo::group_advantages(config, std::span<const double>(values), group_ids(c));
  return {{"advantages", at::tensor(advantages, at::kDouble)}};
}

Results run_combine(const Case& c) {
  const at::Tensor rewards = c.raw_input("rewards");
  const std::vector<double> weights = c.numbers("weights");
  tensor::check_shape(rewards, {-1, static_cast<int64_t>(weights.size())}, "rewards [N, K]");
  reward::ScoreTable table{.terms = {}, .weights = weights, .scores = {}};
  for (size_t k = 0; k < weights.size(); ++k) table.terms.push_back(fmt::format("term_{}", k));
  for (int64_t n = 0; n < rewards.size(0); ++n) {
    auto& row = table.scores.emplace_back(weights.size());
    for (size_t k = 0; k < row.size(); ++k) {
      row[k].value = rewards.const_data_ptr<double>()[n * rewards.size(1) + static_cast<int64_t>(k)];
    }
  }
  const grpo::AdvantageConfig config{
      .combine = c.choice<grpo::Combine>("mode"), .eps = c.param("eps"), .ddof = c.integer("ddof")};
  const auto advantages = grpo::combined_advantages(config, table, group_ids(c));
  return {{"advantages", at::tensor(advantages, at::kDouble)}};
}

Results run_text_loss(const Case& c) {
  const grpo::TextLossConfig config{.importance = c.choice<grpo::Importance>("importance"),
                                    .aggregation = c.choice<grpo::Aggregation>("aggregation"),
                                    .clip_low = c.param("clip_low"),
                                    .clip_high = c.param("clip_high"),
                                    .dual_clip = c.param("dual_clip"),
                                    .kl_beta = c.param("kl_beta"),
                                    .kl_estimator = c.choice<grpo::KlEstimator>("kl_estimator"),
                                    .max_length = c.integer("max_length")};
  const at::Tensor log_probs = c.input("log_probs").requires_grad_();
  const grpo::TextLoss loss = grpo::text_loss(config, {.log_probs = log_probs,
                                                       .old_log_probs = c.input("old_log_probs"),
                                                       .ref_log_probs = c.input("ref_log_probs"),
                                                       .mask = c.input("mask"),
                                                       .advantages = c.input("advantages")});
  return {{"loss", loss.loss},
          {"kl", loss.kl},
          {"approx_kl", loss.approx_kl},
          {"clip_fraction", loss.clip_fraction},
          {"grad_log_probs", gradient(loss.loss, log_probs)}};
}

Results run_image_loss(const Case& c) {
  const at::Tensor log_probs = c.input("log_probs").requires_grad_();
  const at::Tensor unclipped = c.raw_input("advantages").to(at::kFloat);
  tensor::check_shape(unclipped, {-1}, "advantages [B]");
  std::vector<double> advantages;
  for (int64_t i = 0; i < unclipped.numel(); ++i) advantages.push_back(unclipped[i].item<double>());
  grpo::clip_advantages(c.param("advantage_clip"), advantages);
  const grpo::ImageLoss loss =
      grpo::image_loss({.clip_range = c.param("clip_range")},
                       {.log_probs = log_probs,
                        .old_log_probs = c.input("old_log_probs"),
                        .mask = c.input("mask"),
                        .advantages = at::tensor(advantages, unclipped.options()).to(log_probs.device())});
  return {{"loss", loss.loss},
          {"clip_fraction", loss.outside_clip_range},  // as Flow-GRPO counts
          {"grad_log_probs", gradient(loss.loss, log_probs)}};
}

Results run_token_log_probs(const Case& c) {
  const auto out = kernels::gather_log_prob(c.input("logits"), c.input("ids"), c.param("temperature"));
  return {{"log_probs", out.log_probs}, {"entropy", out.entropy}};
}

Results run_filtered_probs(const Case& c) {
  return {{"probs", kernels::filtered_probs(c.input("logits"), {.temperature = c.param("temperature"),
                                                                .top_k = c.integer("top_k"),
                                                                .top_p = c.param("top_p")})}};
}

const std::map<std::string, Results (*)(const Case&)> kOps = {
    {"flow.time_grid", run_time_grid},
    {"flow.sde_step", run_sde_step},
    {"flow.sde_log_prob", run_sde_log_prob},
    {"flow.latent_kl", run_latent_kl},
    {"flow.velocity_mse", run_velocity_mse},
    {"flow.ratio_norm", run_ratio_norm},
    {"grpo.group_advantages", run_group_advantages},
    {"grpo.text_loss", run_text_loss},
    {"grpo.image_loss", run_image_loss},
    {"reward.combine", run_combine},
    {"text.token_log_probs", run_token_log_probs},
    {"text.filtered_probs", run_filtered_probs},
};

/// Empty where `got` passes, else its largest error in words. `excess` becomes the error's size.
std::string difference(const std::string& key, const at::Tensor& got_any, const at::Tensor& want_any, double atol,
                       double rtol, double& excess) {
  const at::Tensor got = got_any.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor want = want_any.to(at::kDouble).contiguous();
  if (got.sizes() != want.sizes()) {
    excess = std::numeric_limits<double>::infinity();
    return fmt::format("{} has shape {}, expected {}", key, tensor::shape_text(got.sizes()),
                       tensor::shape_text(want.sizes()));
  }
  std::string worst;
  excess = 0;
  for (int64_t i = 0; i < got.numel(); ++i) {
    const double g = got.const_data_ptr<double>()[i];
    const double w = want.const_data_ptr<double>()[i];
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;  // infinities included
    const double error = std::abs(g - w);
    const double allowed = std::isfinite(w) ? atol + rtol * std::abs(w) : 0;
    if (error <= allowed) continue;
    const double size = std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
    if (size <= excess && !worst.empty()) continue;
    excess = size;
    worst = fmt::format("{} element {}: got {:.9g}, expected {:.9g}, off by {:.3g}, allowed {:.3g}", key, i, g, w,
                        error, allowed);
  }
  return worst;
}

/// Empty where the case passes, else why not.
std::string failure_of(const json& value, const std::string& where, const std::string& op, at::Device device) {
  const double atol = number(field(value, "atol", where), where + ": atol");
  const double rtol = number(field(value, "rtol", where), where + ": rtol");
  const json& expected = field(value, "expected", where);
  if (!expected.is_object() || expected.empty()) {
    throw BadInput("{}: 'expected' must be an object with one result or more", where);
  }
  std::map<std::string, at::Tensor> wanted;
  for (const auto& [key, tensor] : expected.items()) {
    wanted[key] = read_tensor(tensor, where + ": expected." + key);
  }
  const auto run = kOps.find(op);
  if (run == kOps.end()) return fmt::format("unknown op '{}'", op);
  Results results;
  try {
    results = run->second(Case(value, where, device));
  } catch (const BadInput&) {
    throw;
  } catch (const c10::Error& error) {
    return fmt::format("the op refused its inputs: {}", error.what_without_backtrace());
  } catch (const std::invalid_argument& error) {
    return fmt::format("the op refused its inputs: {}", error.what());
  }
  std::string worst;
  double worst_size = -1;
  for (const auto& [key, want] : wanted) {
    const auto got = results.find(key);
    if (got == results.end()) return fmt::format("the op has no result '{}'", key);
    double size = 0;
    const std::string found = difference(key, got->second, want, atol, rtol, size);
    if (!found.empty() && size > worst_size) {
      worst = found;
      worst_size = size;
    }
  }
  return worst;
}

}  // namespace

int run_selftest_vectors(const std::filesystem::path& file, std::ostream& out, c10::Device device) {
  const json root = io::read_json_file(file);
  const std::string path = file.string();
  const std::string format = text(field(root, "format", path), path + ": format");
  if (format != "unigrpo-vectors/1") {
    throw BadInput("{}: format is '{}', expected 'unigrpo-vectors/1'", path, format);
  }
  const json& cases = field(root, "cases", path);
  if (!cases.is_array() || cases.empty()) throw BadInput("{}: 'cases' holds no case", path);

  int64_t num_passed = 0;
  int64_t num_failed = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string nth = fmt::format("{}: cases[{}]", path, i);
    const std::string name = text(field(cases[i], "name", nth), nth + ".name");
    const std::string where = fmt::format("{}: case '{}'", path, name);
    const std::string op = text(field(cases[i], "op", where), where + ": op");
    const std::string failure = failure_of(cases[i], where, op, device);
    if (failure.empty()) {
      ++num_passed;
      continue;
    }
    ++num_failed;
    out << fmt::format("FAIL {} ({}): {}\n", name, op, failure);
  }
  out << fmt::format("{} passed, {} failed\n", num_passed, num_failed);
  return num_failed == 0 ? 0 : 1;
}

}  // namespace unigrpo::cli
