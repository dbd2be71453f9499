// SPDX-License-Identifier: Apache-2.0
// Which files a split and a pattern are: as datasets 5.2 (get_data_patterns, DataFilesList) says of the same folders.
#include "catch.hpp"
#include "kto/data/files.hpp"
#include "tests/data/temporary_folder.hpp"

using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

using Names = std::vector<std::string>;

/// Files of `split` in a folder that holds `files`, or those that `pattern` matches in it.
Names found(const Names& files, const std::string& split, const std::string& pattern = "") {
  const TemporaryFolder folder;
  for (const std::string& file : files) folder.write(file, "");
  Names out;
  for (const auto& file : kto::data_files(pattern.empty() ? folder.path() : folder.path() / pattern, split))
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
  CHECK(found({"train_1.jsonl", "train0.csv", "train.jsonl.gz"}, "train") ==
        Names{"train.jsonl.gz", "train0.csv", "train_1.jsonl"});
  CHECK(found({"train_prefs.jsonl", "train_sft.jsonl"}, "train_prefs") == Names{"train_prefs.jsonl"});
}

TEST_CASE("files: words for splits in names of files and folders, in the order of datasets", "[data]") {
  const Names words{"my_train.jsonl", "dev.jsonl", "a/training-2.csv", "eval.json", ".train.jsonl", "__x/train.jsonl"};
  CHECK(found(words, "train") == Names{"my_train.jsonl", "a/training-2.csv"});
  CHECK(found(words, "validation") == Names{"dev.jsonl"});
  CHECK(found(words, "test") == Names{"eval.json"});
  for (const std::string word : {"validation", "valid", "val", "dev"})
    CHECK(found({word + "/a.jsonl", "train.jsonl"}, "validation") == Names{word + "/a.jsonl"});
  CHECK(found({"b/my train/x.jsonl", "b/train/y/z.jsonl", "b/train.jsonl"}, "train") ==
        Names{"b/train/y/z.jsonl", "b/my train/x.jsonl"});
  // A file is of one split, where datasets would train on what it evaluates.
  const Names both{"train_test.jsonl", "train.jsonl", "train/eval_0.jsonl"};
  CHECK(found(both, "train") == Names{"train/eval_0.jsonl"});
  CHECK(found(both, "test") == Names{"train_test.jsonl"});
}

TEST_CASE("files: where no name has a word of a split, all are train", "[data]") {
  const Names files{"rows.jsonl", "a/more.csv", "README.md", "dataset_info.json", ".cache/x.jsonl", "notes.txt"};
  CHECK(found(files, "train") == Names{"a/more.csv", "rows.jsonl"});
  CHECK_THAT(refused(files, "test"), KTO_CONTAINS("no data for the split test"));
  CHECK_THAT(refused({"rows.jsonl", "test.jsonl"}, "train"), KTO_CONTAINS("the splits it has: test"));
  CHECK_THAT(refused({"data/other-00000-of-00001.parquet"}, "train"), KTO_CONTAINS("the splits it has: other"));
  CHECK_THAT(refused({"notes.txt"}, "train"), KTO_CONTAINS("no data for the split train"));
}

TEST_CASE("files: what a training run leaves beside the data is none of it", "[data]") {
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
  CHECK(found(files, "train", "**") == Names{"a/b/z.csv", "a/b/z.jsonl", "a/y.jsonl", "x.jsonl"});
  CHECK(found(files, "train", "a/**") == Names{"a/b/z.csv", "a/b/z.jsonl", "a/y.jsonl"});
  CHECK(found(files, "train", "a/**/z.*") == Names{"a/b/z.csv", "a/b/z.jsonl"});
  CHECK(found(files, "train", "*/*.jsonl") == Names{"a/y.jsonl"});
  CHECK(found(files, "train", ".h/*") == Names{".h/x.jsonl"});
  CHECK(found(files, "train", "__*/*") == Names{"__c/x.jsonl"});
  CHECK_THAT(refused(files, "train", "**.jsonl"), KTO_CONTAINS("** stands beside \"**.jsonl\"; expected it alone"));
  CHECK_THAT(refused(files, "train", "**/*.json"), KTO_CONTAINS("no file matches"));
}

TEST_CASE("files: links to files and a linked data folder are followed, circles are not", "[data]") {
  const TemporaryFolder folder, other;
  other.write("rows.jsonl", "");
  other.write("train-00000-of-00001.jsonl", "");
  kto::fs::create_symlink(other.path() / "rows.jsonl", folder.path() / "linked.jsonl");
  kto::fs::create_directory(folder.path() / "a");
  kto::fs::create_directory_symlink(folder.path(), folder.path() / "a" / "circle");
  CHECK(kto::data_files(folder.path()) == std::vector{folder.path() / "linked.jsonl"});
  CHECK(kto::data_files(folder.path() / "**") == std::vector{folder.path() / "linked.jsonl"});
  kto::fs::create_directory_symlink(other.path(), folder.path() / "data");
  CHECK(kto::data_files(folder.path()) == std::vector{folder.path() / "data" / "train-00000-of-00001.jsonl"});
}
