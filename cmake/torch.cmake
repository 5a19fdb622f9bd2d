# LibTorch from the PyPI wheel in .venv (or any Torch on CMAKE_PREFIX_PATH).
if(NOT Torch_DIR)
  file(GLOB wheel ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch/share/cmake/Torch)
  if(wheel)
    list(GET wheel 0 Torch_DIR)
  endif()
endif()

# The wheel's own package file is not used: it insists on the CUDA toolkit, drags the GPU libraries into every process
# (0.2 s a start), and in 2.11.0 its CUDA targets name the relative folder "include", which CMake refuses. The
# wheel's headers come as SYSTEM and before Debian's, its fmt among them, which is newer than the system's.
function(unigrpo_find_torch variable library)
  find_library(${variable} ${library} HINTS ${Torch_DIR}/../../../lib PATH_SUFFIXES lib)
  if(NOT ${variable})
    message(FATAL_ERROR "LibTorch's lib${library}.so not found: run scripts/setup.sh, or give -DCMAKE_PREFIX_PATH or "
                        "-DTorch_DIR, or -DUNIGRPO_TORCH=OFF for the half that does not need it")
  endif()
endfunction()
unigrpo_find_torch(UNIGRPO_TORCH_CPU torch_cpu)
unigrpo_find_torch(UNIGRPO_C10 c10)
find_path(UNIGRPO_TORCH_INCLUDE ATen/ATen.h HINTS ${Torch_DIR}/../../../include PATH_SUFFIXES include REQUIRED)
message(STATUS "LibTorch: ${UNIGRPO_TORCH_CPU}")
add_library(unigrpo_torch INTERFACE)
target_link_libraries(unigrpo_torch INTERFACE ${UNIGRPO_TORCH_CPU} ${UNIGRPO_C10})
target_include_directories(unigrpo_torch SYSTEM INTERFACE ${UNIGRPO_TORCH_INCLUDE}
                           ${UNIGRPO_TORCH_INCLUDE}/torch/csrc/api/include)
if(UNIGRPO_CUDA)
  if(CMAKE_VERSION VERSION_LESS 3.29)
    message(FATAL_ERROR "CUDA 13 in C++20 needs CMake 3.29 or newer, this is ${CMAKE_VERSION}: "
                        "scripts/setup.sh puts one into .venv/bin")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "80;90" CACHE STRING "GPU architectures of the kernels")
  enable_language(CUDA)
  find_package(CUDAToolkit 13 REQUIRED)
  unigrpo_find_torch(UNIGRPO_TORCH_CUDA torch_cuda)
  unigrpo_find_torch(UNIGRPO_C10_CUDA c10_cuda)
  # Operations register themselves when the library is loaded; no symbol of it is asked for by name.
  target_link_libraries(unigrpo_torch INTERFACE -Wl,--no-as-needed ${UNIGRPO_TORCH_CUDA} ${UNIGRPO_C10_CUDA}
                        -Wl,--as-needed ${CUDA_cudart_LIBRARY})
endif()

# Files that include CUDA's headers. They alone are compiled otherwise than without CUDA: a compiler cache serves the rest.
function(unigrpo_cuda_files)
  cmake_parse_arguments(arg "" "" "DEFINES" ${ARGN})
  if(UNIGRPO_CUDA)
    list(TRANSFORM CUDAToolkit_INCLUDE_DIRS PREPEND "-isystem" OUTPUT_VARIABLE includes)
    set_source_files_properties(${arg_UNPARSED_ARGUMENTS} PROPERTIES
      COMPILE_DEFINITIONS "${arg_DEFINES}" COMPILE_OPTIONS "${includes}")
  endif()
endfunction()

# at::parallel_for is inline and runs serially in a file compiled without OpenMP.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_compile_options(unigrpo_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
target_link_options(unigrpo_torch INTERFACE ${OpenMP_CXX_FLAGS})  # the run-time library is the wheel's own

# The functions of the wheel's fmt, which come as headers only.
add_library(unigrpo_torch_fmt STATIC ${PROJECT_SOURCE_DIR}/cmake/torch_fmt.cpp)
target_link_libraries(unigrpo_torch_fmt PRIVATE unigrpo_torch)

# Without torch/library.h and custom_function.h, which few files need: the templates that they leave to the end of a file
# cost each file 2.5 s.
set(UNIGRPO_TORCH_HEADERS <ATen/ATen.h> <ATen/core/grad_mode.h> <torch/csrc/autograd/autograd.h>
                          <fmt/format.h> ${UNIGRPO_STD_HEADERS})
unigrpo_precompile(unigrpo_torch_pch LINKS unigrpo_torch HEADERS ${UNIGRPO_TORCH_HEADERS})
if(UNIGRPO_TESTS)
  unigrpo_precompile(unigrpo_torch_test_pch LINKS unigrpo_torch GTest::gtest OPTIONS ${UNIGRPO_TEST_OPTIONS}
                     HEADERS ${UNIGRPO_TORCH_HEADERS} <gtest/gtest.h>)
endif()

function(unigrpo_use_torch target)
  target_link_libraries(${target} PUBLIC unigrpo_torch unigrpo_torch_fmt)
  unigrpo_use_precompiled(${target} unigrpo_torch_pch)
endfunction()
