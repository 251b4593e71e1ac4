// Runs kernels on arrays of the caller, in the same way as the model does, for tests and timings. What a run needs is made before,
// so that the run can be repeated.
#pragma once

#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "bindings/bindings.h"
#include "cpu/topology.h"
#include "model/attention.h"
#include "model/linear.h"

namespace gptbigcode {

// Throws std::invalid_argument if it is not the packed form of an [n, k] weight.
const std::byte* check_packed(const py::array& packed, DType dtype, int64_t n, int64_t k);

// Linear layers of one type and k, on m rows.
class LinearRun {
 public:
  // x: [m][k], and the layer that it goes into, or one of these.
  LinearRun(const Kernels& kernels, const Linear& layer, const float* x, int64_t m, int num_threads)
      : kernels_(kernels), x_(x), m_(m), pool_(num_threads, available_cpus()) {
    blocks_.reserve(static_cast<size_t>((layer.k + kBlock - 1) / kBlock * m));
    scratch_.reserve(static_cast<size_t>(pool_.size() * kLinearScratch));
    for (int64_t row = 0; row < m; ++row) quantize_row(kernels, layer, x, row, m, blocks_.data());
  }
  // out: [m][n]; halves_sum: see LinearCall
  void operator()(const Linear& layer, float* out, float* halves_sum = nullptr) {
    const LinearCall call{.x = x_, .blocks = blocks_.data(), .m = m_, .out = out, .halves_sum = halves_sum};
    const int team = pool_.size();
    pool_.run_items(linear_items(layer, call, team), [&](int64_t item, int thread) {
      run_linear(kernels_, layer, call, team, item, scratch_.data() + thread * kLinearScratch);
    });
  }

 private:
  const Kernels& kernels_;
  const float* x_;
  const int64_t m_;
  AlignedBuffer<ActivationBlock> blocks_;
  AlignedBuffer<float> scratch_;
  ThreadPool pool_;
};

// Attention of the last tokens of a sequence. Its keys and values are in a cache, the same in every layer.
class AttentionRun {
 public:
  struct Input {
    const float *qkv, *bias;  // [tokens][n_head + 2 n_kv_head][head_dim]; null, or the bias that is in it
    int64_t tokens, n_head;
    int64_t n_queries;  // of the last tokens
    float scale;
  };
  AttentionRun(const Kernels& kernels, const KVLayout& layout, const Input& input, int num_threads)
      : layout_(layout),
        input_(input),
        cache_(layout),
        step_(kernels, layout, input.n_head, input.scale, num_threads),
        pool_(num_threads, available_cpus()) {
    cache_.reserve(input.tokens);
    std::vector<Attention::Row> rows;
    rows.reserve(static_cast<size_t>(input.tokens));
    for (int64_t position = 0; position < input.tokens; ++position) rows.push_back({&cache_, position});
    step_.plan(rows);
    for (int64_t layer = 0; layer < layout.n_layer; ++layer) {
      for (int64_t row = 0; row < input.tokens; ++row) {
        require(step_.write(layer, row, input.qkv + row * width(), input.bias), kv_overflow(layout.dtype));
      }
    }
    step_.plan({rows.end() - input.n_queries, rows.end()});
  }
  void attend(int64_t layer) {
    const float* qkv = input_.qkv + (input_.tokens - input_.n_queries) * width();
    pool_.run_items(step_.items(), [&](int64_t item, int thread) { step_.attend(layer, qkv, item, thread); });
  }
  // After attend. out: [n_queries][n_head][head_dim]
  void finish(float* out) {
    for (int64_t row = 0; row < input_.n_queries; ++row) {
      step_.finish(row, input_.bias, out + row * input_.n_head * layout_.head_dim);
    }
  }

 private:
  int64_t width() const { return QkvLayout{input_.n_head, layout_.n_kv_head, layout_.head_dim}.width(); }

  const KVLayout layout_;
  const Input input_;
  KVCache cache_;
  Attention step_;
  ThreadPool pool_;
};

// The number of query heads in qkv, [tokens, n_head + 2 n_kv_head, head_dim], whose last n_queries tokens attend.
// Throws std::invalid_argument.
inline int64_t check_qkv(const FloatArray& qkv, int64_t n_kv_head, int64_t n_queries) {
  require(qkv.ndim() == 3 && n_kv_head > 0 && qkv.shape(1) > 2 * n_kv_head,
          "qkv must be [tokens, heads + 2 * n_kv_head, head_dim]");
  const int64_t n_head = qkv.shape(1) - 2 * n_kv_head;
  require(n_head % n_kv_head == 0 && qkv.shape(2) > 0, "the number of heads must be a multiple of n_kv_head");
  require(n_queries > 0 && n_queries <= qkv.shape(0), "n_queries must be in 1..tokens");
  return n_head;
}

}  // namespace gptbigcode
