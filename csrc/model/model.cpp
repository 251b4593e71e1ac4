#include "model/model.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "base/error.h"
#include "cpu/topology.h"
#include "kernels/pack.h"

namespace gptbigcode {
namespace {

constexpr int64_t kMicroBatch = 512;  // rows that share one pass over the weights; bounds the scratch memory

// The first layer whose c_proj of the MLP has quantised weights, or the first whose c_proj has float weights; null: there is none.
const Layer* find_layer(const Weights& weights, bool quantized) {
  for (const Layer& layer : weights.layers) {
    if (is_quantized(layer.mlp_c_proj.dtype) == quantized) return &layer;
  }
  return nullptr;
}

}  // namespace

Model::Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads, int prefill_threads,
             bool adaptive)
    : config_((config.validate(), config)),
      weights_(bind_weights(config, find)),
      quantizing_layer_(find_layer(weights_, true)),
      has_float_inner_(find_layer(weights_, false) != nullptr),
      kernels_(kernels),
      num_threads_(num_threads),
      prefill_threads_(prefill_threads),
      adaptive_(adaptive),
      decode_team_(num_threads),
      prefill_team_(prefill_threads),
      pool_(std::max(num_threads, prefill_threads), available_cpus()),
      attention_(kernels, kv_layout(), config.n_head, config.attention_scale, pool_.size()) {}

void Model::validate(const std::vector<Run>& runs) const {
  require(!runs.empty(), "no sequences");
  std::set<const KVCache*> seen;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    const auto require_here = [i](bool condition, const auto&... message) { require(condition, "sequence ", i, ": ", message...); };
    require_here(seen.insert(run.cache).second, "its cache is given twice");
    require_here(run.n_tokens > 0, "no new tokens");
    require_here(run.logits_to_keep >= 0 && run.logits_to_keep <= run.n_tokens, "logits_to_keep is ", run.logits_to_keep,
                 ", outside 0..", run.n_tokens);
    require_here(run.cache->size() + run.n_tokens <= config_.n_positions, run.cache->size(), " tokens in the cache and ",
                 run.n_tokens, " new ones exceed n_positions = ", config_.n_positions);
    for (int64_t t = 0; run.position_ids != nullptr && t < run.n_tokens; ++t) {
      require_here(run.position_ids[t] >= 0 && run.position_ids[t] < config_.n_positions, "position id ", run.position_ids[t],
                   " at index ", t, " is outside 0..", config_.n_positions - 1);
    }
    for (int64_t t = 0; run.tokens != nullptr && t < run.n_tokens; ++t) {
      require_here(run.tokens[t] >= 0 && run.tokens[t] < config_.vocab_size, "token id ", run.tokens[t], " at index ", t,
                   " is outside the vocabulary of ", config_.vocab_size);
    }
  }
}

std::mutex& Model::lockable() {
  pool_.check_owner();
  return mutex_;
}

void Model::forward(const std::vector<Run>& runs, const Outputs& outputs, const StopRequests& stop) {
  validate(runs);
  const std::lock_guard lock(lockable());
  int64_t n_tokens = 0;
  for (const Run& r : runs) n_tokens += r.n_tokens;
  const bool decode = n_tokens <= kDecodeRows;
  if (!adaptive_) return run(runs, outputs, decode ? num_threads_ : prefill_threads_, stop);
  TeamSize& team = decode ? decode_team_ : prefill_team_;
  const int64_t switches = involuntary_switches();
  const auto start = std::chrono::steady_clock::now();
  run(runs, outputs, team.threads(), stop);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  team.report(decode ? 1 : n_tokens, seconds.count(), involuntary_switches() - switches);  // the rows of a step are nearly free
}

void Model::run(const std::vector<Run>& runs, const Outputs& outputs, int team, const StopRequests& stop) {
  std::vector<int64_t> sizes;
  sizes.reserve(runs.size());
  int64_t n_tokens = 0;
  for (const Run& run : runs) {
    sizes.push_back(run.cache->size());
    n_tokens += run.n_tokens;
  }
  try {
    for (const Run& run : runs) run.cache->reserve(run.n_tokens);
    std::vector<Row> rows;
    const int64_t stride = n_tokens * config_.n_embd;
    HiddenStates states{outputs.hidden_states, stride, outputs.last_hidden_state};
    float* logits = outputs.logits;
    const auto flush = [&] {
      run_rows(rows, states, team, stop);
      const int64_t done = static_cast<int64_t>(rows.size()) * config_.n_embd;
      if (states.first != nullptr) states.first += done;
      if (states.last != nullptr) states.last += done;
      rows.clear();
    };
    for (size_t i = 0; i < runs.size(); ++i) {
      const Run& run = runs[i];
      for (int64_t t = 0; t < run.n_tokens; ++t) {
        const bool wanted = t >= run.n_tokens - run.logits_to_keep;
        rows.push_back({&run, t, sizes[i] + t, wanted ? logits : nullptr});
        if (wanted) logits += config_.vocab_size;
        if (static_cast<int64_t>(rows.size()) == kMicroBatch) flush();
      }
    }
    if (!rows.empty()) flush();
    for (const Run& run : runs) run.cache->grow(run.n_tokens);
  } catch (...) {
    for (size_t i = 0; i < runs.size(); ++i) runs[i].cache->truncate(sizes[i]);  // gives back what was reserved
    throw;
  }
}

void Model::embed_token(int32_t token, float* out) const {
  unpack_row(weights_.wte.weights, weights_.wte.dtype, token, config_.n_embd, out);
  if (weights_.wte_scale == nullptr) return;
  for (int64_t i = 0; i < config_.n_embd; ++i) out[i] *= weights_.wte_scale[i];
}

void Model::start_profile() {
  const std::lock_guard lock(lockable());
  profile_ = std::make_unique<Profile>(pool_.size());
}

std::vector<PhaseTime> Model::stop_profile() {
  const std::lock_guard lock(lockable());
  if (profile_ == nullptr) return {};
  std::vector<PhaseTime> times = profile_->times();
  profile_.reset();
  return times;
}

}  // namespace gptbigcode
