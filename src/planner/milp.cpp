// The one file that sees a solver: Cbc 2.10 by its C header.
#include "planner/milp.h"

#include <coin/Cbc_C_Interface.h>
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <string>

#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

/// Loaded when a program is first solved: linked, it would slow every start of every command.
struct Cbc {
  decltype(&Cbc_newModel) new_model;
  decltype(&Cbc_deleteModel) delete_model;
  decltype(&Cbc_loadProblem) load_problem;
  decltype(&Cbc_setInteger) set_integer;
  decltype(&Cbc_setParameter) set_parameter;
  decltype(&Cbc_solve) solve;
  decltype(&Cbc_isProvenInfeasible) is_infeasible;
  decltype(&Cbc_isAbandoned) is_abandoned;
  decltype(&Cbc_getBestPossibleObjValue) best_possible;
  decltype(&Cbc_getObjValue) objective;
};

const Cbc* cbc() {
  static const std::optional<Cbc> loaded = []() -> std::optional<Cbc> {
    void* library = dlopen(UNIGRPO_CBC, RTLD_NOW | RTLD_LOCAL);
    bool whole = library != nullptr;
    const auto symbol = [&]<typename F>(F& function, const char* name) {
      void* address = library == nullptr ? nullptr : dlsym(library, name);
      whole = whole && address != nullptr;
      function = reinterpret_cast<F>(address);
    };
    Cbc out{};
    symbol(out.new_model, "Cbc_newModel");
    symbol(out.delete_model, "Cbc_deleteModel");
    symbol(out.load_problem, "Cbc_loadProblem");
    symbol(out.set_integer, "Cbc_setInteger");
    symbol(out.set_parameter, "Cbc_setParameter");
    symbol(out.solve, "Cbc_solve");
    symbol(out.is_infeasible, "Cbc_isProvenInfeasible");
    symbol(out.is_abandoned, "Cbc_isAbandoned");
    symbol(out.best_possible, "Cbc_getBestPossibleObjValue");
    symbol(out.objective, "Cbc_getObjValue");
    return whole ? std::optional(out) : std::nullopt;
  }();
  return loaded ? &*loaded : nullptr;
}

}  // namespace

bool has_milp_solver() { return cbc() != nullptr; }

std::optional<double> milp_lower_bound(const Milp& program, int64_t most_nodes) {
  const Cbc* c = cbc();
  // Without whole columns Cbc 2.10.8 leaves its best possible value uninitialised.
  if (c == nullptr || std::ranges::none_of(program.columns, &Milp::Column::integer)) return std::nullopt;
  std::vector<CoinBigIndex> starts = {0};
  std::vector<int> rows;
  std::vector<double> values, lower, upper, cost, row_lower, row_upper;
  for (const Milp::Column& column : program.columns) {
    for (const auto& [row, value] : column.entries) rows.push_back(row), values.push_back(value);
    starts.push_back(static_cast<CoinBigIndex>(rows.size()));
    lower.push_back(column.lower);
    upper.push_back(column.upper);
    cost.push_back(column.cost);
  }
  for (const Milp::Row& row : program.rows) row_lower.push_back(row.lower), row_upper.push_back(row.upper);
  const std::unique_ptr<void, void (*)(Cbc_Model*)> model(c->new_model(), c->delete_model);
  c->load_problem(model.get(), static_cast<int>(program.columns.size()), static_cast<int>(program.rows.size()),
                  starts.data(), rows.data(), values.data(), lower.data(), upper.data(), cost.data(), row_lower.data(),
                  row_upper.data());
  for (size_t i = 0; i < program.columns.size(); ++i) {
    if (program.columns[i].integer) c->set_integer(model.get(), static_cast<int>(i));
  }
  c->set_parameter(model.get(), "log", "0");
  c->set_parameter(model.get(), "slog", "0");
  for (const char* part : {"heuristicsOnOff", "cutsOnOff", "preprocess"})
    c->set_parameter(model.get(), part, "off");  // a bound is asked for
  c->set_parameter(model.get(), "maxNodes", std::to_string(most_nodes).c_str());
  c->solve(model.get());
  if (c->is_infeasible(model.get())) return kInfinity;
  const double bound = c->best_possible(model.get());
  if (c->is_abandoned(model.get()) || !(bound > -1e30 && bound < 1e30)) return std::nullopt;
  return std::min(bound, c->objective(model.get()));  // 1e50 and more where it has no solution
}

}  // namespace unigrpo::planner
