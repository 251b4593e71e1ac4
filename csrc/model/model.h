// A model: weights, a kernel set, threads, and one operation, which runs new tokens of some sequences.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/stop_flag.h"
#include "base/thread_pool.h"
#include "model/attention.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/profile.h"
#include "model/team.h"
#include "model/weights.h"

namespace gptbigcode {

// New tokens of one sequence.
struct Run {
  KVCache* cache = nullptr;
  const int32_t* tokens = nullptr;  // [n_tokens], or null if embeddings are given
  int64_t n_tokens = 0;
  int64_t logits_to_keep = 0;             // of its last new tokens
  const float* embeddings = nullptr;      // [n_tokens][n_embd]: in place of rows of the token embedding
  const int32_t* position_ids = nullptr;  // [n_tokens]: rows of the position embedding; null: from the cache's size on
  // [n_layer][n_head][n_tokens][size of the cache + n_tokens]: the attention probabilities; null: not asked for.
  float* attentions = nullptr;
};

// Where the results of a call go. What has a null pointer is not computed and costs nothing.
struct Outputs {
  float* logits = nullptr;  // [sum of logits_to_keep][vocab_size]
  // [n_layer + 1][sum of n_tokens][n_embd]: the residual stream before the first block and after each, the last one normalised
  // by ln_f.
  float* hidden_states = nullptr;
  float* last_hidden_state = nullptr;  // [sum of n_tokens][n_embd]: the last of these
};

// Two ways to end a call early; null: not used.
struct StopRequests {
  // Looked at before every phase, such as a linear layer. Other threads may set it at any time.
  const StopFlag* flag = nullptr;
  // Called by the calling thread once per layer of a prefill; true ends the call.
  std::function<bool()> ask;
};

class Model {
 public:
  // prefill_threads: for calls of more than 16 new tokens. adaptive: use fewer threads while other processes want the CPUs, too.
  Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads, int prefill_threads,
        bool adaptive);

  // Appends every run's tokens to its cache and writes what is asked for. Calls of several threads run one after the other.
  // Throws std::invalid_argument for bad input, ForkError, std::bad_alloc, and Stopped if `stop` asked for it; the caches are
  // then as before.
  void forward(const std::vector<Run>& runs, const Outputs& outputs, const StopRequests& stop = {});

  // Row `token` of the token embedding, [n_embd].
  void embed_token(int32_t token, float* out) const;

  // From start_profile to stop_profile every call is timed by kind of phase, which costs some nanoseconds an item.
  void start_profile();
  std::vector<PhaseTime> stop_profile();

  const ModelConfig& config() const { return config_; }
  const Kernels& kernels() const { return kernels_; }
  int num_threads() const { return num_threads_; }
  int prefill_threads() const { return prefill_threads_; }
  KVLayout kv_layout() const {
    return {.n_layer = config_.n_layer, .n_kv_head = config_.n_kv_head, .head_dim = config_.head_dim(), .dtype = config_.kv_dtype};
  }

 private:
  // One token of a micro-batch.
  struct Row {
    const Run* run;
    int64_t index;     // among the run's tokens
    int64_t position;  // in the sequence
    float* logits;     // null: not asked for
  };
  // Where the hidden states of a micro-batch go: row r's after block i at first + i * stride + r * n_embd.
  struct HiddenStates {
    float* first;  // null: not asked for
    int64_t stride;
    float* last;  // after ln_f; null: not asked for
  };
  // Scratch of a micro-batch of m rows.
  struct Workspace {
    AlignedBuffer<float> hidden;                  // [m][n_embd] residual stream
    AlignedBuffer<float> normed;                  // [m][n_embd] LayerNorm output
    AlignedBuffer<float> qkv;                     // [m] rows as in QkvLayout
    AlignedBuffer<float> attended;                // [m][n_embd]
    AlignedBuffer<float> inner;                   // [m][n_inner]; where mlp_c_proj has float weights
    AlignedBuffer<float> linear;                  // [threads of the pool][linear_scratch]
    AlignedBuffer<ActivationBlock> blocks;        // [ceil(n_embd / 128)][m]
    AlignedBuffer<ActivationBlock> inner_blocks;  // [ceil(n_inner / 128)][m]
    AlignedBuffer<float> logits;                  // [2 * min(m, 8)][vocab_size], for the head
  };
  class Step;                                 // one pass of a micro-batch through the network: model/forward.cpp
  static constexpr int64_t kDecodeRows = 16;  // more new tokens than this are a prefill
  static constexpr int64_t kHeadRows = 8;     // so many rows go through the head in one pass with what their quantisation lost

  std::mutex& lockable();  // mutex_; throws ForkError in a forked child, where a thread that holds it may not exist
  void validate(const std::vector<Run>& runs) const;
  void run(const std::vector<Run>& runs, const Outputs& outputs, int team, const StopRequests& stop);
  void reserve(int64_t rows);
  void run_rows(const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop);

  const ModelConfig config_;
  const Weights weights_;
  // A layer whose c_fc quantises its outputs; null: there is none. Since all layers have the same sizes, one stands for all.
  const Layer* const quantizing_layer_;
  const bool has_float_inner_;  // a c_proj has float weights, so c_fc's outputs stay floats
  const Kernels& kernels_;
  std::mutex mutex_;  // one forward at a time
  const int num_threads_, prefill_threads_;
  const bool adaptive_;
  TeamSize decode_team_, prefill_team_;
  ThreadPool pool_;
  Attention attention_;
  Workspace work_;
  std::unique_ptr<Profile> profile_;  // null: nothing is timed
};

}  // namespace gptbigcode
