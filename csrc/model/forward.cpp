// One pass of a micro-batch through the network. The network is written down once, as a list of phases (model/phases.h):
// attention_block and mlp_block for every layer, then head. How many phases there are, how many items each of them has, what they
// do and what a profile calls them all follow from this list.
#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "base/float_bits.h"
#include "kernels/pack.h"
#include "model/model.h"
#include "model/phases.h"

namespace gptbigcode {

class Model::Step {
 public:
  Step(Model& model, const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop);
  void run();

 private:
  template <class Visitor>
  void attention_block(int64_t i, Visitor& visit) {
    const Layer& layer = layer_at(i);
    visit("embed, ln_1", [&] {
      return rows(m_, [&, i](int64_t r) {
        if (i == 0) embed(r);
        copy_hidden_state(i, r);
        norm(layer.ln_1, r, is_quantized(layer.query.dtype) || is_quantized(layer.key_value.dtype));
      });
    });
    visit("c_attn", [&] {
      const LinearCall query{.x = normed_, .blocks = blocks_, .m = m_, .out = qkv_, .out_stride = order_.width()};
      LinearCall key_value = query;
      key_value.out += order_.key(0);
      return Both{linear(layer.query, query), linear(layer.key_value, key_value)};
    });
    visit("write kv", [&] {
      return rows(m_, [&, i](int64_t r) {
        const bool fits = model_.attention_.write(i, r, qkv_ + r * order_.width(), layer.query.bias);
        if (!fits) overflowed_ = true;
      });
    });
    visit("attention", [&] { return AttentionWork{model_.attention_, i, qkv_}; });
    visit("merge", [&] {
      return rows(m_, [&, i](int64_t r) {
        model_.attention_.finish(r, layer.query.bias, attended_ + r * n_embd_);
        copy_attentions(i, r);
        quantize_row(model_.kernels_, layer.attn_c_proj, attended_, r, m_, blocks_);
      });
    });
    visit("attn c_proj", [&] {
      return linear(layer.attn_c_proj, {.x = attended_, .blocks = blocks_, .m = m_, .out = hidden_, .accumulate = true});
    });
  }

  template <class Visitor>
  void mlp_block(int64_t i, Visitor& visit) {
    const Layer& layer = layer_at(i);
    visit("ln_2", [&] { return rows(m_, [&](int64_t r) { norm(layer.ln_2, r, is_quantized(layer.c_fc.dtype)); }); });
    visit("c_fc, act", [&] { return linear(layer.c_fc, c_fc_call(layer)); });
    visit("mlp c_proj", [&] {
      return linear(layer.mlp_c_proj, {.x = inner_, .blocks = inner_blocks_, .m = m_, .out = hidden_, .accumulate = true});
    });
  }

  // Logits are the most sensitive to the rounding of their input. So what the quantisation of a row loses is quantised and
  // multiplied, too. Of few rows both parts go through the weights in one pass, as twice as many rows whose halves are added.
  template <class Visitor>
  void head(Visitor& visit) {
    visit("hidden states", [&] {
      const bool wanted = states_.first != nullptr || states_.last != nullptr;
      return rows(wanted ? m_ : 0, [&](int64_t r) { last_hidden_state(r); });
    });
    visit("ln_f", [&] { return rows(n_asked_, [&](int64_t r) { head_input(r); }); });
    visit("lm_head", [&] {
      if (!is_quantized(head_.dtype)) return linear(head_, {.x = normed_, .m = n_asked_, .out = logits_});
      if (!head_in_one_pass_) return linear(head_, {.blocks = blocks_, .m = n_asked_, .out = logits_});
      return linear(head_, {.blocks = blocks_, .m = 2 * n_asked_, .out = model_.work_.logits.data(), .halves_sum = logits_});
    });
    visit("lm_head, rest", [&] {
      const int64_t m = is_quantized(head_.dtype) && !head_in_one_pass_ ? n_asked_ : 0;
      return linear(head_, {.blocks = lost_blocks(), .m = m, .out = logits_, .accumulate = true});
    });
  }

  // Walks the part of the list that the current phase belongs to: a layer, or the head.
  template <class Visitor>
  void walk_part(Visitor& visit) {
    if (layer_ == config_.n_layer) return head(visit);
    attention_block(layer_, visit);
    mlp_block(layer_, visit);
  }
  void count_phases();
  std::vector<std::string> names_of_kinds();
  int phases() const { return static_cast<int>(config_.n_layer) * phases_of_layer_ + phases_of_head_; }
  // Of which kind the current phase is: a phase of a layer is of the same kind in every layer.
  int kind() const { return layer_ == config_.n_layer ? phases_of_layer_ + at_ : at_; }

  // Makes `phase` the current one and returns the number of its items. The pool calls it for one phase after another; what it
  // writes is visible to all threads that do items of the phase.
  int64_t enter(int phase);
  void do_item(int64_t item, int thread);

  template <class Function>
  RowWork<Function> rows(int64_t count, Function function) const {
    return {count, team_, function};
  }
  LinearWork linear(const Linear& layer, const LinearCall& call) const {
    return {model_.kernels_, layer, call, team_, model_.work_.linear.data(), scratch_};
  }
  LinearCall c_fc_call(const Layer& layer) const {
    const bool quantizes = is_quantized(layer.mlp_c_proj.dtype);
    return {.x = normed_,
            .blocks = blocks_,
            .m = m_,
            .out = inner_,
            .activation = &config_.activation,
            .out_blocks = quantizes ? inner_blocks_ : nullptr};
  }
  const Layer& layer_at(int64_t i) const { return model_.weights_.layers[static_cast<size_t>(i)]; }
  const Row& row(int64_t r) const { return rows_[static_cast<size_t>(r)]; }

  void embed(int64_t r) const;
  void normalize(const LayerNorm& ln, const float* x, float* out) const {
    model_.kernels_.layer_norm(x, n_embd_, ln.weight, ln.bias, config_.layer_norm_epsilon, out);
  }
  // The input of a linear layer, or of two that share it.
  void norm(const LayerNorm& ln, int64_t r, bool quantized) const {
    normalize(ln, hidden_ + r * n_embd_, normed_ + r * n_embd_);
    if (quantized) model_.kernels_.quantize(normed_ + r * n_embd_, n_embd_, blocks_ + r, m_);
  }
  void head_input(int64_t r) const;
  // Blocks of a row follow each other at this distance.
  int64_t head_stride() const { return head_in_one_pass_ ? 2 * n_asked_ : n_asked_; }
  // What the quantisation of the head's rows lost.
  ActivationBlock* lost_blocks() const { return blocks_ + n_asked_ * (head_in_one_pass_ ? 1 : (n_embd_ + kBlock - 1) / kBlock); }

  void copy_hidden_state(int64_t i, int64_t r) const;
  void last_hidden_state(int64_t r) const;
  void copy_attentions(int64_t i, int64_t r) const;

  Model& model_;
  const ModelConfig& config_;
  const std::vector<Row>& rows_;
  const HiddenStates states_;
  const int team_;
  const StopRequests& stop_;
  const int64_t m_, n_embd_;
  const QkvLayout order_;  // of c_attn's outputs
  const Linear& head_;

  int phases_of_layer_ = 0, phases_of_head_ = 0;
  // The current phase: of which layer, n_layer being the head, and which of this part's phases.
  int64_t layer_ = 0;
  int at_ = 0;

  int64_t asked_to_stop_at_ = -1;  // the layer at which the calling thread last called stop_.ask
  std::atomic<bool> stopped_{false};
  std::atomic<bool> overflowed_{false};  // a key or a value does not fit the cache's type

  std::vector<int64_t> asked_;  // the rows whose logits are wanted
  int64_t n_asked_ = 0;
  bool head_in_one_pass_ = false;
  float* logits_ = nullptr;  // of these rows: together in the caller's array, in the order of the rows
  int64_t scratch_ = 0;      // floats of a thread, for linear layers
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
      order_(config_.qkv()),
      head_(model.weights_.lm_head) {
  count_phases();
  for (int64_t r = 0; r < m_; ++r) {
    if (row(r).logits != nullptr) asked_.push_back(r);
  }
  n_asked_ = static_cast<int64_t>(asked_.size());
  head_in_one_pass_ = n_asked_ <= kHeadRows;
  if (n_asked_ > 0) logits_ = row(asked_[0]).logits;

  std::vector<Attention::Row> attention_rows;
  attention_rows.reserve(rows.size());
  for (const Row& row : rows) attention_rows.push_back({row.run->cache, row.position});
  model.attention_.plan(attention_rows);

  model.reserve(m_);
  Workspace& work = model.work_;
  hidden_ = work.hidden.data();
  normed_ = work.normed.data();
  qkv_ = work.qkv.data();
  attended_ = work.attended.data();
  inner_ = work.inner.data();
  blocks_ = work.blocks.data();
  inner_blocks_ = work.inner_blocks.data();
  scratch_ = kLinearScratch;
  if (model.quantizing_layer_ != nullptr) {
    scratch_ = linear_scratch(model.quantizing_layer_->c_fc, c_fc_call(*model.quantizing_layer_), team);
  }
  // For the whole pool: a thread that was put aside in a call with more threads may take an item of this one.
  work.linear.reserve(static_cast<size_t>(model.pool_.size() * scratch_));
}

void Model::Step::count_phases() {
  PhaseCount of_layer, of_head;
  attention_block(0, of_layer);
  mlp_block(0, of_layer);
  head(of_head);
  phases_of_layer_ = of_layer.count;
  phases_of_head_ = of_head.count;
}

std::vector<std::string> Model::Step::names_of_kinds() {
  PhaseNames all;
  attention_block(0, all);
  mlp_block(0, all);
  head(all);
  return all.names;
}

void Model::Step::run() {
  Profile* profile = model_.profile_.get();
  if (profile != nullptr) profile->begin(names_of_kinds());
  model_.pool_.run(
      team_, phases(),
      [&](int phase) {
        const int64_t items = enter(phase);
        if (profile != nullptr) profile->enter(kind());
        return items;
      },
      [&](int /*phase*/, int64_t item, int thread) {
        const Profile::Timer timer(profile, kind(), thread);
        do_item(item, thread);
      });
  if (profile != nullptr) profile->end();
  if (stopped_) throw Stopped("the call was ended early, as its caller asked");
  if (overflowed_) throw std::invalid_argument(kv_overflow(config_.kv_dtype));
}

int64_t Model::Step::enter(int phase) {
  layer_ = std::min<int64_t>(phase / phases_of_layer_, config_.n_layer);
  at_ = phase - static_cast<int>(layer_) * phases_of_layer_;
  if (stop_.flag != nullptr && stop_.flag->is_set()) stopped_ = true;
  if (stopped_ || overflowed_) return 0;
  CountItems count{.phase = at_};
  walk_part(count);
  return count.items;
}

void Model::Step::do_item(int64_t item, int thread) {
  // Python's signal handlers run in the calling thread only, and only prefills are long enough for it to matter.
  if (thread == 0 && stop_.ask != nullptr && m_ > kDecodeRows && layer_ != asked_to_stop_at_) {
    asked_to_stop_at_ = layer_;
    if (stop_.ask()) stopped_ = true;
  }
  DoItem one{.phase = at_, .item = item, .thread = thread};
  walk_part(one);
}

void Model::Step::embed(int64_t r) const {
  const Run& run = *row(r).run;
  const int64_t index = row(r).index, n_embd = n_embd_;
  float* out = hidden_ + r * n_embd;
  if (run.embeddings != nullptr) {
    std::copy_n(run.embeddings + index * n_embd, n_embd, out);
  } else {
    model_.embed_token(run.tokens[index], out);
  }
  const int64_t position = run.position_ids != nullptr ? run.position_ids[index] : row(r).position;
  const std::byte* wpe = model_.weights_.wpe.weights;
  const auto add = [&](auto value) {
    for (int64_t i = 0; i < n_embd; ++i) out[i] += value(position * n_embd + i);
  };
  switch (model_.weights_.wpe_type) {
    case Weights::PositionType::kFloat32: add([&](int64_t i) { return reinterpret_cast<const float*>(wpe)[i]; }); return;
    case Weights::PositionType::kFloat16:
      add([&](int64_t i) { return from_float16(reinterpret_cast<const uint16_t*>(wpe)[i]); });
      return;
    case Weights::PositionType::kBFloat16:
      add([&](int64_t i) { return from_bfloat16(reinterpret_cast<const uint16_t*>(wpe)[i]); });
      return;
    case Weights::PositionType::kPacked: {
      float* unpacked = normed_ + r * n_embd;  // not in use yet
      unpack_row(wpe, model_.weights_.wpe.dtype, position, n_embd, unpacked);
      for (int64_t i = 0; i < n_embd; ++i) out[i] += unpacked[i];
      return;
    }
  }
}

// Row r of those whose logits are wanted.
void Model::Step::head_input(int64_t r) const {
  float* x = normed_ + r * n_embd_;
  normalize(model_.weights_.ln_f, hidden_ + asked_[static_cast<size_t>(r)] * n_embd_, x);
  if (!is_quantized(head_.dtype)) return;
  for (int64_t i = 0; i < n_embd_; ++i) x[i] *= model_.weights_.lm_head_scale[i];
  model_.kernels_.quantize(x, n_embd_, blocks_ + r, head_stride());
  for (int64_t i = 0; i < n_embd_; ++i) {
    const ActivationBlock& block = blocks_[i / kBlock * head_stride() + r];
    x[i] -= block.scale * static_cast<float>(block.q[i % kBlock]);
  }
  model_.kernels_.quantize(x, n_embd_, lost_blocks() + r, head_stride());
}

void Model::Step::copy_hidden_state(int64_t i, int64_t r) const {
  if (states_.first == nullptr) return;
  std::copy_n(hidden_ + r * n_embd_, n_embd_, states_.first + i * states_.stride + r * n_embd_);
}

void Model::Step::last_hidden_state(int64_t r) const {
  float* after_last_block = states_.first == nullptr ? nullptr : states_.first + config_.n_layer * states_.stride + r * n_embd_;
  float* out = states_.last != nullptr ? states_.last + r * n_embd_ : after_last_block;
  normalize(model_.weights_.ln_f, hidden_ + r * n_embd_, out);
  if (after_last_block != nullptr && out != after_last_block) std::copy_n(out, n_embd_, after_last_block);
}

void Model::Step::copy_attentions(int64_t i, int64_t r) const {
  const Run& run = *row(r).run;
  if (run.attentions == nullptr) return;
  const int64_t keys = run.cache->size() + run.n_tokens;  // the cache grows when all rows are done
  float* out = run.attentions + (i * config_.n_head * run.n_tokens + row(r).index) * keys;
  model_.attention_.probabilities(i, r, qkv_ + r * order_.width(), keys, out, run.n_tokens * keys);
}

void Model::reserve(int64_t rows) {
  const auto size = [](int64_t count) { return static_cast<size_t>(count); };
  work_.hidden.reserve(size(rows * config_.n_embd));
  work_.normed.reserve(size(rows * config_.n_embd));
  work_.qkv.reserve(size(rows * config_.qkv().width()));
  work_.attended.reserve(size(rows * config_.n_embd));
  if (has_float_inner_) work_.inner.reserve(size(rows * config_.n_inner));
  work_.blocks.reserve(size((config_.n_embd + kBlock - 1) / kBlock * 2 * rows));  // twice: for the head
  work_.logits.reserve(size(2 * std::min(rows, kHeadRows) * config_.vocab_size));
  work_.inner_blocks.reserve(size((config_.n_inner + kBlock - 1) / kBlock * rows));
}

void Model::run_rows(const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequests& stop) {
  Step(*this, rows, states, team, stop).run();
}

}  // namespace gptbigcode
