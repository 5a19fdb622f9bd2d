#pragma once

#include <filesystem>
#include <string>

#include "reward/plugin/judge.h"

struct unigrpo_reward_plugin;

namespace unigrpo::reward::plugin {

/// The plugin's file, as far as it can be judged without running any of it. Throws BadInput naming the path for what is
/// no regular file or may be written by everyone, itself or through its folder.
void check_plugin_file(const std::filesystem::path& path);

/// A reward from a shared library (include/unigrpo/reward_plugin.h), in this process. It stays loaded to the end of the
/// process: its threads and thread-locals must not lose their code.
class Library : public Judge {
 public:
  /// Loads the bytes behind `copy`, a descriptor, where one is given; from the path itself, should they need what lies
  /// beside it and it still holds them. Throws BadInput naming the path: not a library, without the table, wrong magic,
  /// ABI version or struct size, or settings that the plugin refuses.
  Library(const std::filesystem::path& path, const std::string& settings_json, int copy = -1);
  ~Library() override;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const Description& description() const override { return description_; }
  Answer score(std::span<const SampleView> samples) override;

 private:
  const unigrpo_reward_plugin* table_ = nullptr;
  void* reward_ = nullptr;
  Description description_;
};

}  // namespace unigrpo::reward::plugin
