# LibTorch from the PyPI wheel in .venv (or any Torch on CMAKE_PREFIX_PATH).
if(NOT Torch_DIR)
  file(GLOB wheel ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch/share/cmake/Torch)
  if(wheel)
    list(GET wheel 0 Torch_DIR)
  endif()
endif()
set(TORCH_CUDA_ARCH_LIST "8.0;9.0" CACHE STRING "GPU architectures of the kernels")
find_package(Torch REQUIRED)

# The wheel's headers come as SYSTEM and before Debian's: its fmt is newer than the system's, hence FMT_HEADER_ONLY
# everywhere.
add_library(unigrpo_torch INTERFACE)
target_link_libraries(unigrpo_torch INTERFACE ${TORCH_LIBRARIES})
target_include_directories(unigrpo_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
separate_arguments(torch_flags UNIX_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(unigrpo_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${torch_flags}>)

# One precompiled ATen/ATen.h, built once and shared.
file(WRITE ${CMAKE_BINARY_DIR}/generated/torch_pch.cpp "// carrier of the precompiled header\n")
add_library(unigrpo_torch_pch OBJECT ${CMAKE_BINARY_DIR}/generated/torch_pch.cpp)
target_link_libraries(unigrpo_torch_pch PRIVATE unigrpo_torch unigrpo_warnings)
target_precompile_headers(unigrpo_torch_pch PRIVATE <ATen/ATen.h> <torch/csrc/autograd/custom_function.h>
                          <torch/csrc/autograd/autograd.h> <string> <vector> <map> <fmt/format.h>)

function(unigrpo_use_torch target)
  target_link_libraries(${target} PUBLIC unigrpo_torch)
  target_precompile_headers(${target} REUSE_FROM unigrpo_torch_pch)
endfunction()
