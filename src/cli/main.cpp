#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/failure.h"
#include "base/left_behind.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/model_commands.h"

namespace unigrpo::cli {
namespace {

/// The table of commands: those of the half without LibTorch, and the others.
std::vector<Command> all_commands() {
  std::vector<Command> commands = {
      {"inspect", "Print what weights, a tokenizer, prompts, a run or its checkpoints hold", &declare_inspect},
      {"recipe", "Explain every recipe key, or check a recipe and print it in full", &declare_recipe},
      {"data", "Make the embedded worlds' prompt files and tokenizer, or a set of clips out of media files",
       &declare_data},
      {"plan", "Say how ranks should share a recipe's model: plans, their times, memory and why", &declare_plan},
      {"profile", "Write the profile files that plans are made from", &declare_profile},
      {"report", "Write report.html of a run folder", &declare_report},
      {"launch", "Run a command as several ranks on this machine", &declare_launch},
      {"reward", "Score existing samples with a plugin, or the rewards of a recipe", &declare_reward},
  };
  commands.insert(commands.end(), kModelCommands.begin(), kModelCommands.end());
  return commands;
}

/// Prints what the user asked for instead of a command (--help, --version); or says what is wrong with the usage.
int answer_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::Success*>(&error)) return app.exit(error);
  std::string command;
  const CLI::App* part = &app;
  while (!part->get_subcommands().empty()) {
    part = part->get_subcommands().front();
    command += " " + part->get_name();
  }
  throw BadInput("{}; see `unigrpo{} --help`", hide_password(error.what()), command);
}

void check_command_name(std::string_view name, const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (name == command.name) return;
    names.emplace_back(command.name);
  }
  const std::string close = nearest(name, names);
  throw BadInput("unknown command '{}'{}; see `unigrpo --help`", name,
                 close.empty() ? "" : fmt::format(", did you mean '{}'?", close));
}

int run_command_line(int argc, char** argv) {
  CLI::App app("UniGRPO: reinforcement learning for unified text and image models", "unigrpo");
  app.set_version_flag("--version", std::function<std::string()>(version_text), "Print the version");
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(36);
  const std::vector<Command> commands = all_commands();
  Run chosen;
  for (const Command& command : commands) {
    CLI::App* part = app.add_subcommand(command.name, command.description);
    part->final_callback([&chosen, run = command.declare(*part)] { chosen = run; });
  }
  if (argc > 1 && argv[1][0] != '-') check_command_name(argv[1], commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return answer_parse_error(app, error);
  }
  if (!chosen) throw BadInput("no command given; see `unigrpo --help`");
  const int code = chosen();
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw RuntimeFailure("cannot write to stdout");
  return code;
}

/// What torchrun's summary quotes of a rank that failed by itself; one that lost another writes nothing, or it would be
/// blamed.
void write_error_file(const Failure& failure) {
  const char* const path = std::getenv("TORCHELASTIC_ERROR_FILE");
  if (path == nullptr || failure.code == ExitCode::try_again || failure.code == ExitCode::interrupted) return;
  const nlohmann::json error = {{"message", failure.line}, {"timestamp", std::time(nullptr)}};
  std::ofstream(path) << error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
}

}  // namespace

void add_overrides(CLI::App& app, std::vector<std::string>& overrides) {
  app.add_option("--set", overrides, "Override a recipe key: --set grpo.group_size=16")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
}

}  // namespace unigrpo::cli

int main(int argc, char** argv) {
  const auto failed = [](const unigrpo::Failure& failure) {
    std::fprintf(stderr, "unigrpo: %s\n", failure.line.c_str());
    unigrpo::cli::write_error_file(failure);
    return static_cast<int>(failure.code);
  };
  int code = 0;
  try {
    unigrpo::process_arguments().assign(argv, argv + argc);
    code = unigrpo::cli::run_command_line(argc, argv);
  } catch (const std::exception& error) {
    code = failed(unigrpo::describe_failure(error));
  } catch (...) {
    code = failed({.line = "unknown exception"});
  }
  if (!unigrpo::any_left_behind()) return code;
  std::fflush(nullptr);
  std::_Exit(code);  // destructors of static objects would pull them from under a thread that still runs
}
