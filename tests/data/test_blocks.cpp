// SPDX-License-Identifier: Apache-2.0
// Rows read block by block: the same rows, in the same order, with the same complaints; and what is taken of files.
#include "catch.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_blocks {

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
  constexpr std::size_t block = kto::detail::RowReader::block_rows / kto::detail::RowReader::stream_share;
  CHECK(count == 9000 / block * block);  // those before it that make whole blocks
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
      KTO_CONTAINS("no row has the requested column lable"));
  CHECK(kto::detail::count_rows(a) == 5);
  CHECK(kto::detail::count_rows(b) == 2);
  CHECK(kto::detail::count_rows(csv) == 2);
  CHECK(kto::detail::count_rows(folder.write("empty.jsonl", "\n")) == 0);
  const auto slice = kto::read_rows({{.files = {a, b, csv}, .columns = columns, .first_row = 4, .max_rows = 4}}, "mix");
  REQUIRE(slice.rows.size() == 4);
  CHECK(slice.rows[0].prompt == "p4");
  CHECK(slice.rows[0].source.number == 1);
  CHECK(slice.where(slice.rows[3].source) == csv.string() + ": line 2");
  CHECK(kto::count_rows({.files = {a, b, csv}, .first_row = 4, .max_rows = 9}) == 5);
  CHECK(kto::count_rows({.files = {a}, .first_row = 9}) == 0);
  const auto skipped = folder.write("skipped.jsonl", "{broken}\n" + unpaired(1));
  CHECK(kto::read_rows(kto::DataSource{.path = skipped, .split = "train[1:]"}).rows.size() == 1);  // not looked at
  CHECK_THAT(error_of([&] { kto::read_rows(a, "train[5:]"); }),
             KTO_CONTAINS("no rows; expected more than the 5 skipped rows"));
  CHECK_THAT(error_of([&] { kto::read_rows(a, "train[3:2]"); }), KTO_CONTAINS("the split train[3:2] has no rows"));
  CHECK_THAT(error_of([&] { kto::read_rows(a, "train[:10]+test"); }), KTO_CONTAINS("holds the split train, not test"));
  CHECK_THAT(error_of([&] { kto::read_rows(folder.write("x.parquet", "PAR1")); }),  // this program has no Arrow
             KTO_CONTAINS("KTO_WITH_ARROW=ON"));
}

namespace {

/// The texts of a file's rows with their places, as they are found in pieces of `size` bytes (grown where a row is
/// longer).
std::vector<std::string> texts_by_pieces(const std::string& name, const std::string& content, std::size_t size) {
  kto::detail::RowTexts texts(name, *kto::detail::format_of(name));
  std::vector<std::string> out;
  std::size_t begin = 0, wanted = size;
  for (bool last = false; !last;) {
    const std::string piece = content.substr(begin, wanted);  // a copy: reading past its end is seen by a sanitizer
    last = begin + piece.size() == content.size();
    const std::size_t done = texts(
        piece, last,
        [&](const kto::detail::JsonText& row) { out.push_back(kto::concat(row.line, ':', row.column, ' ', row.text)); },
        [&](const kto::detail::CsvRecord& row) {
          out.push_back(kto::concat(row.line, row.problem));
          for (const std::string& cell : row.cells) out.back() += "|" + cell;
        });
    CHECK(done <= piece.size());
    wanted = done > 0 ? size : 2 * wanted;
    begin += done;
  }
  CHECK(begin == content.size());
  return out;
}

}  // namespace

TEST_CASE("rows that are found in pieces of any size are those of the whole file", "[data]") {
  const std::string bom = "\xEF\xBB\xBF";
  const std::pair<const char*, std::string> files[] = {
      {"a.jsonl", "  \r\n{\"a\": 1}\r\n\n  {\"b\": \"\xC3\xA9\"}\n{\"c\": 3}"},
      {"a.jsonl", bom + "{\"a\": 1}\n{\"b\": 2}\n"},
      {"a.json", bom + " \n[\n {\"a\": \"],\\\"{\"} ,\n\n [1, [2]],{}\n ]\n \n"},
      {"a.json", "[]\n"},
      {"a.csv", "x,y\r\n\"a \"\"b\"\",\nc\",d\n\n1,2\r\nbad \"quote,\"x\"y\n\"open,\n"},
      {"a.csv", ""},
      {"a.csv", "x,y\r\"a\rb\",c\r\r\nd,e\r\n\"f\r\ng\",h\r"},
      {"a.tsv", "x\ty\n1,2\t\"3\t4\"\n"},
      {"a.jsonl", bom + "{\n\"a\": \"}\\\"{\"\n}\n\n{\"b\": [{}]} {}\r\n{\n}"},
      {"a.jsonl", " \n "},
  };
  for (const auto& [name, content] : files) {
    const auto whole = texts_by_pieces(name, content, content.size() + 1);
    for (std::size_t size = 1; size <= content.size(); ++size) {
      INFO(name << " in pieces of " << size << ": " << content);
      CHECK(texts_by_pieces(name, content, size) == whole);
    }
  }
  for (const char* broken : {"[1, 2", "[1,", "[", "[1,,2]", "[1] 2", "[1]\n\n x"}) {
    const std::string want = error_of([&] { texts_by_pieces("a.json", broken, 100); });
    CHECK_FALSE(want.empty());
    for (std::size_t size = 1; size < 10; ++size)
      CHECK(error_of([&] { texts_by_pieces("a.json", broken, size); }) == want);
  }
}

#if defined(KTO_HAS_ZLIB) && defined(KTO_HAS_ZSTD)
namespace {

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
  return out;
}

}  // namespace

TEST_CASE("a file that becomes shorter while it is read is an error that names it", "[data]") {
  const TemporaryFolder folder;
  const std::string rows = lines(400000, [](auto i) { return unpaired(i); });  // several pieces
  for (const char* name : {"rows.jsonl", "rows.json.gz"}) {
    const bool packed = kto::is_compressed(name);
    std::string noise;  // that gzip cannot pack into one block
    for (std::uint64_t i = 1; packed && noise.size() < (8U << 20U); i = i * 6364136223846793005U + 1442695040888963407U)
      noise += static_cast<char>(i >> 40U & 0x7FU);
    const auto file = folder.write(name, packed ? gzip(noise) : rows);
    CHECK_THAT(error_of([&] {
                 kto::detail::read_in_pieces(
                     file,
                     [&](std::string_view text, bool) {
                       kto::fs::resize_file(file, 1000);
                       return text.size();
                     },
                     [](double) {});
               }),
               KTO_CONTAINS(kto::concat(file.string(), ": became shorter while it was read: it had ")));
  }
}

TEST_CASE("a compressed file is unpacked in pieces, never whole", "[data]") {
  const TemporaryFolder folder;
  const std::string member = lines(100000, [](auto i) { return unpaired(i); });  // 5 MB
  const auto plain = folder.write("rows.jsonl", member + member + member);
  std::size_t num_blocks = 0;
  const auto want = all_rows({{.files = {plain}}}, num_blocks);
  for (const auto& [name, packed] : {std::pair{"rows.jsonl.gz", gzip(member)}, {"rows.jsonl.zst", zstd(member)}}) {
    const auto file = folder.write(name, packed + packed + packed);
    std::size_t longest = 0, total = 0;
    double share = 0;
    kto::detail::read_in_pieces(
        file,
        [&](std::string_view text, bool last) {
          const std::size_t done = last ? text.size() : text.rfind('\n') + 1;
          longest = std::max(longest, text.size()), total += done;
          return done;
        },
        [&](double now) {
          CHECK(now >= share);
          share = now;
        });
    CHECK(total == 3 * member.size());
    CHECK(longest <= 2 << 20);
    CHECK(share == 1);
    num_blocks = 0;
    const auto got = all_rows({{.files = {file}}}, num_blocks);
    REQUIRE(got.size() == want.size());
    for (const std::size_t i : {std::size_t{0}, std::size_t{12345}, std::size_t{299999}}) {
      CHECK(got[i].prompt == want[i].prompt);
      CHECK(got[i].source.line == want[i].source.line);
    }
    CHECK(kto::detail::count_rows(file) == want.size());
    CHECK_THAT(error_of([&] {
                 std::size_t none = 0;
                 all_rows({{.files = {folder.write(name, packed + packed.substr(0, packed.size() / 2))}}}, none);
               }),
               KTO_CONTAINS("is not a whole"));
  }
  // A row longer than a piece.
  const std::string long_row = unpaired(1, R"(, "more": ")" + std::string(5 << 20, 'x') + "\"");
  CHECK(kto::read_rows(folder.write("long.jsonl.gz", gzip(member + long_row + member))).rows.size() == 200001);
  // One that would unpack to any size.
  for (const std::string& begin : {std::string("{\"prompt\": \""), std::string("[\""), std::string(" ")}) {
    const auto bomb =
        folder.write("bomb.jsonl.zst", zstd(begin + std::string(140 << 20, begin.back() == ' ' ? ' ' : 'x')));
    CHECK_THAT(error_of([&] { kto::read_rows(bomb); }), KTO_CONTAINS("holds a row of more than 64 MiB when unpacked"));
  }
}
#endif

}  // namespace test_blocks
