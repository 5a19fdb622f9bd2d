#pragma once

#include "base/enum_names.h"
#include "io/safetensors.h"

namespace unigrpo {

template <>
struct EnumNames<io::DType> {
  using enum io::DType;
  static constexpr std::array names = {std::pair{boolean, "BOOL"},
                                       std::pair{u8, "U8"},
                                       std::pair{i8, "I8"},
                                       std::pair{u16, "U16"},
                                       std::pair{i16, "I16"},
                                       std::pair{f16, "F16"},
                                       std::pair{bf16, "BF16"},
                                       std::pair{u32, "U32"},
                                       std::pair{i32, "I32"},
                                       std::pair{f32, "F32"},
                                       std::pair{u64, "U64"},
                                       std::pair{i64, "I64"},
                                       std::pair{f64, "F64"},
                                       std::pair{f8_e4m3, "F8_E4M3"},
                                       std::pair{f8_e5m2, "F8_E5M2"},
                                       std::pair{f8_e8m0, "F8_E8M0"},
                                       std::pair{f8_e4m3fnuz, "F8_E4M3FNUZ"},
                                       std::pair{f8_e5m2fnuz, "F8_E5M2FNUZ"},
                                       std::pair{c64, "C64"}};
};

}  // namespace unigrpo
