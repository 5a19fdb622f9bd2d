#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "ingest/stage.h"
#include "media/read_options.h"

namespace unigrpo::ingest {

/// The drop of a row whose file cannot be read: BadInput's text without the path, and the reason that it is counted
/// under.
nlohmann::json refused(const nlohmann::json& row, const std::string& message);

/// A row's clip: its file from `start_s` on for `seconds`. Throws BadInput.
media::ReadResult read_row(const Options& options, const nlohmann::json& row, media::ReadOptions read = {});
/// The same with what the stages have repaired: bars cut off, a dead channel filled, sound shifted.
media::Clip read_repaired(const Options& options, const nlohmann::json& row, const media::ReadOptions& read = {});

/// Whether a row has a stream, "video" or "audio", that it is kept for.
bool has_stream(const nlohmann::json& row, const char* stream);
/// Takes its sound from a row: it is kept for its pictures.
void make_mute(nlohmann::json& row);

/// A measured value as a manifest shows it: 6 digits after the point.
double rounded(double value);

}  // namespace unigrpo::ingest
