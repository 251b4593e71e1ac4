#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>

#include "base/error.h"
#include "base/float_bits.h"
#include "cpu/topology.h"
#include "kernels/pack.h"
#include "model/model.h"

namespace gptbigcode {
namespace {

constexpr int64_t kMicroBatch = 512;  // rows that share one pass over the weights; bounds the scratch memory
constexpr int64_t kDecodeRows = 16;   // more new tokens than this are a prefill
constexpr int64_t kAloneRows = 4;     // so few rows are normalised and quantised by one thread faster than by a team
constexpr int64_t kHeadRows = 8;      // so many rows go through the head together with what their quantisation left

}  // namespace

Model::Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads, int prefill_threads,
             bool adaptive)
    : config_((config.validate(), config)),
      weights_(bind_weights(config, find)),
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

void Model::reserve(int64_t rows) {
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  work_.hidden.reserve(size(rows * config_.n_embd));
  work_.normed.reserve(size(rows * config_.n_embd));
  work_.qkv.reserve(size(rows * (config_.n_embd + 2 * config_.kv_width())));
  work_.attended.reserve(size(rows * config_.n_embd));
  work_.blocks.reserve(size((config_.n_embd + kBlock - 1) / kBlock * 2 * rows));  // twice: for the head
  work_.logits.reserve(size(2 * std::min(rows, kHeadRows) * config_.vocab_size));
  work_.inner_blocks.reserve(size((config_.n_inner + kBlock - 1) / kBlock * rows));
}

void Model::embed_token(int32_t token, float* out) const {
  unpack_row(weights_.wte.weights, weights_.wte.dtype, token, config_.n_embd, out);
  if (weights_.wte_scale == nullptr) return;
  for (int64_t i = 0; i < config_.n_embd; ++i) out[i] *= weights_.wte_scale[i];
}

void Model::embed(const Row& row, float* scratch, float* out) const {
  const Run& run = *row.run;
  if (run.embeddings != nullptr) {
    std::copy_n(run.embeddings + row.index * config_.n_embd, config_.n_embd, out);
  } else {
    embed_token(run.tokens[row.index], out);
  }
  const int64_t n_embd = config_.n_embd, position = run.position_ids != nullptr ? run.position_ids[row.index] : row.position;
  const auto add = [&](auto value) {
    for (int64_t i = 0; i < n_embd; ++i) out[i] += value(position * n_embd + i);
  };
  const std::byte* wpe = weights_.wpe.weights;
  switch (weights_.wpe_type) {
    case Weights::PositionType::kFloat32: add([&](int64_t i) { return reinterpret_cast<const float*>(wpe)[i]; }); return;
    case Weights::PositionType::kFloat16:
      add([&](int64_t i) { return from_float16(reinterpret_cast<const uint16_t*>(wpe)[i]); });
      return;
    case Weights::PositionType::kBFloat16:
      add([&](int64_t i) { return from_bfloat16(reinterpret_cast<const uint16_t*>(wpe)[i]); });
      return;
    case Weights::PositionType::kPacked:
      unpack_row(wpe, weights_.wpe.dtype, position, n_embd, scratch);
      for (int64_t i = 0; i < n_embd; ++i) out[i] += scratch[i];
      return;
  }
}

// The transformer: phases that threads work through, each cut into items. Phases alternate between linear layers or attention,
// cut by output features or heads, and work on rows (LayerNorm, quantising, writing keys and values).
class Model::Step {
 public:
  Step(Model& model, const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop);
  void run();

 private:
  // Of a block, then what follows the blocks.
  enum Kind { kNormAttention, kAttentionIn, kWriteKv, kAttend, kMerge, kAttentionOut, kNormMlp, kMlpIn, kMlpOut, kBlockPhases };
  enum { kStates, kNormHead, kHead, kHeadLeft, kLastPhases };
  static_assert(int{kBlockPhases} + int{kLastPhases} == kPhaseKinds);

  int phases() const { return static_cast<int>(config_.n_layer) * kBlockPhases + kLastPhases; }
  int kind_of(int phase) const {
    const int last = phase - static_cast<int>(config_.n_layer) * kBlockPhases;
    return last < 0 ? phase % kBlockPhases : kBlockPhases + last;
  }
  int64_t items(int phase);
  void work(int phase, int64_t item, int thread);

  int64_t row_chunk(int64_t rows) const { return rows <= kAloneRows ? rows : std::max<int64_t>(1, rows / (8 * team_)); }
  int64_t row_items(int64_t rows) const { return rows == 0 ? 0 : (rows + row_chunk(rows) - 1) / row_chunk(rows); }
  template <class Function>
  void for_rows(int64_t rows, int64_t item, Function function) const {
    const int64_t begin = item * row_chunk(rows), end = std::min(rows, begin + row_chunk(rows));
    for (int64_t r = begin; r < end; ++r) function(r);
  }
  int64_t linear_items(const Linear& layer, const LinearCall& call) const { return gptbigcode::linear_items(layer, call, team_); }
  void linear(const Linear& layer, const LinearCall& call, int64_t item, int thread) const {
    run_linear(model_.kernels_, layer, call, team_, item, model_.work_.linear.data() + thread * scratch_);
  }

  LinearCall query_call() const { return {.x = normed_, .blocks = blocks_, .m = m_, .out = qkv_, .out_stride = qkv_width_}; }
  LinearCall key_value_call() const {
    return {.x = normed_, .blocks = blocks_, .m = m_, .out = qkv_ + n_embd_, .out_stride = qkv_width_};
  }
  LinearCall attention_out_call() const { return {.x = attended_, .blocks = blocks_, .m = m_, .out = hidden_, .accumulate = true}; }
  LinearCall mlp_in_call(const Layer& layer) const {
    return {.x = normed_,
            .blocks = blocks_,
            .m = m_,
            .out = inner_,
            .activation = &config_.activation,
            .out_blocks = is_quantized(layer.mlp_c_proj.dtype) ? inner_blocks_ : nullptr};
  }
  LinearCall mlp_out_call() const { return {.x = inner_, .blocks = inner_blocks_, .m = m_, .out = hidden_, .accumulate = true}; }
  LinearCall head_call() const {
    if (!is_quantized(head_.dtype)) return {.x = normed_, .m = asked_count(), .out = logits_};
    if (!head_together()) return {.blocks = blocks_, .m = asked_count(), .out = logits_};
    return {.blocks = blocks_, .m = 2 * asked_count(), .out = model_.work_.logits.data(), .halves_sum = logits_};
  }
  LinearCall head_left_call() const { return {.blocks = head_left(), .m = asked_count(), .out = logits_, .accumulate = true}; }

  int64_t asked_count() const { return static_cast<int64_t>(asked_.size()); }
  // Logits are the most sensitive to the rounding of their input. So what is left of it is quantised and multiplied as well, in
  // the same pass over the weights if there are few rows.
  bool head_together() const { return asked_count() <= kHeadRows; }
  int64_t head_stride() const { return head_together() ? 2 * asked_count() : asked_count(); }
  ActivationBlock* head_left() const { return blocks_ + asked_count() * (head_together() ? 1 : (n_embd_ + kBlock - 1) / kBlock); }

  void normalize(const LayerNorm& ln, const float* x, float* out) const {
    model_.kernels_.layer_norm(x, n_embd_, ln.weight, ln.bias, config_.layer_norm_epsilon, out);
  }
  // The input of a linear layer, or of two that share it.
  void norm(const LayerNorm& ln, bool quantized, int64_t r) const {
    normalize(ln, hidden_ + r * n_embd_, normed_ + r * n_embd_);
    if (quantized) model_.kernels_.quantize(normed_ + r * n_embd_, n_embd_, blocks_ + r, m_);
  }
  void start_row(int64_t i, int64_t r) const;
  void merge_row(int64_t i, int64_t r) const;
  void last_states(int64_t r) const;
  void head_row(int64_t r) const;

  Model& model_;
  const ModelConfig& config_;
  const std::vector<Row>& rows_;
  HiddenStates states_;
  const int team_;
  const StopRequests& stop_;
  int64_t asked_to_stop_at_ = -1;  // the block at which the calling thread last called stop_.ask
  std::atomic<bool> stopped_{false};
  std::atomic<bool> overflowed_{false};  // a key or a value does not fit the cache's type

  const int64_t m_, n_embd_, qkv_width_;
  const Linear& head_;
  std::vector<int64_t> asked_;        // rows whose logits are wanted
  float* logits_ = nullptr;           // of these rows: together in the caller's array, in the order of the rows
  int64_t scratch_ = kLinearScratch;  // floats of a thread, for linear layers
  float *hidden_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *attended_ = nullptr, *inner_ = nullptr;
  ActivationBlock *blocks_ = nullptr, *inner_blocks_ = nullptr;
};

Model::Step::Step(Model& model, const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop)
    : model_(model),
      config_(model.config_),
      rows_(rows),
      states_(states),
      team_(team),
      stop_(stop),
      m_(static_cast<int64_t>(rows.size())),
      n_embd_(config_.n_embd),
      qkv_width_(config_.n_embd + 2 * config_.kv_width()),
      head_(model.weights_.lm_head) {
  for (int64_t r = 0; r < m_; ++r) {
    if (rows[static_cast<size_t>(r)].logits != nullptr) asked_.push_back(r);
  }
  if (!asked_.empty()) logits_ = rows[static_cast<size_t>(asked_[0])].logits;
  model.reserve(m_);
  std::vector<Attention::Row> attention_rows;
  attention_rows.reserve(rows.size());
  for (const Row& row : rows) attention_rows.push_back({row.run->cache, row.position});
  model.attention_.plan(attention_rows);
  const Workspace& work = model.work_;
  hidden_ = work.hidden.data();
  normed_ = work.normed.data();
  qkv_ = work.qkv.data();
  attended_ = work.attended.data();
  blocks_ = work.blocks.data();
  inner_blocks_ = work.inner_blocks.data();
  for (const Layer& layer : model.weights_.layers) {
    const LinearCall call = mlp_in_call(layer);
    scratch_ = std::max(scratch_, linear_scratch(layer.c_fc, call, team));
    if (call.out_blocks == nullptr) model.work_.inner.reserve(static_cast<size_t>(m_ * config_.n_inner));
  }
  // For the whole pool: a thread that was put aside in a call with more threads may take an item of this one.
  model.work_.linear.reserve(static_cast<size_t>(model.pool_.size() * scratch_));
  inner_ = work.inner.data();
}

void Model::Step::run() {
  Profile* profile = model_.profile_.get();
  if (profile != nullptr) profile->begin();
  model_.pool_.run(
      team_, phases(),
      [&](int phase) {
        if (profile != nullptr) profile->enter(kind_of(phase));
        return items(phase);
      },
      [&](int phase, int64_t item, int thread) {
        const Profile::Timer timer(profile, kind_of(phase), thread);
        work(phase, item, thread);
      });
  if (profile != nullptr) profile->end();
  if (stopped_) throw Stopped("the call was ended early, as its caller asked");
  if (overflowed_) throw std::invalid_argument(kv_overflow(config_.kv_dtype));
}

int64_t Model::Step::items(int phase) {
  if (stop_.flag != nullptr && stop_.flag->is_set()) stopped_ = true;
  if (stopped_ || overflowed_) return 0;
  const int64_t i = phase / kBlockPhases;
  if (i < config_.n_layer) {
    const Layer& layer = model_.weights_.layers[static_cast<size_t>(i)];
    switch (static_cast<Kind>(phase % kBlockPhases)) {
      case kNormAttention:
      case kWriteKv:
      case kMerge:
      case kNormMlp: return row_items(m_);
      case kAttentionIn: return linear_items(layer.query, query_call()) + linear_items(layer.key_value, key_value_call());
      case kAttend: return model_.attention_.items();
      case kAttentionOut: return linear_items(layer.attn_c_proj, attention_out_call());
      case kMlpIn: return linear_items(layer.c_fc, mlp_in_call(layer));
      case kMlpOut: return linear_items(layer.mlp_c_proj, mlp_out_call());
      case kBlockPhases: break;
    }
  }
  switch (kind_of(phase) - kBlockPhases) {
    case kStates: return states_.first != nullptr || states_.last != nullptr ? row_items(m_) : 0;
    case kNormHead: return row_items(asked_count());
    case kHead: return asked_.empty() ? 0 : linear_items(head_, head_call());
    default: return asked_.empty() || !is_quantized(head_.dtype) || head_together() ? 0 : linear_items(head_, head_left_call());
  }
}

void Model::Step::work(int phase, int64_t item, int thread) {
  const int64_t i = phase / kBlockPhases;
  // Only prefills are long enough for it to matter.
  if (thread == 0 && stop_.ask != nullptr && m_ > kDecodeRows && i != asked_to_stop_at_) {
    asked_to_stop_at_ = i;
    if (stop_.ask()) stopped_ = true;
  }
  if (i < config_.n_layer) {
    const Layer& layer = model_.weights_.layers[static_cast<size_t>(i)];
    switch (static_cast<Kind>(phase % kBlockPhases)) {
      case kNormAttention: return for_rows(m_, item, [&](int64_t r) { start_row(i, r); });
      case kAttentionIn: {
        const int64_t query_items = linear_items(layer.query, query_call());
        if (item < query_items) return linear(layer.query, query_call(), item, thread);
        return linear(layer.key_value, key_value_call(), item - query_items, thread);
      }
      case kWriteKv:
        return for_rows(m_, item, [&](int64_t r) {
          if (!model_.attention_.write(i, r, qkv_ + r * qkv_width_, layer.query.bias)) overflowed_ = true;
        });
      case kAttend: return model_.attention_.attend(i, qkv_, item, thread);
      case kMerge: return for_rows(m_, item, [&](int64_t r) { merge_row(i, r); });
      case kAttentionOut: return linear(layer.attn_c_proj, attention_out_call(), item, thread);
      case kNormMlp: return for_rows(m_, item, [&](int64_t r) { norm(layer.ln_2, is_quantized(layer.c_fc.dtype), r); });
      case kMlpIn: return linear(layer.c_fc, mlp_in_call(layer), item, thread);
      case kMlpOut: return linear(layer.mlp_c_proj, mlp_out_call(), item, thread);
      case kBlockPhases: break;
    }
  }
  switch (kind_of(phase) - kBlockPhases) {
    case kStates: return for_rows(m_, item, [&](int64_t r) { last_states(r); });
    case kNormHead: return for_rows(asked_count(), item, [&](int64_t r) { head_row(r); });
    case kHead: return linear(head_, head_call(), item, thread);
    default: return linear(head_, head_left_call(), item, thread);
  }
}

void Model::Step::start_row(int64_t i, int64_t r) const {
  const Layer& layer = model_.weights_.layers[static_cast<size_t>(i)];
  float* hidden = hidden_ + r * n_embd_;
  if (i == 0) model_.embed(rows_[static_cast<size_t>(r)], normed_ + r * n_embd_, hidden);
  if (states_.first != nullptr) std::copy_n(hidden, n_embd_, states_.first + i * states_.stride + r * n_embd_);
  norm(layer.ln_1, is_quantized(layer.query.dtype) || is_quantized(layer.key_value.dtype), r);
}

void Model::Step::merge_row(int64_t i, int64_t r) const {
  const Layer& layer = model_.weights_.layers[static_cast<size_t>(i)];
  model_.attention_.finish(r, layer.query.bias, attended_ + r * n_embd_);
  if (const Row& row = rows_[static_cast<size_t>(r)]; row.run->attentions != nullptr) {
    const int64_t keys = row.run->cache->size() + row.run->n_tokens;  // the cache grows when all rows are done
    model_.attention_.probabilities(i, r, qkv_ + r * qkv_width_, keys,
                                    row.run->attentions + (i * config_.n_head * row.run->n_tokens + row.index) * keys,
                                    row.run->n_tokens * keys);
  }
  quantize_row(model_.kernels_, layer.attn_c_proj, attended_, r, m_, blocks_);
}

void Model::Step::last_states(int64_t r) const {
  float* out = (states_.last != nullptr ? states_.last : states_.first + config_.n_layer * states_.stride) + r * n_embd_;
  normalize(model_.weights_.ln_f, hidden_ + r * n_embd_, out);
  if (states_.first != nullptr && states_.last != nullptr) {
    std::copy_n(out, n_embd_, states_.first + config_.n_layer * states_.stride + r * n_embd_);
  }
}

// Row r of those whose logits are wanted.
void Model::Step::head_row(int64_t r) const {
  float* x = normed_ + r * n_embd_;
  normalize(model_.weights_.ln_f, hidden_ + asked_[static_cast<size_t>(r)] * n_embd_, x);
  if (!is_quantized(head_.dtype)) return;
  for (int64_t i = 0; i < n_embd_; ++i) x[i] *= model_.weights_.lm_head_scale[i];
  model_.kernels_.quantize(x, n_embd_, blocks_ + r, head_stride());
  for (int64_t i = 0; i < n_embd_; ++i) {
    const ActivationBlock& block = blocks_[i / kBlock * head_stride() + r];
    x[i] -= block.scale * static_cast<float>(block.q[i % kBlock]);
  }
  model_.kernels_.quantize(x, n_embd_, head_left() + r, head_stride());
}

void Model::run_rows(const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop) {
  Step(*this, rows, states, team, stop).run();
}

void Model::start_profile() {
  const std::lock_guard lock(lockable());
  profile_ = std::make_unique<Profile>(pool_.size());
}

std::vector<PhaseTime> Model::stop_profile() {
  static constexpr const char* kNames[kPhaseKinds] = {"embed, ln_1", "c_attn",  "write kv",     "attention",  "merge",
                                                      "attn c_proj", "ln_2",    "c_fc, act",    "mlp c_proj", "hidden states",
                                                      "ln_f",        "lm_head", "lm_head, rest"};
  const std::lock_guard lock(lockable());
  std::vector<PhaseTime> times;
  if (profile_ == nullptr) return times;
  for (int kind = 0; kind < kPhaseKinds; ++kind) times.push_back(profile_->time_of(kind, kNames[kind]));
  profile_.reset();
  return times;
}

}  // namespace gptbigcode
