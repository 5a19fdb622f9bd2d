#include "planner/profile.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

double number_of(const json& value, const std::string& where, const std::string& key) {
  if (!value.is_number()) throw BadInput("{}: '{}' must be a number, got {}", where, key, value.dump());
  const auto number = value.get<double>();
  if (!std::isfinite(number) || number < 0) {
    throw BadInput("{}: '{}' must be a finite number of at least 0, got {}", where, key, value.dump());
  }
  return number;
}

const json& entry(const json& object, const std::string& where, const std::string& key) {
  if (!object.is_object()) throw BadInput("{}: expected a JSON object, got {}", where, object.type_name());
  const auto found = object.find(key);
  if (found == object.end()) throw BadInput("{}: '{}' is missing", where, key);
  return *found;
}

double positive(const json& object, const std::string& where, const std::string& key) {
  const double value = number_of(entry(object, where, key), where, key);
  if (value <= 0) throw BadInput("{}: '{}' must be above 0, got {}", where, key, value);
  return value;
}

/// A whole number that fills the text.
std::optional<int64_t> whole(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// The numbers of a key: "a_{}_b{}" style; nothing where it is of another kind.
std::optional<std::vector<int64_t>> numbers_of(std::string_view key, std::initializer_list<std::string_view> between) {
  std::vector<int64_t> out;
  const auto* part = between.begin();
  if (!key.starts_with(*part)) return std::nullopt;
  key.remove_prefix(part->size());
  for (++part; part != between.end(); ++part) {
    const size_t end = part->empty() ? key.size() : key.find(*part);
    if (end == key.npos) return std::nullopt;
    const auto value = whole(key.substr(0, end));
    if (!value) return std::nullopt;
    out.push_back(*value);
    key.remove_prefix(end + part->size());
  }
  if (!key.empty()) return std::nullopt;
  return out;
}

/// Least squares with a square term: a x^2 + b x + c.
struct Parabola {
  double a = 0, b = 0, c = 0;
};
Parabola fit_parabola(const std::vector<std::pair<double, double>>& points) {
  // Normal equations in x / scale, so that fourth powers of lengths lose nothing.
  double scale = 0;
  for (const auto& [x, y] : points) scale = std::max(scale, std::abs(x));
  if (points.size() < 3 || scale == 0) {
    const Line line = fit_line(points);
    return {0, line.slope, line.offset};
  }
  long double m[3][4] = {};
  for (const auto& [x, y] : points) {
    const long double u = x / scale, powers[3] = {u * u, u, 1};
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) m[i][j] += powers[i] * powers[j];
      m[i][3] += powers[i] * y;
    }
  }
  for (int i = 0; i < 3; ++i) {
    int pivot = i;
    for (int r = i + 1; r < 3; ++r) {
      if (std::abs(m[r][i]) > std::abs(m[pivot][i])) pivot = r;
    }
    std::swap(m[i], m[pivot]);
    for (int r = 0; r < 3; ++r) {
      if (r == i || m[i][i] == 0) continue;
      const long double factor = m[r][i] / m[i][i];
      for (int j = i; j < 4; ++j) m[r][j] -= factor * m[i][j];
    }
  }
  const auto value = [&](int i) { return static_cast<double>(m[i][i] == 0 ? 0 : m[i][3] / m[i][i]); };
  return {value(0) / scale / scale, value(1) / scale, value(2)};
}

/// Times of one kind of layer ("layertype_0", "layertype_other") as the mode wants them.
Line read_time(const json& file, const std::string& where, const std::string& name, int64_t seq, ProfileMode mode,
               bool parabola) {
  std::vector<std::pair<double, double>> points;
  std::optional<double> exact;
  if (!file.is_object()) throw BadInput("{}: expected a JSON object, got {}", where, file.type_name());
  for (const auto& [key, value] : file.items()) {
    const auto numbers = numbers_of(key, {name + "_bsz", "_seq", ""});
    if (!numbers) continue;
    const auto batch = static_cast<double>((*numbers)[0]), length = static_cast<double>((*numbers)[1]);
    const double ms = number_of(value, where, key);
    if ((*numbers)[1] == seq && (!exact || batch == 1)) exact = ms;
    if (mode == ProfileMode::batch && (*numbers)[1] == seq) points.emplace_back(batch, ms * batch);
    if (mode == ProfileMode::sequence && batch == 1) points.emplace_back(length, ms);
  }
  if (mode == ProfileMode::at_length) {
    if (!exact) throw BadInput("{}: '{}_bsz1_seq{}' is missing", where, name, seq);
    return {*exact, 0};
  }
  if (mode == ProfileMode::batch) {
    if (points.size() < kMinPoints) {
      throw BadInput("{}: '{}_bsz*_seq{}' has {} batch sizes, mode batch needs {} or more", where, name, seq,
                     points.size(), kMinPoints);
    }
    return fit_line(points);
  }
  if (points.size() < (parabola ? 3 : 2)) {
    throw BadInput("{}: '{}_bsz1_seq*' has {} lengths, mode sequence needs {} or more", where, name, points.size(),
                   parabola ? 3 : 2);
  }
  const auto x = static_cast<double>(seq);
  if (!parabola) return {fit_line(points).at(x), 0};
  const Parabola curve = fit_parabola(points);
  return {curve.a * x * x + curve.b * x + curve.c, 0};
}

ByDegree read_degrees(const json& object, const std::string& where) {
  ByDegree out;
  if (!object.is_object()) throw BadInput("{}: expected a JSON object, got {}", where, object.type_name());
  for (const auto& [key, value] : object.items()) {
    if (const auto degree = whole(key)) out[*degree] = number_of(value, where, key);
  }
  if (!out.contains(1)) throw BadInput("{}: '1' is missing", where);
  return out;
}

/// The entry of a length, or of the largest in mode sequence, with the factor that scales what grows with the length.
struct AtLength {
  const json* object;
  std::string where;
  double scale;
  const json* smallest;  // for parameters
};
AtLength at_length(const json& file, const std::string& where, const std::string& key, int64_t seq, ProfileMode mode) {
  // Megatron's sequence-parallel regions have keys of their own, and come first.
  const std::string name = file.is_object() && file.contains(key + "_sp") ? key + "_sp" : key;
  const json& lengths = entry(file, where, name);
  const std::string inside = where + ": " + name;
  if (!lengths.is_object()) throw BadInput("{}: expected a JSON object, got {}", inside, lengths.type_name());
  if (mode != ProfileMode::sequence) {
    const json& object = entry(lengths, inside, std::to_string(seq));
    return {&object, fmt::format("{}: {}", inside, seq), 1, &object};
  }
  std::map<int64_t, const json*> sorted;
  for (const auto& [text, value] : lengths.items()) {
    if (const auto length = whole(text); length && *length > 0) sorted[*length] = &value;
  }
  if (sorted.empty()) throw BadInput("{}: no sequence length in it", inside);
  const auto& [largest, object] = *sorted.rbegin();
  return {object, fmt::format("{}: {}", inside, largest), static_cast<double>(seq) / static_cast<double>(largest),
          sorted.begin()->second};
}

ByDegree scaled(ByDegree values, double factor) {
  for (auto& [degree, value] : values) value *= factor;
  return values;
}

EndsMemory read_ends(const json& file, const std::string& where, const std::string& key, int64_t seq,
                     ProfileMode mode) {
  const AtLength at = at_length(file, where, key, seq, mode);
  return {read_degrees(entry(*at.object, at.where, "model_states"), at.where + ": model_states"),
          scaled(read_degrees(entry(*at.object, at.where, "activation"), at.where + ": activation"), at.scale)};
}

LayerProfile read_layer_memory(const json& file, const std::string& where, size_t type, int64_t seq, ProfileMode mode) {
  const AtLength at = at_length(file, where, fmt::format("layertype_{}", type), seq, mode);
  const json& activation = entry(*at.object, at.where, "tp_activation_per_bsz_dict");
  const std::string inside = at.where + ": tp_activation_per_bsz_dict";
  LayerProfile out;
  out.parameter_mb = positive(*at.smallest, at.where, "parameter_size");
  out.activation_mb = scaled(read_degrees(activation, inside), at.scale);
  out.checkpoint_mb = number_of(entry(activation, inside, "checkpoint"), inside, "checkpoint") * at.scale;
  return out;
}

std::map<int64_t, Latencies> read_latencies(const json& file, const std::string& where, const std::string& kind) {
  std::map<int64_t, Latencies> out;
  for (const auto& [key, value] : file.items()) {
    const auto numbers = numbers_of(key, {kind + "_size_", "_", "MB_time"});
    if (numbers) out[(*numbers)[0]].by_mb[static_cast<double>((*numbers)[1])] = number_of(value, where, key);
  }
  for (auto& [ranks, table] : out) {
    if (table.by_mb.size() < kMinPoints) {
      throw BadInput("{}: '{}_size_{}_*MB_time' has {} sizes, {} or more are needed", where, kind, ranks,
                     table.by_mb.size(), kMinPoints);
    }
    table.line = fit_line({table.by_mb.begin(), table.by_mb.end()});
  }
  return out;
}

}  // namespace

Line fit_line(const std::vector<std::pair<double, double>>& points) {
  if (points.empty()) return {};
  double mean_x = 0, mean_y = 0;
  for (const auto& [x, y] : points) mean_x += x, mean_y += y;
  mean_x /= static_cast<double>(points.size());
  mean_y /= static_cast<double>(points.size());
  double xx = 0, xy = 0;
  for (const auto& [x, y] : points) {
    xx += (x - mean_x) * (x - mean_x);
    xy += (x - mean_x) * (y - mean_y);
  }
  const double slope = xx > 0 ? xy / xx : 0;
  return {slope, mean_y - slope * mean_x};
}

double Latencies::at(double megabytes) const {
  const auto found = by_mb.find(megabytes);
  return found != by_mb.end() ? found->second : line.at(megabytes);
}

double at_degree(const ByDegree& values, int64_t degree) {
  const auto found = values.find(degree);
  if (found != values.end()) return found->second;
  const auto above = values.lower_bound(degree);
  if (above == values.begin()) return 0;
  const auto& [smaller, value] = *std::prev(above);
  // Halved a doubling; between two powers by the quotient.
  return value * static_cast<double>(smaller) / static_cast<double>(degree);
}

ModelProfile read_model_profile(const NamedJson& computation, const NamedJson& memory, const ProfileQuery& query) {
  ModelProfile out;
  for (size_t i = 0; i < query.types.size(); ++i) {
    const int64_t seq = query.types[i].seq;
    LayerProfile layer = read_layer_memory(memory.content, memory.name, i, seq, query.memory);
    layer.forward_ms =
        read_time(computation.content, computation.name, fmt::format("layertype_{}", i), seq, query.time, true);
    out.types.push_back(std::move(layer));
  }
  const int64_t seq = query.types.front().seq;
  out.ends_ms = read_time(computation.content, computation.name, "layertype_other", seq, query.time, false);
  out.whole = read_ends(memory.content, memory.name, "other_memory_pp_off", seq, query.memory);
  out.first = read_ends(memory.content, memory.name, "other_memory_pp_on_first", seq, query.memory);
  out.last = read_ends(memory.content, memory.name, "other_memory_pp_on_last", seq, query.memory);
  return out;
}

HardwareProfile read_hardware_profile(const NamedJson& allreduce, const NamedJson& p2p, const NamedJson& overlap,
                                      const NamedJson& sp_time) {
  HardwareProfile out;
  out.allreduce_file = allreduce.name;
  out.p2p_file = p2p.name;
  out.sp_time_file = sp_time.name;
  for (const NamedJson* file : {&allreduce, &p2p, &overlap, &sp_time}) {
    if (!file->content.is_object()) {
      throw BadInput("{}: expected a JSON object, got {}", file->name, file->content.type_name());
    }
  }
  for (const auto& [key, value] : allreduce.content.items()) {
    const auto numbers = numbers_of(key, {"allreduce_size_", "_consec_", ""});
    if (numbers) {
      out.allreduce_gbps[{(*numbers)[0], (*numbers)[1] == 1}] = positive(allreduce.content, allreduce.name, key);
    }
  }
  for (const auto& [key, value] : p2p.content.items()) {
    const auto numbers = numbers_of(key, {"pp_size_", ""});
    if (numbers) out.p2p_gbps[(*numbers)[0]] = positive(p2p.content, p2p.name, key);
  }
  out.overlap = positive(overlap.content, overlap.name, "overlap_coe");
  if (out.overlap < 1) throw BadInput("{}: 'overlap_coe' must be at least 1, got {}", overlap.name, out.overlap);
  out.allreduce = read_latencies(sp_time.content, sp_time.name, "allreduce");
  out.all_to_all = read_latencies(sp_time.content, sp_time.name, "all2all");
  return out;
}

}  // namespace unigrpo::planner
