# Precompiled headers, each built once and shared: json, fmt and the standard library for the half without LibTorch, ATen
# for the other one, and both once more with GoogleTest for the tests, which are compiled with -O1. They hold third-party
# headers alone.
set(UNIGRPO_STD_HEADERS <algorithm> <array> <cstdint> <filesystem> <functional> <map> <memory> <optional> <span> <string>
                        <string_view> <utility> <variant> <vector>)
set(UNIGRPO_TEST_OPTIONS -O1 -Wno-stringop-overread)  # the warning: see unigrpo_warnings
if(UNIGRPO_TESTS)
  find_package(GTest REQUIRED)
endif()

# Adds the OBJECT library NAME that carries a precompiled header of HEADERS, compiled as those who LINK it are.
function(unigrpo_precompile name)
  cmake_parse_arguments(arg "" "" "LINKS;HEADERS;OPTIONS" ${ARGN})
  set(carrier ${CMAKE_BINARY_DIR}/generated/${name}.cpp)
  file(CONFIGURE OUTPUT ${carrier} CONTENT "// carrier of a precompiled header\n")
  add_library(${name} OBJECT ${carrier})
  target_link_libraries(${name} PRIVATE unigrpo_warnings ${arg_LINKS})
  target_compile_options(${name} PRIVATE ${arg_OPTIONS})
  target_precompile_headers(${name} PRIVATE ${arg_HEADERS})
endfunction()

# Lets a target use one of them. It serves only those who compile as it was: with -fPIC, programs too.
function(unigrpo_use_precompiled target name)
  target_precompile_headers(${target} REUSE_FROM ${name})
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "EXECUTABLE")
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
endfunction()

# Debian's fmt, compiled, for the half without LibTorch. The other half meets the wheel's newer one (torch.cmake); each
# has an inline namespace of its own, so a program may hold both.
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
unigrpo_precompile(unigrpo_pch LINKS fmt::fmt nlohmann_json::nlohmann_json
                   HEADERS <fmt/format.h> <nlohmann/json.hpp> ${UNIGRPO_STD_HEADERS})
if(UNIGRPO_TESTS)
  unigrpo_precompile(unigrpo_test_pch LINKS fmt::fmt nlohmann_json::nlohmann_json GTest::gtest OPTIONS ${UNIGRPO_TEST_OPTIONS}
                     HEADERS <fmt/format.h> <gtest/gtest.h> <nlohmann/json.hpp> ${UNIGRPO_STD_HEADERS})
endif()
