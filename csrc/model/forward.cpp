#include <algorithm>
#include <atomic>
#include <set>

#include "base/error.h"
#include "base/float_bits.h"
#include "kernels/pack.h"
#include "model/model.h"

namespace gptbigcode {
namespace {

constexpr int64_t kMicroBatch = 512;  // rows that share one pass over the weights; bounds the scratch memory
constexpr int64_t kDecodeRows = 16;   // more new tokens than this are a prefill
constexpr int64_t kAloneRows = 4;     // so few rows are normalised and quantised by one thread faster than by a team with a barrier
constexpr int64_t kHeadRows = 8;      // so many rows go through the head together with what their quantisation left

}  // namespace

Model::Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads, int prefill_threads)
    : config_((config.validate(), config)),
      weights_(bind_weights(config, find)),
      kernels_(kernels),
      num_threads_(num_threads),
      prefill_threads_(prefill_threads),
      pool_(std::max(num_threads, prefill_threads)),
      attention_(kernels, kv_layout(), config.n_head, config.attention_scale, pool_.size()) {}

void Model::validate(const std::vector<Run>& runs) const {
  require(!runs.empty(), "no sequences");
  std::set<const KVCache*> seen;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    const std::string where = "sequence " + std::to_string(i) + ": ";
    require(seen.insert(run.cache).second, where + "its cache is given twice");
    require(run.n_tokens > 0, where + "no new tokens");
    require(run.logits_to_keep >= 0 && run.logits_to_keep <= run.n_tokens,
            where + "logits_to_keep is " + std::to_string(run.logits_to_keep) + ", outside 0.." + std::to_string(run.n_tokens));
    require(run.cache->size() + run.n_tokens <= config_.n_positions,
            where + std::to_string(run.cache->size()) + " tokens in the cache and " + std::to_string(run.n_tokens) +
                " new ones exceed n_positions = " + std::to_string(config_.n_positions));
    for (int64_t t = 0; run.position_ids != nullptr && t < run.n_tokens; ++t) {
      require(run.position_ids[t] >= 0 && run.position_ids[t] < config_.n_positions,
              where + "position id " + std::to_string(run.position_ids[t]) + " at index " + std::to_string(t) + " is outside 0.." +
                  std::to_string(config_.n_positions - 1));
    }
    for (int64_t t = 0; run.tokens != nullptr && t < run.n_tokens; ++t) {
      require(run.tokens[t] >= 0 && run.tokens[t] < config_.vocab_size,
              where + "token id " + std::to_string(run.tokens[t]) + " at index " + std::to_string(t) +
                  " is outside the vocabulary of " + std::to_string(config_.vocab_size));
    }
  }
}

void Model::forward(const std::vector<Run>& runs, const Outputs& outputs, const StopRequested& stop) {
  validate(runs);
  const std::lock_guard lock(mutex_);
  std::vector<int64_t> sizes;
  sizes.reserve(runs.size());
  int64_t n_tokens = 0;
  for (const Run& run : runs) {
    sizes.push_back(run.cache->size());
    n_tokens += run.n_tokens;
  }
  const int team = n_tokens > kDecodeRows ? prefill_threads_ : num_threads_;
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
  work_.inner.reserve(size(rows * config_.n_inner));
  work_.linear.reserve(size(pool_.size() * kLinearScratch));
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

// The transformer: one parallel region, a work queue per phase. Phases alternate between linear layers or attention, shared out
// by output features or heads, and work on rows (LayerNorm, quantising, writing keys and values).
void Model::run_rows(const std::vector<Row>& rows, const HiddenStates& states, int team, const StopRequested& stop) {
  const auto m = static_cast<int64_t>(rows.size());
  std::vector<int64_t> asked;  // rows whose logits are wanted
  for (int64_t r = 0; r < m; ++r) {
    if (rows[static_cast<size_t>(r)].logits != nullptr) asked.push_back(r);
  }
  reserve(m);
  constexpr size_t kPhasesPerLayer = 10;
  std::vector<Attention::Row> attention_rows;
  attention_rows.reserve(rows.size());
  for (const Row& row : rows) attention_rows.push_back({row.run->cache, row.position});
  attention_.plan(attention_rows);
  const size_t phases = static_cast<size_t>(config_.n_layer) * kPhasesPerLayer + 4;
  if (work_.queues.size() != phases) work_.queues = std::vector<WorkQueue>(phases);
  for (WorkQueue& queue : work_.queues) queue.reset();

  const int64_t n_embd = config_.n_embd, qkv_width = n_embd + 2 * config_.kv_width();
  float *hidden = work_.hidden.data(), *normed = work_.normed.data(), *qkv = work_.qkv.data(), *attended = work_.attended.data(),
        *inner = work_.inner.data();
  ActivationBlock *blocks = work_.blocks.data(), *inner_blocks = work_.inner_blocks.data();
  std::atomic<bool> stopped{false};

  pool_.run(team, [&](int thread) {
    size_t phase = 0;
    // Waits for the phase before, then does the rows, then waits for them.
    const auto for_each_row = [&](int64_t count, auto&& function) {
      WorkQueue& queue = work_.queues[phase++];
      if (count <= kAloneRows) {
        pool_.barrier([&] {
          for (int64_t r = 0; r < count; ++r) function(r);
        });
        return;
      }
      pool_.barrier();
      const int64_t chunk = std::max<int64_t>(1, count / (8 * team));
      for (int64_t first, last; queue.take(count, chunk, &first, &last);) {
        for (int64_t r = first; r < last; ++r) function(r);
      }
      pool_.barrier();
    };
    const auto linear = [&](const Linear& layer, const LinearCall& call) {
      run_linear(kernels_, layer, call, team, work_.queues[phase++], work_.linear.data() + thread * kLinearScratch);
    };
    // The input of a linear layer, or of two that share it.
    const auto norm = [&](const LayerNorm& ln, bool quantized, int64_t r) {
      kernels_.layer_norm(hidden + r * n_embd, n_embd, ln.weight, ln.bias, config_.layer_norm_epsilon, normed + r * n_embd);
      if (quantized) kernels_.quantize(normed + r * n_embd, n_embd, blocks + r, m);
    };

    for (int64_t i = 0; i < config_.n_layer; ++i) {
      const Layer& layer = weights_.layers[static_cast<size_t>(i)];
      if (thread == 0 && stop != nullptr && m > kDecodeRows && stop()) stopped = true;
      for_each_row(m, [&](int64_t r) {
        if (i == 0) embed(rows[static_cast<size_t>(r)], normed + r * n_embd, hidden + r * n_embd);
        if (states.first != nullptr) std::copy_n(hidden + r * n_embd, n_embd, states.first + i * states.stride + r * n_embd);
        norm(layer.ln_1, is_quantized(layer.query.dtype) || is_quantized(layer.key_value.dtype), r);
      });
      if (stopped) return;
      linear(layer.query, {.x = normed, .blocks = blocks, .m = m, .out = qkv, .out_stride = qkv_width});
      linear(layer.key_value, {.x = normed, .blocks = blocks, .m = m, .out = qkv + n_embd, .out_stride = qkv_width});
      for_each_row(m, [&](int64_t r) { attention_.write(i, r, qkv + r * qkv_width, layer.query.bias); });
      attention_.attend(i, qkv, thread, work_.queues[phase++]);
      for_each_row(m, [&](int64_t r) {
        attention_.finish(r, layer.query.bias, attended + r * n_embd);
        if (const Row& row = rows[static_cast<size_t>(r)]; row.run->attentions != nullptr) {
          const int64_t keys = row.run->cache->size() + row.run->n_tokens;  // the cache grows when all rows are done
          attention_.probabilities(i, r, qkv + r * qkv_width, keys,
                                   row.run->attentions + (i * config_.n_head * row.run->n_tokens + row.index) * keys,
                                   row.run->n_tokens * keys);
        }
        quantize_row(kernels_, layer.attn_c_proj, attended, r, m, blocks);
      });
      linear(layer.attn_c_proj, {.x = attended, .blocks = blocks, .m = m, .out = hidden, .accumulate = true});
      for_each_row(m, [&](int64_t r) { norm(layer.ln_2, is_quantized(layer.c_fc.dtype), r); });
      linear(layer.c_fc, {.x = normed,
                          .blocks = blocks,
                          .m = m,
                          .out = inner,
                          .activation = &config_.activation,
                          .out_blocks = is_quantized(layer.mlp_c_proj.dtype) ? inner_blocks : nullptr});
      pool_.barrier();
      linear(layer.mlp_c_proj, {.x = inner, .blocks = inner_blocks, .m = m, .out = hidden, .accumulate = true});
    }
    if (states.first != nullptr || states.last != nullptr) {
      for_each_row(m, [&](int64_t r) {
        float* out = (states.last != nullptr ? states.last : states.first + config_.n_layer * states.stride) + r * n_embd;
        kernels_.layer_norm(hidden + r * n_embd, n_embd, weights_.ln_f.weight, weights_.ln_f.bias, config_.layer_norm_epsilon, out);
        if (states.first != nullptr && states.last != nullptr) {
          std::copy_n(out, n_embd, states.first + config_.n_layer * states.stride + r * n_embd);
        }
      });
    }
    if (asked.empty()) return;
    // What is asked for lies together in the caller's array, in the order of the rows.
    const auto count = static_cast<int64_t>(asked.size());
    float* logits = rows[static_cast<size_t>(asked[0])].logits;
    const Linear& head = weights_.lm_head;
    const auto norm_last = [&](int64_t r) {
      float* x = normed + r * n_embd;
      kernels_.layer_norm(hidden + asked[static_cast<size_t>(r)] * n_embd, n_embd, weights_.ln_f.weight, weights_.ln_f.bias,
                          config_.layer_norm_epsilon, x);
      return x;
    };
    if (!is_quantized(head.dtype)) {
      for_each_row(count, norm_last);
      linear(head, {.x = normed, .m = count, .out = logits});
      return;
    }
    // Logits are the most sensitive to the rounding of their input. So what is left of it is quantised and multiplied as well,
    // in the same pass over the weights if there are few rows.
    const bool together = count <= kHeadRows;
    const int64_t row_stride = together ? 2 * count : count, k_blocks = (n_embd + kBlock - 1) / kBlock;
    ActivationBlock* left = together ? blocks + count : blocks + k_blocks * count;
    for_each_row(count, [&](int64_t r) {
      float* x = norm_last(r);
      for (int64_t i = 0; i < n_embd; ++i) x[i] *= weights_.lm_head_scale[i];
      kernels_.quantize(x, n_embd, blocks + r, row_stride);
      for (int64_t i = 0; i < n_embd; ++i) {
        const ActivationBlock& block = blocks[i / kBlock * row_stride + r];
        x[i] -= block.scale * static_cast<float>(block.q[i % kBlock]);
      }
      kernels_.quantize(x, n_embd, left + r, row_stride);
    });
    if (together) {
      linear(head, {.blocks = blocks, .m = 2 * count, .out = work_.logits.data(), .halves_sum = logits});
    } else {
      linear(head, {.blocks = blocks, .m = count, .out = logits});
      pool_.barrier();
      linear(head, {.blocks = left, .m = count, .out = logits, .accumulate = true});
    }
  });
  if (stopped) throw Stopped();
}

}  // namespace gptbigcode
