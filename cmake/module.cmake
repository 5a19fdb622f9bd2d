# unigrpo_module(NAME [TORCH] [DEPENDS ...] [PRIVATE ...]): one static library per folder of src/, named unigrpo_NAME.
# TORCH: the folder sees LibTorch and reuses the precompiled ATen header.
function(unigrpo_module name)
  cmake_parse_arguments(arg "TORCH" "" "DEPENDS;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_library(unigrpo_${name} STATIC ${sources})
  target_include_directories(unigrpo_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(unigrpo_${name} PRIVATE unigrpo_warnings)
  foreach(dep ${arg_DEPENDS})
    target_link_libraries(unigrpo_${name} PUBLIC unigrpo_${dep})
  endforeach()
  target_link_libraries(unigrpo_${name} PRIVATE ${arg_PRIVATE})
  if(arg_TORCH)
    unigrpo_use_torch(unigrpo_${name})
  endif()
endfunction()

# unigrpo_test(NAME [TORCH] LINKS ... [LABELS ...] [TIMEOUT s]): a GoogleTest program of tests/NAME/*_test.cpp.
function(unigrpo_test name)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT" "LINKS;LABELS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*_test.cpp)
  if(NOT sources)  # bootstrapping: the folder has no test yet
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(test_${name} PRIVATE UNIGRPO_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
                                                  UNIGRPO_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                                  UNIGRPO_BINARY="${CMAKE_BINARY_DIR}/bin/unigrpo")
  target_link_libraries(test_${name} PRIVATE ${arg_LINKS} GTest::gtest GTest::gtest_main unigrpo_warnings)
  if(UNIGRPO_SANITIZE)  # g++ 12 then takes std::regex for using uninitialised members
    target_compile_options(test_${name} PRIVATE -Wno-maybe-uninitialized)
  endif()
  if(arg_TORCH)
    unigrpo_use_torch(test_${name})
  endif()
  include(GoogleTest)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  add_test(NAME ${name} COMMAND test_${name} --gtest_brief=1)
  # One OpenMP thread a test: ctest runs several at once, and threads that wait for a busy core spin.
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} ENVIRONMENT OMP_NUM_THREADS=1)
endfunction()
