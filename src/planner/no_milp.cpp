// Built where Cbc is not: bounds are those of the planner's own prices. `apt-get install coinor-libcbc-dev` brings it.
#include "planner/milp.h"

namespace unigrpo::planner {

bool has_milp_solver() { return false; }

std::optional<double> milp_lower_bound(const Milp&, int64_t) { return std::nullopt; }

}  // namespace unigrpo::planner
