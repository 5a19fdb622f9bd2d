#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace unigrpo::planner {

/// A strategy for each layer of a stage within a memory budget. Layers of one type have one row of costs.
struct ChooseProblem {
  std::vector<int64_t> layers;                               // type of each layer
  std::vector<std::vector<int64_t>> memory;                  // [type][strategy], whole MB
  std::vector<std::vector<double>> time;                     // [type][strategy]
  std::vector<std::vector<std::vector<double>>> transition;  // [type of the latter, or one for all][former][latter]
  int64_t budget = 0;
};

struct Choice {
  std::vector<int64_t> strategies;  // of each layer
  double cost = 0;                  // times and transitions
  int64_t memory = 0;
};

/// The cheapest choice, nothing where none fits. Exact: equal to the table over (layer, MB, strategy)
///
///   f[i][v][s] = time[i][s] + min_r ( f[i-1][v - mem[i][s]][r] + transition[r][s] ),   f[-1] = 0
///
/// of Galvatron (csrc/dp_core.cpp), by Pareto lists of (memory, time) a strategy that a Lagrangian bound keeps short.
std::optional<Choice> choose_strategies(const ChooseProblem& problem);

/// Cost of a choice, from its definition.
double choice_cost(const ChooseProblem& problem, const std::vector<int64_t>& strategies);

}  // namespace unigrpo::planner
