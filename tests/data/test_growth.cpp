// SPDX-License-Identifier: Apache-2.0
// What files of rows, configurations and tokens take.
#include "growth.hpp"

#if defined(KTO_HAS_BZIP2)
#include <bzlib.h>
#endif
#if defined(KTO_HAS_LZMA)
#include <lzma.h>
#endif
#if defined(KTO_HAS_ZLIB)
#include <zlib.h>
#endif
#if defined(KTO_HAS_ZSTD)
#include <zstd.h>
#endif

#include <memory>

#include "kto/cli/yaml_file.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/model/config.hpp"
#include "kto/model/lora_config_json.hpp"
#include "temporary_folder.hpp"

namespace test_growth {
namespace {

using growth::listed;
using growth::Parser;
using growth::repeated;
using growth::Work;
using kto::Json;
using kto_test::TemporaryFolder;

/// What reads a file with this name and content.
Work reading(
    const std::string& name, const std::string& content,
    const std::function<void(const kto::fs::path&)>& read = [](const auto& file) { kto::read_rows(file); }) {
  const auto folder = std::make_shared<TemporaryFolder>();
  return [folder, read, file = folder->write(name, content)] { read(file); };
}

/// A line of JSON Lines with unique content.
std::string row(const std::string& own) {
  return R"({"prompt": "what is asked ", "completion": "what is said ", "label": true, "n": )" + own + "}\n";
}
std::string rows(std::size_t size) { return listed(size / 80, row, ""); }

std::string messages(std::size_t size) {
  return "[" + listed(size / 60, [](const auto&) { return R"({"role": "user", "content": "what is said"})"; }) + "]";
}

Work encoding(const std::string& line) {
  struct Held {
    TemporaryFolder folder;
    kto::Processor processor{kto::fs::path(KTO_SOURCE_DIR) / "tests/golden/data/model"};
  };
  const auto held = std::make_shared<Held>();
  const auto set = kto::read_rows(held->folder.write("rows.jsonl", line));
  return [held, set] {
    for (const kto::Row& each : set.rows) held->processor.encoder().encode(each);
  };
}

/// The tokenizer of the golden model, with other files of its folder.
Work loading(const std::map<std::string, std::string>& files) {
  const auto folder = std::make_shared<TemporaryFolder>();
  const kto::fs::path golden = kto::fs::path(KTO_SOURCE_DIR) / "tests/golden/data/model";
  kto::fs::copy(golden / "tokenizer.json", folder->path() / "tokenizer.json");
  for (const auto& [name, content] : files) folder->write(name, content);
  return [folder] { kto::load_tokenizer(folder->path()); };
}

Work adapter(const std::string& fields) {
  return [text = R"({"peft_type": "LORA", )" + fields + "}"] {
    const auto config = kto::parse_lora_config(kto::parse_json(text, "adapter_config.json"), "adapter_config.json");
    for (const char* module : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head"})
      if (config.targets(module)) config.scaling_of(module);
    kto::to_json(config).dump();
  };
}

const Parser parsers[] = {
    {"CSV: many columns", 40,
     [](std::size_t size) {
       return reading("wide.csv", "prompt,completion,label," +
                                      listed(size / 10, [](const auto& i) { return "c" + i; }) + "\na,b,1," +
                                      listed(size / 10, [](const auto&) { return "x"; }) + "\n");
     }},
    {"CSV: many rows", 40,
     [](std::size_t size) {
       return reading("long.csv", "prompt,completion,label\n" + repeated("what,said,1\n", size));
     }},
    {"CSV: one large cell", 12,
     [](std::size_t size) {
       return reading("cell.csv", "prompt,completion,label\n\"" + repeated("a \"\"b\"\"\n", size) + "\",b,1\n");
     }},
    {"JSON Lines: many rows", 20, [](std::size_t size) { return reading("rows.jsonl", rows(size)); }},
    {"JSON Lines: one row of many columns", 40,
     [](std::size_t size) {
       return reading("wide.jsonl", R"({"prompt": "p", "completion": "c", "label": true, )" +
                                        listed(size / 12, [](const auto& i) { return "\"c" + i + "\": 1"; }) + "}");
     }},
    {"JSON Lines: one row of many messages", 40,
     [](std::size_t size) {
       return reading("talk.jsonl", R"({"prompt": )" + messages(size) +
                                        R"(, "completion": [{"role": "assistant", "content": "c"}], "label": true})");
     }},
    {"JSON: an array of rows over many lines", 20,
     [](std::size_t size) { return reading("rows.json", "[" + listed(size / 80, row) + "]"); }},
    {"a conversation of many messages, as ids", 80,
     [](std::size_t size) {
       return encoding(R"({"prompt": )" + messages(size) +
                       R"(, "completion": [{"role": "assistant", "content": "c"}], "label": true})");
     }},
    {"one long message without spaces, as ids", 80,
     [](std::size_t size) {
       return encoding(R"({"prompt": [{"role": "user", "content": ")" + repeated("ab", size) +
                       R"("}], "completion": [{"role": "assistant", "content": "c"}], "label": true})");
     }},
#if defined(KTO_HAS_ZLIB)
    {"gzip: rows", 120,
     [](std::size_t size) {
       const std::string text = rows(size);
       z_stream stream{};
       deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
       std::string out(deflateBound(&stream, text.size()), '\0');
       stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
       stream.avail_in = static_cast<uInt>(text.size());
       stream.next_out = reinterpret_cast<Bytef*>(out.data());
       stream.avail_out = static_cast<uInt>(out.size());
       deflate(&stream, Z_FINISH);
       out.resize(stream.total_out);
       deflateEnd(&stream);
       return reading("rows.jsonl.gz", out);
     }},
#endif
#if defined(KTO_HAS_ZSTD)
    {"zstd: rows", 120,
     [](std::size_t size) {
       const std::string text = rows(size);
       std::string out(ZSTD_compressBound(text.size()), '\0');
       out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
       return reading("rows.jsonl.zst", out);
     }},
#endif
#if defined(KTO_HAS_BZIP2)
    {"bzip2: rows", 120,
     [](std::size_t size) {
       std::string text = rows(size), out(2 * text.size(), '\0');
       auto length = static_cast<unsigned>(out.size());
       BZ2_bzBuffToBuffCompress(out.data(), &length, text.data(), static_cast<unsigned>(text.size()), 1, 0, 0);
       out.resize(length);
       return reading("rows.jsonl.bz2", out);
     }},
#endif
#if defined(KTO_HAS_LZMA)
    {"xz: rows", 120,
     [](std::size_t size) {
       const std::string text = rows(size);
       std::string out(lzma_stream_buffer_bound(text.size()), '\0');
       std::size_t length = 0;
       lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const std::uint8_t*>(text.data()),
                               text.size(), reinterpret_cast<std::uint8_t*>(out.data()), &length, out.size());
       out.resize(length);
       return reading("rows.jsonl.xz", out);
     }},
#endif
#if defined(KTO_HAS_YAML_CPP)
    {"README.md: configurations", 120,
     [](std::size_t size) {
       const auto one = [](const std::string& i) {
         return "- config_name: c" + i + "\n  data_files: d" + i + ".csv\n";
       };
       return reading("README.md", "---\nconfigs:\n" + listed(size / 45, one, "") + "---\ntext\n",
                      [](const auto& file) { kto::detail::read_configs(file.parent_path()); });
     },
     100'000},
    {"README.md: splits of one configuration", 120,
     [](std::size_t size) {
       const auto one = [](const std::string& i) { return "  - {split: s" + i + ", path: d" + i + ".csv}\n"; };
       return reading("README.md",
                      "---\nconfigs:\n- config_name: a\n  data_files:\n" + listed(size / 35, one, "") + "---\ntext\n",
                      [](const auto& file) { kto::detail::read_configs(file.parent_path()); });
     },
     100'000},
    {"README.md: its text", 8,
     [](std::size_t size) {
       return reading("README.md", "---\nlicense: mit\n---\n" + repeated("text\r\n", size),
                      [](const auto& file) { kto::detail::read_configs(file.parent_path()); });
     }},
    {"YAML: options", 200,
     [](std::size_t size) {
       return reading("run.yaml",
                      listed(
                          size / 12, [](const auto& i) { return "option_" + i + ": 1\n"; }, ""),
                      [](const auto& file) { kto::cli::read_yaml(file); });
     },
     200'000},
    {"YAML: a list", 200,
     [](std::size_t size) {
       return reading("run.yaml", "report_to: [" + listed(size / 6, [](const auto&) { return "none"; }) + "]\n",
                      [](const auto& file) { kto::cli::read_yaml(file); });
     }},
#endif
    {"adapter_config.json: names of modules", 24,
     [](std::size_t size) {
       return adapter(R"("target_modules": [)" + listed(size / 12, [](const auto& i) { return "\"module" + i + '"'; }) +
                      "]");
     }},
    {"adapter_config.json: modules that are saved", 30,
     [](std::size_t size) {
       return adapter(R"("target_modules": ["q_proj"], "modules_to_save": [)" +
                      listed(size / 12, [](const auto& i) { return "\"module" + i + '"'; }) + "]");
     }},
    {"adapter_config.json: patterns of ranks", 24,
     [](std::size_t size) {
       return adapter(R"("target_modules": ["q_proj"], "rank_pattern": {)" +
                      listed(size / 16, [](const auto& i) { return "\"module" + i + "\": 4"; }) + "}");
     }},
    {"adapter_config.json: one long pattern", 24,
     [](std::size_t size) { return adapter(R"("target_modules": ")" + repeated("q_proj|", size) + "v_proj\""); }, 5000},
    {"adapter_config.json: layers", 24,
     [](std::size_t size) {
       return adapter(R"("target_modules": ["q_proj"], "layers_to_transform": [)" +
                      listed(size / 6, [](const auto& i) { return i; }) + "]");
     }},
    {"config.json: fields that nobody knows", 20,
     [](std::size_t size) {
       const std::string file =
           kto::read_file(kto::fs::path(KTO_SOURCE_DIR) / "tests/fuzz/seeds/model_config/smollm2.json");
       const std::string text = file.substr(0, file.rfind('}')) + "," +
                                listed(size / 12, [](const auto& i) { return "\"f" + i + "\": 1"; }) + "}";
       return [text] { kto::parse_model_config(kto::parse_json(text, "config.json"), "config.json"); };
     }},
    {"tokenizer_config.json: extra special tokens", 80,
     [](std::size_t size) {
       return loading(
           {{"tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": [)" +
                                          listed(size / 12, [](const auto& i) { return "\"<x" + i + ">\""; }) + "]}"}});
     }},
    {"tokenizer_config.json: added tokens", 60,
     [](std::size_t size) {
       const auto one = [](const std::string& i) {
         return "\"9" + i + R"(": {"content": "<x)" + i + R"(>", "special": true})";
       };
       return loading(
           {{"tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {)" +
                                          listed(size / 50, one) + "}}"}});
     }},
    {"tokenizer_config.json: names of its own", 60,
     [](std::size_t size) {
       const auto one = [](const std::string& i) { return "\"n" + i + R"(_token": "<x)" + i + ">\""; };
       return loading({{"tokenizer_config.json",
                        R"({"tokenizer_class": "PreTrainedTokenizerFast", )" + listed(size / 24, one) + "}"}});
     }},
    {"special_tokens_map.json and added_tokens.json", 60,
     [](std::size_t size) {
       const auto token = [](const std::string& i) { return "\"<x" + i + ">\""; };
       const auto id = [](const std::string& i) { return "\"<x" + i + ">\": 9" + i; };
       return loading({{"special_tokens_map.json", R"({"extra_special_tokens": [)" + listed(size / 30, token) + "]}"},
                       {"added_tokens.json", "{" + listed(size / 30, id) + "}"}});
     }},
};

}  // namespace

TEST_CASE("time and memory of what reads files grow with them, and no faster", "[growth]") {
  for (const Parser& parser : parsers) growth::check_growth(parser);
}

}  // namespace test_growth
