# Several files of a target in one go: what each would begin with (the precompiled header's templates, 4 s of them with
# ATen's) is done once. Files with flags of their own stay alone; SINGLE names further ones.
function(unigrpo_unite target)
  cmake_parse_arguments(arg "" "" "SINGLE" ${ARGN})
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${UNIGRPO_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  set_source_files_properties(${arg_SINGLE} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# unigrpo_module(NAME [TORCH] [APART] [EXCLUDE regex] [DEPENDS ...] [PRIVATE ...]): one static library per folder of src/,
# named unigrpo_NAME. TORCH: the folder sees LibTorch and reuses the precompiled ATen header. APART: each file is an object
# of its own, so that a program that links some of them does not load the shared libraries of the others at a start.
# EXCLUDE: files of another target. A rules.cpp is of the target unigrpo_rules.
function(unigrpo_module name)
  cmake_parse_arguments(arg "TORCH;APART" "EXCLUDE" "DEPENDS;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/rules\\.cpp$")
  if(arg_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${arg_EXCLUDE}")
  endif()
  add_library(unigrpo_${name} STATIC ${sources})
  target_include_directories(unigrpo_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(unigrpo_${name} PRIVATE unigrpo_warnings)
  if(NOT arg_APART)
    unigrpo_unite(unigrpo_${name})
  endif()
  foreach(dep ${arg_DEPENDS})
    target_link_libraries(unigrpo_${name} PUBLIC unigrpo_${dep})
  endforeach()
  target_link_libraries(unigrpo_${name} PRIVATE ${arg_PRIVATE})
  if(arg_TORCH)
    unigrpo_use_torch(unigrpo_${name})
  else()
    target_link_libraries(unigrpo_${name} PRIVATE fmt::fmt)
    unigrpo_use_precompiled(unigrpo_${name} unigrpo_pch)
  endif()
endfunction()

# unigrpo_test(NAME [TORCH] LINKS ... [LABELS ...] [TIMEOUT s] [SINGLE ...]): a GoogleTest program of the *_test.cpp in
# tests/NAME/. SINGLE: those, without _test.cpp, whose helpers are named as another file's; they are compiled alone.
function(unigrpo_test name)
  cmake_parse_arguments(arg "TORCH" "TIMEOUT" "LINKS;LABELS;SINGLE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*_test.cpp)
  list(TRANSFORM arg_SINGLE REPLACE "(.+)" "${CMAKE_CURRENT_SOURCE_DIR}/${name}/\\1_test.cpp")
  add_executable(test_${name} ${sources})
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(test_${name} PRIVATE UNIGRPO_TEST_DATA="${UNIGRPO_FILES}/tests/data"
                                                  UNIGRPO_SOURCE_DIR="${UNIGRPO_FILES}"
                                                  UNIGRPO_BINARY="${CMAKE_BINARY_DIR}/bin/unigrpo")
  target_link_libraries(test_${name} PRIVATE ${arg_LINKS} GTest::gtest GTest::gtest_main unigrpo_warnings)
  target_compile_options(test_${name} PRIVATE ${UNIGRPO_TEST_OPTIONS})
  unigrpo_unite(test_${name} SINGLE ${arg_SINGLE})
  if(arg_TORCH)
    target_link_libraries(test_${name} PRIVATE unigrpo_torch)
    unigrpo_use_precompiled(test_${name} unigrpo_torch_test_pch)
  else()
    target_link_libraries(test_${name} PRIVATE fmt::fmt)
    unigrpo_use_precompiled(test_${name} unigrpo_test_pch)
  endif()
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
