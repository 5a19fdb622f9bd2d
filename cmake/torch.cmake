# LibTorch from the PyPI wheel in .venv (or any Torch on CMAKE_PREFIX_PATH).
if(NOT Torch_DIR)
  file(GLOB wheel ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch/share/cmake/Torch)
  if(wheel)
    list(GET wheel 0 Torch_DIR)
  endif()
endif()
set(TORCH_CUDA_ARCH_LIST "8.0;9.0" CACHE STRING "GPU architectures of the kernels")

# The wheel's headers come as SYSTEM and before Debian's, its fmt among them, which is newer than the system's.
add_library(unigrpo_torch INTERFACE)
if(UNIGRPO_CUDA)
  find_package(Torch REQUIRED)
  target_link_libraries(unigrpo_torch INTERFACE ${TORCH_LIBRARIES})
  target_include_directories(unigrpo_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  separate_arguments(torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
  target_compile_options(unigrpo_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${torch_flags}>)
else()
  # A CUDA wheel's package file insists on the CUDA toolkit, and its libtorch.so drags the GPU libraries into every
  # process (0.2 s a start). The CPU half of either wheel is two libraries, so they are named here.
  find_library(UNIGRPO_TORCH_CPU torch_cpu HINTS ${Torch_DIR}/../../../lib PATH_SUFFIXES lib)
  find_library(UNIGRPO_C10 c10 HINTS ${Torch_DIR}/../../../lib PATH_SUFFIXES lib)
  find_path(UNIGRPO_TORCH_INCLUDE ATen/ATen.h HINTS ${Torch_DIR}/../../../include PATH_SUFFIXES include)
  if(NOT UNIGRPO_TORCH_CPU OR NOT UNIGRPO_C10 OR NOT UNIGRPO_TORCH_INCLUDE)
    message(FATAL_ERROR "LibTorch not found: run scripts/setup.sh, or give -DCMAKE_PREFIX_PATH or -DTorch_DIR, or "
                        "-DUNIGRPO_TORCH=OFF for the half that does not need it")
  endif()
  message(STATUS "LibTorch: ${UNIGRPO_TORCH_CPU}")
  target_link_libraries(unigrpo_torch INTERFACE ${UNIGRPO_TORCH_CPU} ${UNIGRPO_C10})
  target_include_directories(unigrpo_torch SYSTEM INTERFACE ${UNIGRPO_TORCH_INCLUDE}
                             ${UNIGRPO_TORCH_INCLUDE}/torch/csrc/api/include)
endif()

# at::parallel_for is inline and runs serially in a file compiled without OpenMP.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_compile_options(unigrpo_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
target_link_options(unigrpo_torch INTERFACE ${OpenMP_CXX_FLAGS})  # the run-time library is the wheel's own

# The functions of the wheel's fmt, which come as headers only.
add_library(unigrpo_torch_fmt STATIC ${PROJECT_SOURCE_DIR}/cmake/torch_fmt.cpp)
target_link_libraries(unigrpo_torch_fmt PRIVATE unigrpo_torch)

set(UNIGRPO_TORCH_HEADERS <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/csrc/autograd/autograd.h>
                          <torch/library.h> <fmt/format.h> ${UNIGRPO_STD_HEADERS})
unigrpo_precompile(unigrpo_torch_pch LINKS unigrpo_torch HEADERS ${UNIGRPO_TORCH_HEADERS})
if(UNIGRPO_TESTS)
  unigrpo_precompile(unigrpo_torch_test_pch LINKS unigrpo_torch GTest::gtest OPTIONS ${UNIGRPO_TEST_OPTIONS}
                     HEADERS ${UNIGRPO_TORCH_HEADERS} <gtest/gtest.h>)
endif()

function(unigrpo_use_torch target)
  target_link_libraries(${target} PUBLIC unigrpo_torch unigrpo_torch_fmt)
  unigrpo_use_precompiled(${target} unigrpo_torch_pch)
endfunction()
