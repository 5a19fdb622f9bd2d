#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace unigrpo::planner {

/// Milliseconds of a layer by its number of ranks, known where it was profiled. Between two profiled numbers
///
///   t(n) = alpha / n + delta,    alpha and delta of the two
///
/// a piece for each interval, since one line over all does not follow a layer whose ranks leave a node. Source: Spindle
/// (arXiv 2409.03365), section 3.2.
class Scalability {
 public:
  /// At least one time, all above 0.
  explicit Scalability(std::map<int64_t, double> profiled) : profiled_(std::move(profiled)) {}

  /// Nothing outside of what was profiled.
  std::optional<double> at(int64_t ranks) const;

  /// How far the pieces are off, relative: each profiled time but the first and the last predicted by its neighbours.
  struct HeldOut {
    int64_t ranks = 0;
    double error = 0;
  };
  /// The worst of them; nothing where fewer than three times are known.
  std::optional<HeldOut> worst_held_out() const;

 private:
  std::map<int64_t, double> profiled_;
};

/// Held-out times that are further off than this ask for more profiled numbers of ranks.
inline constexpr double kHeldOutError = 0.05;

/// Times at all numbers of ranks in the profiled range on which a layer of batch `batch` may run: those that divide it
/// and are multiples of `multiple` (the layer's tp x sp), up to `ranks`; profiled ones as they are.
std::map<int64_t, double> all_times(const std::map<int64_t, double>& profiled, int64_t batch, int64_t multiple,
                                    int64_t ranks);

}  // namespace unigrpo::planner
