# Run at build time: writes OUTPUT, a header with VERSION and the commit of SOURCE_DIR ("-dirty" where tracked files
# differ from it, "unknown" outside a git checkout). The file is touched only when its text changes.
find_program(GIT git)
set(commit "")
if(GIT AND EXISTS ${SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} describe --always --abbrev=12 --dirty "--exclude=*"
                  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[#pragma once

namespace unigrpo {
inline constexpr char kVersion[] = "@VERSION@";
inline constexpr char kCommit[] = "@commit@";
}  // namespace unigrpo
]] @ONLY)
