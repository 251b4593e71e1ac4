#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/float_bits.h"
#include "kernels/pack.h"
#include "model/model.h"

namespace gptbigcode {
namespace {

constexpr int64_t kMicroBatch = 512;  // rows that share one pass over the weights; bounds the scratch memory

}  // namespace

Model::Model(const ModelConfig& config, const FindTensor& find, const Kernels& kernels, int num_threads)
    : config_((config.validate(), config)), weights_(bind_weights(config, find)), kernels_(kernels), pool_(num_threads) {}

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
    for (int64_t t = 0; t < run.n_tokens; ++t) {
      require(run.tokens[t] >= 0 && run.tokens[t] < config_.vocab_size,
              where + "token id " + std::to_string(run.tokens[t]) + " at index " + std::to_string(t) +
                  " is outside the vocabulary of " + std::to_string(config_.vocab_size));
    }
  }
}

void Model::forward(const std::vector<Run>& runs, float* logits) {
  validate(runs);
  const std::lock_guard lock(mutex_);
  std::vector<int64_t> sizes;
  sizes.reserve(runs.size());
  for (const Run& run : runs) sizes.push_back(run.cache->size());
  try {
    for (const Run& run : runs) run.cache->reserve(run.n_tokens);
    std::vector<Row> rows;
    const auto flush = [&] {
      run_rows(rows);
      rows.clear();
    };
    for (size_t i = 0; i < runs.size(); ++i) {
      const Run& run = runs[i];
      for (int64_t t = 0; t < run.n_tokens; ++t) {
        const bool wanted = t >= run.n_tokens - run.logits_to_keep;
        rows.push_back({run.cache, run.tokens[t], sizes[i] + t, wanted ? logits : nullptr});
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
  const int64_t widest = std::max(config_.n_embd, config_.n_inner);
  work_.hidden.reserve(size(rows * config_.n_embd));
  work_.normed.reserve(size(rows * config_.n_embd));
  work_.qkv.reserve(size(rows * (config_.n_embd + 2 * config_.kv_width())));
  work_.attended.reserve(size(rows * config_.n_embd));
  work_.inner.reserve(size(rows * config_.n_inner));
  work_.attention.reserve(size(pool_.size() * attention_scratch(config_.n_head, config_.head_dim())));
  work_.block_pointers.reserve(size(2 * pool_.size() * max_kv_blocks()));
  work_.blocks.reserve(size((widest + kBlock - 1) / kBlock * rows));
}

void Model::embed(const Row& row, float* out) const {
  unpack_row(weights_.wte.weights, weights_.wte.dtype, row.token, config_.n_embd, out);
  const int64_t offset = row.position * config_.n_embd;
  for (int64_t i = 0; i < config_.n_embd; ++i) {
    switch (weights_.wpe_type) {
      case Weights::PositionType::kFloat32: out[i] += reinterpret_cast<const float*>(weights_.wpe)[offset + i]; break;
      case Weights::PositionType::kFloat16:
        out[i] += from_float16(reinterpret_cast<const uint16_t*>(weights_.wpe)[offset + i]);
        break;
      case Weights::PositionType::kBFloat16:
        out[i] += from_bfloat16(reinterpret_cast<const uint16_t*>(weights_.wpe)[offset + i]);
        break;
    }
  }
}

// Items are (row, KV head, part of its query heads): all query heads of a part walk the keys and values together.
void Model::attend(const std::vector<Row>& rows, int64_t layer, int thread, WorkQueue& queue) {
  const int64_t dim = config_.head_dim(), group = config_.n_head / config_.n_kv_head;
  const auto m = static_cast<int64_t>(rows.size());
  const int64_t qkv_width = config_.n_embd + 2 * config_.kv_width();
  // With one row there is no other parallelism than the heads; with many rows a part is the whole group.
  const int64_t parts = std::clamp<int64_t>(pool_.size() / std::max<int64_t>(1, m * config_.n_kv_head), 1, group);
  const int64_t heads_per_part = (group + parts - 1) / parts;
  const KVLayout layout = kv_layout();
  float* scratch = work_.attention.data() + thread * attention_scratch(config_.n_head, dim);
  const float** k_blocks = work_.block_pointers.data() + 2 * thread * max_kv_blocks();
  const float** v_blocks = k_blocks + max_kv_blocks();

  for (int64_t item, last; queue.take(m * config_.n_kv_head * parts, 1, &item, &last);) {
    const int64_t row = item / (config_.n_kv_head * parts), kv_head = item / parts % config_.n_kv_head, part = item % parts;
    const int64_t head = part * heads_per_part, heads = std::min(heads_per_part, group - head);
    if (heads <= 0) continue;
    const Row& r = rows[static_cast<size_t>(row)];
    const int64_t n_tokens = r.position + 1, n_blocks = (n_tokens + kKvBlock - 1) / kKvBlock;
    for (int64_t b = 0; b < n_blocks; ++b) {
      k_blocks[b] = r.cache->block(b) + layout.keys_offset(layer, kv_head);
      v_blocks[b] = r.cache->block(b) + layout.values_offset(layer, kv_head);
    }
    const int64_t first = (kv_head * group + head) * dim;
    kernels_.attention({
        .k_blocks = k_blocks,
        .v_blocks = v_blocks,
        .n_tokens = n_tokens,
        .head_dim = dim,
        .rows = heads,
        .q = work_.qkv.data() + row * qkv_width + first,
        .scale = config_.attention_scale,
        .out = work_.attended.data() + row * config_.n_embd + first,
        .scratch = scratch,
    });
  }
}

// The transformer: one parallel region, a barrier between phases, a work queue per phase.
void Model::run_rows(const std::vector<Row>& rows) {
  const auto m = static_cast<int64_t>(rows.size());
  std::vector<int64_t> asked;  // rows whose logits are wanted
  for (int64_t r = 0; r < m; ++r) {
    if (rows[static_cast<size_t>(r)].logits != nullptr) asked.push_back(r);
  }
  reserve(m);
  constexpr size_t kPhasesPerLayer = 10;
  const size_t phases = static_cast<size_t>(config_.n_layer) * kPhasesPerLayer + 3;
  if (work_.queues.size() != phases) work_.queues = std::vector<WorkQueue>(phases);
  for (WorkQueue& queue : work_.queues) queue.reset();

  const int64_t n_embd = config_.n_embd, dim = config_.head_dim(), kv_width = config_.kv_width(), qkv_width = n_embd + 2 * kv_width;
  float *hidden = work_.hidden.data(), *normed = work_.normed.data(), *qkv = work_.qkv.data(), *attended = work_.attended.data(),
        *inner = work_.inner.data();
  ActivationBlock* blocks = work_.blocks.data();

  pool_.run([&](int thread) {
    size_t phase = 0;
    const auto for_each_row = [&](int64_t count, auto&& function) {
      WorkQueue& queue = work_.queues[phase++];
      const int64_t chunk = std::max<int64_t>(1, count / (8 * pool_.size()));
      for (int64_t first, last; queue.take(count, chunk, &first, &last);) {
        for (int64_t r = first; r < last; ++r) function(r);
      }
      pool_.barrier();
    };
    const auto linear = [&](const Linear& layer, const LinearCall& call) {
      run_linear(kernels_, layer, call, pool_.size(), work_.queues[phase++]);
      pool_.barrier();
    };
    const auto norm = [&](const LayerNorm& ln, const Linear& next, int64_t from, int64_t to, int64_t count) {
      kernels_.layer_norm(hidden + from * n_embd, n_embd, ln.weight, ln.bias, config_.layer_norm_epsilon, normed + to * n_embd);
      quantize_row(kernels_, next, normed, to, count, blocks);
    };

    for_each_row(m, [&](int64_t r) { embed(rows[static_cast<size_t>(r)], hidden + r * n_embd); });
    for (int64_t i = 0; i < config_.n_layer; ++i) {
      const Layer& layer = weights_.layers[static_cast<size_t>(i)];
      for_each_row(m, [&](int64_t r) { norm(layer.ln_1, layer.c_attn, r, r, m); });
      linear(layer.c_attn, {.x = normed, .blocks = blocks, .m = m, .out = qkv});
      for_each_row(m, [&](int64_t r) {
        const Row& row = rows[static_cast<size_t>(r)];
        const float *k = qkv + r * qkv_width + n_embd, *v = k + kv_width;
        for (int64_t h = 0; h < config_.n_kv_head; ++h) row.cache->write(i, h, row.position, k + h * dim, v + h * dim);
      });
      attend(rows, i, thread, work_.queues[phase++]);
      pool_.barrier();
      for_each_row(m, [&](int64_t r) { quantize_row(kernels_, layer.attn_c_proj, attended, r, m, blocks); });
      linear(layer.attn_c_proj, {.x = attended, .blocks = blocks, .m = m, .out = hidden, .accumulate = true});
      for_each_row(m, [&](int64_t r) { norm(layer.ln_2, layer.c_fc, r, r, m); });
      linear(layer.c_fc, {.x = normed, .blocks = blocks, .m = m, .out = inner, .activation = &config_.activation});
      for_each_row(m, [&](int64_t r) { quantize_row(kernels_, layer.mlp_c_proj, inner, r, m, blocks); });
      linear(layer.mlp_c_proj, {.x = inner, .blocks = blocks, .m = m, .out = hidden, .accumulate = true});
    }
    if (asked.empty()) return;
    const auto count = static_cast<int64_t>(asked.size());
    for_each_row(count, [&](int64_t r) { norm(weights_.ln_f, weights_.lm_head, asked[static_cast<size_t>(r)], r, count); });
    // What is asked for lies together in the caller's array, in the order of the rows.
    linear(weights_.lm_head, {.x = normed, .blocks = blocks, .m = count, .out = rows[static_cast<size_t>(asked[0])].logits});
  });
}

}  // namespace gptbigcode
