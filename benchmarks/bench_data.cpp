// SPDX-License-Identifier: Apache-2.0
// The data path on real rows: read, tokenize, encode (render the chat template, tokenize prompt and whole), collate.
//   bench_data [flags of Google Benchmark] MODEL_FOLDER ROWS.jsonl
// items_per_second counts rows. `tokens` is the total of the file, to compare with another tokenizer.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdio>

#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/pairing.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/io/atomic_file.hpp"

namespace {

/// The plain text of a row: the content of its messages, one per line.
std::string text_of(const kto::Row& row) {
  std::string text;
  for (const kto::Json* part : {&row.prompt, &row.completion})
    if (part->is_string())
      text += part->get<std::string>() + "\n";
    else
      for (const auto& message : *part) text += message.at("content").get<std::string>() + "\n";
  return text;
}

void tokenize(benchmark::State& state, const kto::Tokenizer& tokenizer, const std::vector<kto::Row>& rows) {
  std::vector<std::string> texts;
  for (const auto& row : rows) texts.push_back(text_of(row));
  std::size_t tokens = 0;
  for (auto _ : state) {
    tokens = 0;
    for (const auto& text : texts) tokens += tokenizer.encode(text, false).size();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(rows.size()));
  state.counters["tokens"] = static_cast<double>(tokens);
}

/// The rows of the file, repeated to about 2000, so that threads have work.
void encode(benchmark::State& state, const kto::Processor& processor, kto::RowSet set) {
  const std::vector<kto::Row> once = set.rows;
  while (set.rows.size() < 2000) set.rows.insert(set.rows.end(), once.begin(), once.end());
  const kto::EncodeOptions options{.num_threads = static_cast<std::size_t>(state.range(0))};
  for (auto _ : state) benchmark::DoNotOptimize(kto::encode_rows(set, processor.encoder(), options).examples);
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(set.rows.size()));
}

/// From a file to token ids, read and encoded block by block as in train_kto. The rows are repeated to about 2000.
void prepare(benchmark::State& state, const kto::Processor& processor, const kto::fs::path& path,
             std::size_t num_rows) {
  std::string once = kto::read_file(path), text;
  if (!once.ends_with('\n')) once += '\n';
  std::size_t count = 0;
  for (; count < 2000; count += num_rows) text += once;
  const kto::fs::path file = kto::fs::temp_directory_path() / kto::concat("bench_data-", ::getpid(), ".jsonl");
  kto::write_file(file, text);
  const auto encoder = processor.encoder();
  for (auto _ : state) {
    kto::RowBlocks blocks({{.files = {file}}}, file.string());
    const kto::EncodeOptions options{.num_threads = static_cast<std::size_t>(state.range(0))};
    benchmark::DoNotOptimize(kto::encode_blocks(blocks, encoder, options).examples);
  }
  kto::fs::remove(file);
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(count));
}

/// Collates batches one by one, including KL pairs.
template <class Collator>
void collate(benchmark::State& state, const Collator& collator, const std::vector<kto::Example>& examples) {
  const auto batch_size = static_cast<std::size_t>(state.range(0));
  std::vector<std::size_t> order;
  while (order.size() < batch_size * 8) order.push_back(order.size() % examples.size());
  const auto partners = kto::kl_partners(order, batch_size);
  std::vector<kto::Pick> picks;
  for (std::size_t i = 0; i < order.size(); ++i) picks.push_back({&examples[order[i]], &examples[partners[i]]});
  for (auto _ : state)
    for (std::size_t i = 0; i < picks.size(); i += batch_size)
      benchmark::DoNotOptimize(collator(std::span(picks).subspan(i, batch_size), true));
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(picks.size()));
}

}  // namespace

int main(int argc, char** argv) try {
  benchmark::Initialize(&argc, argv);
  if (argc != 3) throw kto::UsageError("usage: bench_data [--benchmark_...] MODEL_FOLDER ROWS.jsonl");
  const kto::Processor processor(argv[1]);
  const kto::fs::path path = argv[2];
  const kto::RowSet set = kto::read_rows(path);
  const auto examples = kto::encode_rows(set, processor.encoder()).examples;
  benchmark::AddCustomContext("rows", std::to_string(set.rows.size()));

  using benchmark::RegisterBenchmark, benchmark::State;
  RegisterBenchmark("read", [&](State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(kto::read_rows(path).rows);
    state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(set.rows.size()));
  });
  RegisterBenchmark("tokenize", [&](State& state) { tokenize(state, processor.tokenizer(), set.rows); });
  const auto encoded = RegisterBenchmark("encode", [&](State& state) { encode(state, processor, set); });
  const auto prepared =
      RegisterBenchmark("prepare", [&](State& state) { prepare(state, processor, path, set.rows.size()); });
  for (auto* by_threads : {encoded, prepared}) {
    by_threads->Arg(1)->UseRealTime();
    if (const unsigned threads = std::thread::hardware_concurrency(); threads > 1) by_threads->Arg(threads);
  }
  RegisterBenchmark("collate/packed", [&](State& state) { collate(state, kto::PackedCollator{}, examples); })
      ->Arg(4)
      ->Arg(64);
  RegisterBenchmark("collate/padded", [&](State& state) { collate(state, kto::PaddedCollator{}, examples); })
      ->Arg(4)
      ->Arg(64);
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_data: %s\n", error.what());
  return 1;
}
