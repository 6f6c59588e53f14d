#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fcos_core {

// The 16 bytes that one thread loads and stores at once.
template <typename scalar_t>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(scalar_t);
  scalar_t value[kSize];
};

// Returns `tensor`, or a copy if it is not contiguous or does not begin at a multiple of 16 bytes.
inline at::Tensor aligned(const at::Tensor& tensor, at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  const at::Tensor dense = tensor.contiguous(format);
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0 ? dense : dense.clone();
}

} // namespace fcos_core
