#pragma once

#include <string>

#include "media/read_options.h"

namespace unigrpo::media {

/// Reads a media file through an open descriptor in this process, which a decoder's fault would take with it: for the
/// worker (read_clip.h) and tests. `name` stands in errors. Throws BadInput "{name}: why", RuntimeFailure where libav
/// fails for a reason of its own.
ReadResult decode(int descriptor, const std::string& name, const ReadOptions& options);

}  // namespace unigrpo::media
