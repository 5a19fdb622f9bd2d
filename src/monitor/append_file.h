#pragma once

#include <filesystem>
#include <string_view>

namespace unigrpo::monitor {

/// A file that only grows. Each append reaches the kernel before it returns, so a killed process
/// loses at most the append that it was in.
class AppendFile {
 public:
  enum class Mode { create, extend };  // create: must not exist yet; extend: created where missing
  /// Throws BadInput when `create` finds a file, RuntimeFailure when the file cannot be opened.
  AppendFile(const std::filesystem::path& path, Mode mode);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Throws RuntimeFailure naming path and cause.
  void append(std::string_view bytes);

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace unigrpo::monitor
