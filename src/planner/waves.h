#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace unigrpo::planner {

/// An operator of a graph of modules, before chains of equal ones are joined.
struct GraphNode {
  std::string name, signature;  // kind, parameter shape, input size
  std::vector<std::string> deps = {};
};

/// A chain of equal operators. Level: the longest path to it.
struct Chain {
  std::vector<std::string> members;  // in their order
  int64_t level = 0;
  std::vector<size_t> deps;  // indices of chains
};

/// Joins a -> b where b depends on a alone, nothing else on a, and their signatures agree; sorted by members. Throws
/// BadInput naming an unknown or doubled node, or a cycle's path.
std::vector<Chain> contract(const std::vector<GraphNode>& nodes);

/// L equal layers that run on any of several numbers of ranks.
struct MetaOp {
  std::string name;
  int64_t layers = 1;
  std::map<int64_t, double> ms = {};  // of a layer, by ranks
  std::vector<size_t> deps = {};      // indices
};

/// Layers a ms on n ranks: straight lines through (0, 0) and the profiled points, without those at which it would not
/// rise or would become convex. Source: Spindle (arXiv 2409.03365), section 3.2.
class Speed {
 public:
  explicit Speed(const std::map<int64_t, double>& ms);
  /// Ranks at which the speed is `wanted`; more than there are where it never is.
  double ranks_for(double wanted) const;
  double fastest() const { return points_.back().speed; }
  int64_t most_ranks() const { return points_.back().ranks; }

 private:
  struct Point {
    int64_t ranks;
    double speed;
  };
  std::vector<Point> points_;
};

/// All ops end together: C* = least C >= every L / v(n_max) with sum n_m(C) <= ranks, where v(n_m) = L / C. A lower
/// bound on any schedule of these ops.
struct Continuous {
  double ideal_ms = 0;
  std::vector<double> ranks;  // of each op
};
Continuous continuous_optimum(const std::vector<MetaOp>& ops, int64_t ranks);

struct WavePiece {
  size_t op = 0;
  int64_t layers = 0, ranks = 0;
  bool operator==(const WavePiece&) const = default;
};
/// Pieces that run next to each other; a wave ends with its longest.
using Wave = std::vector<WavePiece>;

struct WaveSchedule {
  std::vector<Wave> waves;
  double milliseconds = 0;
  double lower_bound = 0;  // proven: paths and ranks at once, each op of the size that serves both best
  double level_ideal = 0;  // sum of C* over levels, which is no bound
};

double wave_ms(const std::vector<MetaOp>& ops, const Wave& wave);

/// Waves of least sum found: exact where the graph is tiny, else the best of a beam of states with randomised two-point
/// allotments, improved. Every op's layers run once, after all that it depends on. A function of its input alone.
/// Throws BadInput where the graph is cyclic or an op has no time at any number of ranks up to `ranks`.
WaveSchedule schedule_waves(const std::vector<MetaOp>& ops, int64_t ranks);

/// Indices in an order in which every op follows what it depends on. Throws BadInput with a cycle's path.
std::vector<size_t> order_of(const std::vector<MetaOp>& ops);

}  // namespace unigrpo::planner
