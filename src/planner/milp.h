#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace unigrpo::planner {

/// A linear program some of whose columns are whole numbers, to be minimised. Costs that differ should do so by 1e-2 or
/// more: solvers' tolerances are absolute.
struct Milp {
  struct Column {
    double cost = 0, lower = 0, upper = 0;
    bool integer = false;
    std::vector<std::pair<int, double>> entries = {};  // row, coefficient
  };
  struct Row {
    double lower = 0, upper = 0;
  };
  std::vector<Column> columns;
  std::vector<Row> rows;
};

/// Whether a solver is here: Cbc, where it was found at build time and can be loaded.
bool has_milp_solver();

/// No solution costs less; infinite where there is none. Nothing without a solver, where it gave up, or where no column
/// is whole. One thread, a limit of nodes: a function of its input.
std::optional<double> milp_lower_bound(const Milp& program, int64_t most_nodes);

}  // namespace unigrpo::planner
