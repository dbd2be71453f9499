// SPDX-License-Identifier: Apache-2.0
// Which files a split and a pattern are: as datasets 5.2 (get_data_patterns, DataFilesList) says of the same folders.
#include <sys/stat.h>

#include "catch.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_files {

using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

using Names = std::vector<std::string>;

/// Files of `split` in a folder that holds `files`, or those that `pattern` matches in it.
Names found(const Names& files, const std::string& split, const std::string& pattern = "") {
  const TemporaryFolder folder;
  for (const std::string& file : files) folder.write(file, "");
  Names out;
  const auto path = pattern.empty() ? folder.path() : folder.path() / pattern;
  for (const auto& file : kto::data_files({.path = path, .split = split}).files)
    out.push_back(file.lexically_relative(folder.path()));
  return out;
}
std::string refused(const Names& files, const std::string& split, const std::string& pattern = "") {
  return error_of([&] { found(files, split, pattern); });
}

}  // namespace

TEST_CASE("files: a name that merely begins with the split's is another's", "[data]") {
  const std::string shard = "-00000-of-00001.parquet";
  const Names hub{"data/train" + shard, "data/train_extra" + shard, "data/test" + shard, "README.md"};
  CHECK(found(hub, "train") == Names{"data/train" + shard});
  CHECK(found(hub, "train_extra") == Names{"data/train_extra" + shard});
  CHECK_THAT(refused(hub, "validation"), KTO_CONTAINS("the splits it has: test, train, train_extra"));
  CHECK(found({"train" + shard, "train_extra" + shard}, "train") == Names{"train" + shard});
  for (const std::string in : {"", "data/"})
    CHECK_THAT(refused({in + "train_prefs" + shard, in + "train_sft" + shard}, "train"),
               KTO_CONTAINS("no data for the split train") && KTO_CONTAINS("train_prefs, train_sft"));
  CHECK(found({"data/train-00000-of-00002-0a1b.parquet", "data/train-00001-of-00002-2c3d.parquet"}, "train").size() ==
        2);
  CHECK(found({"my-train" + shard}, "train") == Names{"my-train" + shard});
  CHECK(found({"train.jsonl", "trainer_state.json"}, "train") == Names{"train.jsonl"});
  CHECK(found({"train_1.jsonl", "train0.jsonl", "train.jsonl.gz"}, "train") ==
        Names{"train.jsonl.gz", "train0.jsonl", "train_1.jsonl"});
  CHECK(found({"train_prefs.jsonl", "train_sft.jsonl"}, "train_prefs") == Names{"train_prefs.jsonl"});
}

TEST_CASE("files: words for splits in names of files and folders, in the order of datasets", "[data]") {
  const Names words{"my_train.jsonl", "dev.jsonl",    "a/training-2.jsonl",
                    "eval.jsonl",     ".train.jsonl", "__x/train.jsonl"};
  CHECK(found(words, "train") == Names{"my_train.jsonl", "a/training-2.jsonl"});
  CHECK(found(words, "validation") == Names{"dev.jsonl"});
  CHECK(found(words, "test") == Names{"eval.jsonl"});
  for (const std::string word : {"validation", "valid", "val", "dev"})
    CHECK(found({word + "/a.jsonl", "train.jsonl"}, "validation") == Names{word + "/a.jsonl"});
  CHECK(found({"b/my train/x.jsonl", "b/train/y/z.jsonl", "b/train.jsonl"}, "train") ==
        Names{"b/train/y/z.jsonl", "b/my train/x.jsonl"});
  // A file belongs to one split; datasets would train on what it evaluates.
  const Names both{"train_test.jsonl", "train.jsonl", "train/eval_0.jsonl"};
  CHECK(found(both, "train") == Names{"train/eval_0.jsonl"});
  CHECK(found(both, "test") == Names{"train_test.jsonl"});
}

TEST_CASE("files: where no name has a word of a split, all are train", "[data]") {
  const Names files{"rows.jsonl", "a/more.json", "README.md", "dataset_info.json", ".cache/x.jsonl", "notes.txt"};
  CHECK(found(files, "train") == Names{"a/more.json", "rows.jsonl"});
  CHECK_THAT(refused(files, "test"), KTO_CONTAINS("no data for the split test"));
  CHECK_THAT(refused({"rows.jsonl", "test.jsonl"}, "train"), KTO_CONTAINS("the splits it has: test"));
  CHECK_THAT(refused({"data/other-00000-of-00001.parquet"}, "train"), KTO_CONTAINS("the splits it has: other"));
  CHECK_THAT(refused({"notes.txt"}, "train"), KTO_CONTAINS("no data for the split train"));
}

TEST_CASE("files: files that a training run leaves beside the data are not data", "[data]") {
  const Names files{"train.jsonl", "out/train_results.json", "out/eval_results.json", "out/training_args.json"};
  CHECK(found(files, "train") == Names{"train.jsonl"});
  CHECK_THAT(refused(files, "test"), KTO_CONTAINS("the splits it has: train"));
  CHECK(found(files, "train", "out/train_results.json") == Names{"out/train_results.json"});
}

TEST_CASE("files: ** in a pattern is any number of folders, also none", "[data]") {
  const Names files{"x.jsonl", "a/y.jsonl", "a/b/z.jsonl", "a/b/z.csv", ".h/x.jsonl", "__c/x.jsonl", "README.md"};
  const Names all{"a/b/z.jsonl", "a/y.jsonl", "x.jsonl"};
  CHECK(found(files, "train", "**/*.jsonl") == all);
  CHECK(found(files, "train", "**/**/*.jsonl") == all);
  CHECK(found(files, "train", "**") == all);
  CHECK(found(files, "train", "a/**") == Names{"a/b/z.jsonl", "a/y.jsonl"});
  CHECK(found(files, "train", "a/**/z.c*") == Names{"a/b/z.csv"});
  CHECK(found(files, "train", "*/*.jsonl") == Names{"a/y.jsonl"});
  CHECK(found(files, "train", ".h/*") == Names{".h/x.jsonl"});
  CHECK(found(files, "train", "__*/*") == Names{"__c/x.jsonl"});
  CHECK_THAT(refused(files, "train", "**.jsonl"), KTO_CONTAINS("** is next to \"**.jsonl\"; expected it alone"));
  CHECK_THAT(refused(files, "train", "**/*.json"), KTO_CONTAINS("no file matches"));
}

TEST_CASE("files: links to files and a linked data folder are followed, circles are not", "[data]") {
  const TemporaryFolder folder, other;
  other.write("rows.jsonl", "");
  other.write("train-00000-of-00001.jsonl", "");
  kto::fs::create_symlink(other.path() / "rows.jsonl", folder.path() / "linked.jsonl");
  kto::fs::create_directory(folder.path() / "a");
  kto::fs::create_directory_symlink(folder.path(), folder.path() / "a" / "circle");
  CHECK(kto::data_files({.path = folder.path()}).files == std::vector{folder.path() / "linked.jsonl"});
  CHECK(kto::data_files({.path = folder.path() / "**"}).files == std::vector{folder.path() / "linked.jsonl"});
  kto::fs::create_directory_symlink(other.path(), folder.path() / "data");
  CHECK(kto::data_files({.path = folder.path()}).files ==
        std::vector{folder.path() / "data" / "train-00000-of-00001.jsonl"});
}

TEST_CASE("files: one format of a folder is read, and skipped files are reported", "[data]") {
  const TemporaryFolder folder;
  for (const char* name : {"train.csv", "train-0.jsonl", "train-1.jsonl", "train.parquet"}) folder.write(name, "");
  const auto files = kto::data_files({.path = folder.path()});
  CHECK(files.files == std::vector{folder.path() / "train-0.jsonl", folder.path() / "train-1.jsonl"});
  REQUIRE(files.notes.size() == 1);
  CHECK_THAT(files.notes[0], KTO_CONTAINS("train.csv and 1 more files are skipped"));
  const std::vector<kto::SplitPatterns> all{{"train", {"*"}}};
  CHECK(kto::data_files({.path = "csv", .data_dir = folder.path(), .data_files = all}).files.size() == 4);  // by name
  const auto csv = kto::data_files({.path = "csv", .data_dir = folder.path()});
  CHECK(csv.files == std::vector{folder.path() / "train.csv"});
  CHECK(csv.format == kto::DataFormat::csv);
  folder.write("train.zip", "PK");
  CHECK_THAT(error_of([&] { kto::data_files({.path = folder.path()}); }),
             KTO_CONTAINS("train.zip: archives are not read; unpack it"));
  folder.write("x/test.jsonl.lz4", "");
  CHECK_THAT(error_of([&] { kto::data_files({.path = folder.path(), .split = "test"}); }),
             KTO_CONTAINS("archives are"));
}

TEST_CASE("files: links that lead nowhere, FIFOs and sockets", "[data]") {
  const TemporaryFolder folder;
  folder.write("train.jsonl", "");
  kto::fs::create_symlink("loop.jsonl", folder.path() / "loop.jsonl");
  kto::fs::create_symlink("loop", folder.path() / "loop");
  kto::fs::create_symlink("gone/test.jsonl", folder.path() / "test.jsonl");
  REQUIRE(::mkfifo((folder.path() / "valid.jsonl").c_str(), 0600) == 0);
  const auto files = kto::data_files({.path = folder.path()});
  CHECK(files.files == std::vector{folder.path() / "train.jsonl"});
  REQUIRE(files.notes.size() == 3);
  CHECK_THAT(files.notes[0], KTO_CONTAINS("loop.jsonl: is a broken symbolic link; skipped"));
  const auto refused_split = [&](const kto::fs::path& path, const std::string& split) {
    return error_of([&] { kto::read_rows(path, split); });
  };
  CHECK_THAT(refused_split(folder.path(), "test"), KTO_CONTAINS("test.jsonl: is a broken symbolic link"));
  CHECK_THAT(refused_split(folder.path(), "validation"), KTO_CONTAINS("valid.jsonl: is not a file but a FIFO"));
  CHECK_THAT(refused_split(folder.path() / "valid.jsonl", "train"), KTO_CONTAINS("is not a file but a FIFO"));
  CHECK_THAT(refused_split(folder.path() / "loop.jsonl", "train"), KTO_CONTAINS("broken symbolic link"));
  CHECK_THAT(refused_split(folder.path() / "*.jsonl", "train"), KTO_CONTAINS("loop.jsonl: is a broken symbolic link"));
  CHECK_THAT(error_of([&] { kto::read_file(folder.path() / "valid.jsonl"); }),
             KTO_CONTAINS("is not a file but a FIFO"));
  CHECK_THAT(error_of([&] { kto::FileReader file(folder.path() / "valid.jsonl"); }), KTO_CONTAINS("is not a file"));
  CHECK_THAT(error_of([&] { kto::read_file(folder.path()); }), KTO_CONTAINS("is not a file but a folder"));
  CHECK_THAT(error_of([&] { kto::read_file("/dev/zero"); }), KTO_CONTAINS("is not a file but a FIFO, device"));
}

TEST_CASE("files: the configurations that README.md names", "[data]") {
  const TemporaryFolder folder;
  for (const char* name : {"a.jsonl", "b.jsonl", "my [set]/train.jsonl"}) folder.write(name, "");
  const auto ask = [&](const std::string& yaml, const std::string& config = "", const std::string& split = "train") {
    folder.write("README.md", "---\nlicense: mit\n" + yaml + "---\n# Rows\n");
    Names out;
    std::string problem = error_of([&] {
      for (const auto& file : kto::data_files({.path = folder.path(), .split = split, .config = config}).files)
        out.push_back(file.lexically_relative(folder.path()));
    });
    if (const auto at = problem.find(": "); at != std::string::npos) out.push_back(problem.substr(at + 2));
    return out;
  };
  const auto refused_yaml = [&](const std::string& yaml, const std::string& config = "",
                                const std::string& split = "train") {
    const Names out = ask(yaml, config, split);
    return out.size() == 1 ? out[0] : kto::concat(out.size(), " files");
  };
#if defined(KTO_HAS_YAML_CPP)
  const std::string two =
      "configs:\n- {config_name: en, data_files: a.jsonl}\n- {config_name: de, data_files: b.jsonl}\n";
  CHECK(refused_yaml(two) ==
        "README.md has several configurations and none is the default; name one of en, de "
        "(--dataset_config)");
  CHECK(ask(two, "de") == Names{"b.jsonl"});
  CHECK(refused_yaml(two, "fr") == "README.md has no configuration fr; it has en, de");
  CHECK(refused_yaml(two, "en", "test") ==
        "README.md, configuration en: no data for the split test; the splits it has: train");
  CHECK(ask("configs: [{config_name: x, data_dir: 'my [set]'}]\n") == Names{"my [set]/train.jsonl"});
  CHECK(ask("configs: [{config_name: x, data_dir: 'my [set]', data_files: 't*'}]\n") == Names{"my [set]/train.jsonl"});
  CHECK(ask("configs: [{config_name: x, data_files: {train: b.jsonl, test: a.jsonl}}]\n") == Names{"b.jsonl"});
  CHECK_THAT(refused_yaml("configs: [{config_name: x, data_files: none.jsonl}]\n"), KTO_CONTAINS("is not a file"));
  CHECK_THAT(refused_yaml("configs: [{config_name: x, data_files: 'none*'}]\n"),
             KTO_CONTAINS("there is no data file for the split train: none*"));
  CHECK_THAT(refused_yaml("configs: [{config_name: x, data_files: 'hf://datasets/x/y/a.jsonl'}]\n"),
             KTO_CONTAINS("not from an address"));
  CHECK_THAT(refused_yaml("configs:\n- {config_name: x\n"), KTO_CONTAINS("not valid YAML"));
  CHECK_THAT(refused_yaml("configs: [{data_files: a.jsonl}]\n"), KTO_CONTAINS("each needs a config_name"));
  CHECK_THAT(refused_yaml("configs: [{config_name: x, data_files: [{split: train}]}]\n"),
             KTO_CONTAINS("configs: x: data_files: expected"));
  CHECK(ask("base: &b {data_files: b.jsonl}\nconfigs: [{config_name: x, <<: *b}]\n") == Names{"b.jsonl"});
  CHECK(ask("configs: [{config_name: x, data_files: a.jsonl, field: rows, version: 1.0.0}]\n") == Names{"a.jsonl"});
  CHECK_THAT(kto::data_files({.path = folder.path()}).notes.at(0), KTO_CONTAINS("configuration x: ignored: field"));
  folder.write("README.md", "---\rconfigs: [{config_name: x, data_files: a.jsonl}]\r---\r# Rows\r");
  CHECK(kto::data_files({.path = folder.path()}).files == std::vector{folder.path() / "a.jsonl"});
  CHECK_THAT(refused_yaml("configs: &a [*a]\n"), KTO_CONTAINS("levels deep"));
#else
  CHECK_THAT(refused_yaml("configs: [{config_name: x, data_files: a.jsonl}]\n"),
             KTO_CONTAINS("built without yaml-cpp"));
#endif
  CHECK(ask("tags: [a]\n") == Names{"my [set]/train.jsonl"});
  CHECK(ask("tags: [a]\n", "default") == Names{"my [set]/train.jsonl"});
  CHECK_THAT(refused_yaml("tags: [a]\n", "en"), KTO_CONTAINS("there is no configuration en: README.md names none"));
}

TEST_CASE("files: what save_to_disk wrote", "[data]") {
  const TemporaryFolder folder;
  const std::string info = "{}",
                    state =
                        R"({"_data_files": [{"filename": "data-1.arrow"}, {"filename": "data-0.arrow"}], "_split": )";
  folder.write("dataset_dict.json", R"({"splits": ["train", "test"]})");
  for (const std::string split : {"train", "test"}) {
    folder.write(split + "/dataset_info.json", info);
    folder.write(split + "/state.json", state + '"' + split + "\"}");
    for (const std::string name : {"/data-0.arrow", "/data-1.arrow", "/cache-1.arrow"}) folder.write(split + name, "");
  }
  const auto files = [&](const std::string& split, const std::string& of = "") {
    Names out;
    for (const auto& file :
         kto::data_files({.path = of.empty() ? folder.path() : folder.path() / of, .split = split}).files)
      out.push_back(file.lexically_relative(folder.path()));
    return out;
  };
  CHECK(files("test") == Names{"test/data-1.arrow", "test/data-0.arrow"});
  CHECK(files("test", "test") == files("test"));
  CHECK_THAT(error_of([&] { files("validation"); }), KTO_CONTAINS("the splits it has: train, test"));
  CHECK_THAT(error_of([&] { files("train", "test"); }),
             KTO_CONTAINS("no data for the split train; the splits it has: test"));
  folder.write("test/state.json", state + "\"train\"}");  // where the rows once came from; the folder's name counts
  CHECK(files("test") == Names{"test/data-1.arrow", "test/data-0.arrow"});
  for (const std::string own : {"null}", "\"train[:10%]\"}"}) {
    folder.write("test/state.json", state + own);
    CHECK(files("train", "test") == Names{"test/data-1.arrow", "test/data-0.arrow"});
  }
  folder.write("test/state.json", R"({"_data_files": [{"filename": "../train/data-0.arrow"}]})");
  CHECK_THAT(error_of([&] { files("train", "test"); }), KTO_CONTAINS("not in the format of datasets' save_to_disk"));
  CHECK_THAT(error_of([&] { kto::read_rows(folder.path()); }),  // this program has no Arrow
             KTO_CONTAINS("which reads Arrow files, as datasets' save_to_disk writes them; pip install pyarrow"));
}

}  // namespace test_files
