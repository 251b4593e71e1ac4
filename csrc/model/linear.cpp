#include "model/linear.h"

#include <algorithm>

#include "kernels/pack.h"

namespace gptbigcode {
namespace {

// How many consecutive outputs make an item. Eight items per thread are small enough to even out unequal threads, and long enough
// to be one stream of weights. For many rows it is four per thread, since each item reads the activations of all rows. If the
// output is quantised, an item is some whole blocks of it; they are few, so that the floats before quantising stay in the
// second-level cache.
int64_t item_outputs(const Linear& layer, const LinearCall& call, int team) {
  constexpr int64_t kStreams = 4;  // tiles that the kernels like to read side by side
  constexpr int64_t kManyRows = 64, kMostBlocks = 4;
  const bool in_blocks = call.out_blocks != nullptr;
  const int64_t unit = in_blocks ? kBlock : kTileRows, units = (layer.n + unit - 1) / unit;
  const int64_t items = (call.m >= kManyRows && !in_blocks ? 4 : 8) * team, share = std::max<int64_t>(1, units / items);
  if (in_blocks) return unit * std::min(share, kMostBlocks);
  return unit * (share > kStreams / 2 ? (share + kStreams / 2) / kStreams * kStreams : share);
}

}  // namespace

void quantize_row(const Kernels& kernels, const Linear& layer, const float* x, int64_t row, int64_t m, ActivationBlock* blocks) {
  if (is_quantized(layer.dtype)) kernels.quantize(x + row * layer.k, layer.k, blocks + row, m);
}

int64_t linear_items(const Linear& layer, const LinearCall& call, int team) {
  const int64_t outputs = item_outputs(layer, call, team);
  return (layer.n + outputs - 1) / outputs;
}

int64_t linear_scratch(const Linear& layer, const LinearCall& call, int team) {
  return kLinearScratch + (call.out_blocks == nullptr ? 0 : call.m * item_outputs(layer, call, team));
}

void run_linear(const Kernels& kernels, const Linear& layer, const LinearCall& call, int team, int64_t item, float* scratch) {
  const int64_t outputs = item_outputs(layer, call, team), begin = item * outputs, end = std::min(layer.n, begin + outputs);
  // Outputs that are quantised right away are kept in the thread's scratch memory, which is the same for every item and layer.
  const bool own = call.out_blocks != nullptr;
  const int64_t stride = own ? outputs : call.out_stride != 0 ? call.out_stride : layer.n;
  float* out = own ? scratch + kLinearScratch : call.out + begin;
  const LinearTask task{
      .weights = layer.weights + begin / kTileRows * tile_bytes(layer.dtype, layer.k),
      .n = end - begin,
      .k = layer.k,
      .bias = layer.bias == nullptr ? nullptr : layer.bias + begin,
      .activations = call.blocks,
      .x = call.x,
      .m = call.m,
      .out = out,
      .out_stride = stride,
      .accumulate = call.accumulate,
      .scratch = scratch,
  };
  const LinearKernel kernel = layer.dtype == DType::kInt4      ? kernels.linear_int4
                              : layer.dtype == DType::kInt6    ? kernels.linear_int6
                              : layer.dtype == DType::kInt8    ? kernels.linear_int8
                              : layer.dtype == DType::kFloat32 ? kernels.linear_float32
                                                               : kernels.linear_bfloat16;
  kernel(task, 0, (task.n + kTileRows - 1) / kTileRows);
  for (int64_t row = 0; row < call.m; ++row) {
    float* values = out + row * stride;
    if (call.activation != nullptr) kernels.activate(*call.activation, values, task.n);
    if (own) kernels.quantize(values, task.n, call.out_blocks + begin / kBlock * call.m + row, call.m);
  }
  if (call.halves_sum == nullptr) return;
  for (int64_t row = 0; row < call.m / 2; ++row) {
    const float *half = out + row * stride, *other = half + call.m / 2 * stride;
    for (int64_t i = begin; i < end; ++i) call.halves_sum[row * layer.n + i] = half[i - begin] + other[i - begin];
  }
}

}  // namespace gptbigcode
