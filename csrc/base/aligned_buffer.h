// Scratch memory on 64-byte boundaries. It grows and never shrinks; when it grows, the contents are lost.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace gptbigcode {

template <class T>
class AlignedBuffer {
 public:
  void reserve(size_t count) {
    if (count <= capacity_) return;
    data_.reset();
    capacity_ = 0;
    data_.reset(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64})));
    capacity_ = count;
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(static_cast<void*>(p), std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace gptbigcode
