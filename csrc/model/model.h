// A model: weights, a kernel set, a team of threads, and the one operation "run these new tokens of these sequences".
#pragma once

#include <mutex>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/weights.h"

namespace gptbigcode {

// New tokens of one sequence.
struct Run {
  KVCache* cache;
  const int32_t* tokens;
  int64_t n_tokens;
  int64_t logits_to_keep;  // of its last new tokens
};

class Model {
 public:
  Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads);

  // Appends every run's tokens to its cache and writes the logits that are asked for, [sum of logits_to_keep][vocab_size].
  // Throws std::invalid_argument for bad input and std::bad_alloc; the caches are then as before.
  void forward(const std::vector<Run>& runs, float* logits);

  const ModelConfig& config() const { return config_; }
  const Kernels& kernels() const { return kernels_; }
  int num_threads() const { return pool_.size(); }
  KVLayout kv_layout() const { return KVLayout(config_); }

 private:
  // One token of a micro-batch.
  struct Row {
    const KVCache* cache;
    int32_t token;
    int64_t position;
    float* logits;  // null: not asked for
  };
  // Scratch of a micro-batch of m rows.
  struct Workspace {
    AlignedBuffer<float> hidden;                 // [m][n_embd] residual stream
    AlignedBuffer<float> normed;                 // [m][n_embd] LayerNorm output
    AlignedBuffer<float> qkv;                    // [m][n_embd + 2 kv_width]
    AlignedBuffer<float> attended;               // [m][n_embd]
    AlignedBuffer<float> inner;                  // [m][n_inner]
    AlignedBuffer<float> attention;              // [threads][attention scratch]
    AlignedBuffer<const float*> block_pointers;  // [threads][keys, values][KV blocks of the longest sequence]
    AlignedBuffer<ActivationBlock> blocks;       // [ceil(max(n_embd, n_inner) / 128)][m]
    std::vector<WorkQueue> queues;               // one per phase, all reset before the micro-batch starts
  };
  void validate(const std::vector<Run>& runs) const;
  void reserve(int64_t rows);
  int64_t max_kv_blocks() const { return (config_.n_positions + kKvBlock - 1) / kKvBlock; }
  void run_rows(const std::vector<Row>& rows);
  void embed(const Row& row, float* out) const;
  void attend(const std::vector<Row>& rows, int64_t layer, int thread, WorkQueue& queue);

  const ModelConfig config_;
  const Weights weights_;
  const Kernels& kernels_;
  std::mutex mutex_;  // one forward at a time
  ThreadPool pool_;
  Workspace work_;
};

}  // namespace gptbigcode
