#pragma once

#include <filesystem>
#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace unigrpo::planner {

/// Solves every case of a "unigrpo-planner/1" file with the code that `plan` uses and has each answer judged by
/// check_answer. Prints `FAIL name (op): reason` a failing case and last `N passed, N failed`. Returns 0 when none
/// failed, else 1. `answers`, if given, gets {"format": "unigrpo-planner-answers/1", "answers": [{"name", "answer"}]}.
/// Throws BadInput naming the file where it cannot be read.
int run_selftest(const std::filesystem::path& file, const std::filesystem::path& answers, std::ostream& out);

/// The answer to one case's input. `profiles`: of the file beside, for the ops that name one.
nlohmann::json solve_case(const std::string& op, const nlohmann::json& input, const nlohmann::json& profiles);

/// Empty where the answer passes, else why not. Judges by the input, the answer and the definitions of docs/PLANNING.md
/// alone, none of the optimisers' code.
std::string check_answer(const nlohmann::json& test_case, const nlohmann::json& answer);

}  // namespace unigrpo::planner
