#pragma once

#include <filesystem>
#include <string>

namespace unigrpo::reward::plugin {

/// A plugin's file as it was when the run began, in memory: what stands under its name later, or no longer does, makes
/// no difference to the run.
class FileCopy {
 public:
  /// Throws BadInput where the file cannot be read.
  explicit FileCopy(const std::filesystem::path& path);
  ~FileCopy();
  FileCopy(const FileCopy&) = delete;
  FileCopy& operator=(const FileCopy&) = delete;

  /// Of the bytes, which nobody can change.
  int descriptor() const { return descriptor_; }
  /// Lower-case hexadecimal.
  const std::string& sha256() const { return sha256_; }

 private:
  int descriptor_ = -1;
  std::string sha256_;
};

}  // namespace unigrpo::reward::plugin
