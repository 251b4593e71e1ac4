#include "model/linear.h"

#include <algorithm>

namespace gptbigcode {

void quantize_row(const Kernels& kernels, const Linear& layer, const float* x, int64_t row, int64_t m, ActivationBlock* blocks) {
  if (is_quantized(layer.dtype)) kernels.quantize(x + row * layer.k, layer.k, blocks + row, m);
}

void run_linear(const Kernels& kernels, const Linear& layer, const LinearCall& call, int threads, WorkQueue& queue) {
  const LinearTask task{
      .weights = layer.weights,
      .n = layer.n,
      .k = layer.k,
      .bias = layer.bias,
      .activations = call.blocks,
      .x = call.x,
      .m = call.m,
      .out = call.out,
      .out_stride = layer.n,
      .accumulate = call.accumulate,
  };
  const LinearKernel kernel = layer.dtype == DType::kInt4      ? kernels.linear_int4
                              : layer.dtype == DType::kInt8    ? kernels.linear_int8
                              : layer.dtype == DType::kFloat32 ? kernels.linear_float32
                                                               : kernels.linear_bfloat16;
  const int64_t tiles = (layer.n + kTileRows - 1) / kTileRows;
  // Eight chunks a thread: small enough to even out unequal threads, long enough to be one stream of weights.
  const int64_t chunk = std::max<int64_t>(1, tiles / (8 * threads));
  for (int64_t first, last; queue.take(tiles, chunk, &first, &last);) {
    kernel(task, first, last);
    if (call.activation != nullptr) {
      const int64_t begin = first * kTileRows, end = std::min(layer.n, last * kTileRows);
      for (int64_t row = 0; row < call.m; ++row) kernels.activate(*call.activation, call.out + row * layer.n + begin, end - begin);
    }
  }
}

}  // namespace gptbigcode
