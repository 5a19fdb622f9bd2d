#pragma once

#include <filesystem>
#include <functional>

namespace unigrpo::checkpoint {

/// Throws BadInput unless `destination` is absent or an empty folder.
void require_unused(const std::filesystem::path& destination);

/// Makes a folder that appears whole or not at all: `fill` writes into a temporary folder beside `destination`, which
/// is then synced and renamed. A failure leaves nothing behind.
/// Throws as require_unused does, RuntimeFailure where the disk refuses.
void build_folder(const std::filesystem::path& destination,
                  const std::function<void(const std::filesystem::path& temporary)>& fill);

}  // namespace unigrpo::checkpoint
