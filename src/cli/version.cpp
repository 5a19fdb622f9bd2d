#include "cli/commands.h"
#include "unigrpo_version.h"

#ifdef UNIGRPO_TORCH
#include <torch/version.h>
#endif
#ifdef UNIGRPO_WITH_TORCH
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#ifdef UNIGRPO_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif
#endif

namespace unigrpo::cli {
namespace {

#ifdef UNIGRPO_WITH_TORCH
std::string cuda_version() {
  const auto& hooks = at::detail::getCUDAHooks();
  if (!hooks.hasCUDART()) return "none (built without the CUDA kernels)";
  const long version = hooks.versionCUDART();  // 13000 stands for 13.0
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string devices() {
  std::string text = fmt::format("cpu ({}, {} threads)", at::get_cpu_capability(), at::get_num_threads());
  for (int index = 0; index < at::detail::getCUDAHooks().getNumGPUs(); ++index) {
#ifdef UNIGRPO_CUDA
    text += fmt::format(", cuda:{} ({})", index, at::cuda::getDeviceProperties(index)->name);
#else
    text += fmt::format(", cuda:{} (idle: built without the CUDA kernels)", index);
#endif
  }
  return text;
}
#endif

}  // namespace

Build this_build() {
  Build build{.version = kVersion, .commit = kCommit};
#ifdef UNIGRPO_TORCH
  build.libtorch = TORCH_VERSION;
#endif
  return build;
}

std::string version_text() {
  std::string text = std::string("unigrpo ") + kVersion + "\ncommit   " + kCommit + "\nlibtorch ";
#ifdef UNIGRPO_TORCH
  text += TORCH_VERSION;
#else
  text += "none (only the commands that need no model)";
#endif
#ifdef UNIGRPO_WITH_TORCH
  text += fmt::format("\ncuda     {}\ndevices  {}", cuda_version(), devices());
#endif
  return text;
}

}  // namespace unigrpo::cli
