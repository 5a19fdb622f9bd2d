#pragma once

#include <string>

#include "planner/search.h"
#include "planner/simulate.h"

namespace unigrpo::planner {

/// A self-contained HTML page: the plans with what each step is made of, a stage's memory by what it is for, a map of a
/// rank's memory whose degrees can be changed (among `uniform` plans), and the simulated time line of the best.
std::string plan_page(const std::string& title, const Cluster& cluster, const SearchResult& result,
                      const std::vector<JudgedPlan>& uniform, const Simulation& simulation);

}  // namespace unigrpo::planner
