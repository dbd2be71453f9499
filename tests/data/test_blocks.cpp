// SPDX-License-Identifier: Apache-2.0
// Rows read block by block: the same rows, in the same order, with the same complaints; and what is taken of files.
#include "catch.hpp"
#include "kto/data/encode.hpp"
#include "tests/data/temporary_folder.hpp"

using kto::Json;
using kto::RowBlocks;
using kto::RowFiles;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

std::string unpaired(std::size_t i, const std::string& more = "") {
  return R"({"prompt": "p)" + std::to_string(i) + R"(", "completion": "c", "label": )" + (i % 3 ? "true" : "false") +
         more + "}\n";
}
std::string pair(std::size_t i) {
  return R"({"prompt": "p)" + std::to_string(i) + R"(", "chosen": "yes", "rejected": "no"})" + "\n";
}

template <class Line>
std::string lines(std::size_t count, const Line& line) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += line(i);
  return out;
}

std::vector<kto::Row> all_rows(std::vector<RowFiles> parts, std::size_t& num_blocks, bool stop = false) {
  RowBlocks blocks(std::move(parts), "here", stop);
  std::vector<kto::Row> out;
  for (auto block = blocks.next(); !block.empty(); block = blocks.next(), ++num_blocks)
    out.insert(out.end(), block.begin(), block.end());
  CHECK(blocks.next().empty());
  return out;
}

/// One id a byte.
struct Bytes {
  std::vector<std::int32_t> encode(std::string_view text, bool) const { return {text.begin(), text.end()}; }
  std::string decode(const std::vector<std::int32_t>& ids) const { return {ids.begin(), ids.end()}; }
};
struct NoTemplate {
  std::string render(const Json&, std::time_t) const { return {}; }
};
const Bytes tokenizer;
const kto::RowEncoder<Bytes, NoTemplate> encoder{.tokenizer = tokenizer, .special_tokens = {{"eos_token", "$"}}};

}  // namespace

TEST_CASE("blocks of rows and of pairs are the rows that are read at once", "[data]") {
  const TemporaryFolder folder;
  for (const bool paired : {false, true}) {
    const auto file =
        folder.write("rows.jsonl", paired ? lines(9500, pair) : lines(20000, [](auto i) { return unpaired(i); }));
    const auto want = kto::read_rows(file).rows;
    std::size_t num_blocks = 0;
    const auto got = all_rows({{.files = {file}}}, num_blocks);
    CHECK(num_blocks > 1);
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      if (got[i].prompt != want[i].prompt || got[i].completion != want[i].completion || got[i].label != want[i].label ||
          got[i].source.number != want[i].source.number)
        FAIL("row " << i << " differs");
    RowBlocks blocks({{.files = {file}}}, "here");
    std::size_t last = 0;
    const auto encoded =
        kto::encode_blocks(blocks, encoder, {.num_threads = 2, .progress = [&](std::size_t done, std::size_t total) {
                                               CHECK(done <= total);
                                               CHECK(done > last);
                                               last = done;
                                             }});
    const auto at_once = kto::encode_rows(kto::read_rows(file), encoder);
    REQUIRE(encoded.examples.size() == at_once.examples.size());
    CHECK(last == encoded.examples.size());
    for (std::size_t i = 0; i < encoded.examples.size(); ++i)
      if (encoded.examples[i].prompt_ids != at_once.examples[i].prompt_ids) FAIL("row " << i << " differs");
  }
}

TEST_CASE("a reader that is left early ends, and a stream stops at the first bad row", "[data]") {
  const TemporaryFolder folder;
  const auto good = folder.write("good.jsonl", lines(60000, [](auto i) { return unpaired(i); }));
  {
    RowBlocks blocks({{.files = {good}}}, "here");
    CHECK_FALSE(blocks.next().empty());
  }  // joins
  const auto bad = folder.write("bad.jsonl", lines(10000, [](auto i) { return i < 9000 ? unpaired(i) : "{\n"; }));
  std::size_t num_blocks = 0;
  CHECK_THAT(error_of([&] { all_rows({{.files = {bad}}}, num_blocks); }), KTO_CONTAINS("1000 malformed rows of 10000"));
  CHECK_THAT(error_of([&] { all_rows({{.files = {bad}}}, num_blocks, true); }), KTO_CONTAINS("line 9001"));

  kto::ExampleStream stream({{.files = {bad}}}, "here", encoder, {});
  std::size_t count = 0;
  CHECK_THAT(error_of([&] {
               for (auto rows = stream.next(); !rows.empty(); rows = stream.next()) count += rows.size();
             }),
             KTO_CONTAINS("line 9001"));
  CHECK(count == kto::detail::RowReader::block_rows);  // those before it that make a block
  kto::ExampleStream short_prompts({{.files = {good}}}, "here", encoder, {.max_length = 3});
  CHECK(short_prompts.next().size() == 10);  // p0 ... p9: others fill three tokens
  CHECK(short_prompts.next().empty());
}

TEST_CASE("columns and first rows of files; counting rows", "[data]") {
  const TemporaryFolder folder;
  const auto a = folder.write("a.jsonl", lines(5, [](auto i) { return unpaired(i, R"(, "score": 3)"); }));
  const auto b = folder.write("b.json", "[" + unpaired(7) + "," + unpaired(8) + "]");
  const auto csv = folder.write("c.csv", "prompt,completion,label\na,b,1\n\"c\nd\",e,0\n");
  const std::vector<std::string> columns{"prompt", "completion", "label"};
  const auto set =
      kto::read_rows({{.files = {a}, .columns = columns, .max_rows = 2}, {.files = {b, csv}, .max_rows = 3}}, "mix");
  CHECK(set.notes.empty());  // score is not there
  std::vector<std::string> prompts;
  for (const auto& row : set.rows) prompts.push_back(row.prompt);
  CHECK(prompts == std::vector<std::string>{"p0", "p1", "p7", "p8", "a"});
  CHECK(set.where(set.rows[4].source) == csv.string() + ": line 2");
  CHECK(set.rows[4].source.number == 5);
  CHECK_THAT(
      error_of([&] { kto::read_rows({{.files = {a}, .columns = {"prompt", "completion", "label", "lable"}}}, "mix"); }),
      KTO_CONTAINS("no row has the column lable"));
  CHECK(kto::detail::count_rows(a) == 5);
  CHECK(kto::detail::count_rows(b) == 2);
  CHECK(kto::detail::count_rows(csv) == 2);
  CHECK(kto::detail::count_rows(folder.write("empty.jsonl", "\n")) == 0);
  CHECK_THAT(error_of([&] { kto::read_rows(folder.write("x.parquet", "PAR1")); }),  // this program has no Arrow
             KTO_CONTAINS("KTO_WITH_ARROW=ON"));
}
