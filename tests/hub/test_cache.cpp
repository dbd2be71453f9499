// SPDX-License-Identifier: Apache-2.0
// Names on the hub, and what its cache has of them, without any network.
#include "catch.hpp"
#include "kto/hub/locate.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_cache {

using namespace kto;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

const std::string commit(40, 'c');

/// A variable of the environment, as it was when the test ends.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name), before_(environment(name)) { set(value); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }

 private:
  void set(const char* value) const { value != nullptr ? ::setenv(name_, value, 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> before_;
};

/// An empty cache, which the environment names; nothing is downloaded.
struct Cache {
  TemporaryFolder folder;
  Variable cache{"HF_HUB_CACHE", folder.path().c_str()}, offline{"HF_HUB_OFFLINE", "1"};

  /// Adds files to a snapshot of a repository, as links into its blobs.
  fs::path add(const std::string& repository, const std::vector<std::pair<std::string, std::string>>& files,
               const std::string& at = commit) const {
    const fs::path root = folder.path() / repository, snapshot = root / "snapshots" / at;
    for (const auto& [name, content] : files) {
      std::string blob = name;
      std::ranges::replace(blob, '/', '_');
      const fs::path link = snapshot / name, target = folder.write(repository + "/blobs/" + blob, content);
      fs::create_directories(link.parent_path());
      fs::create_symlink(target.lexically_relative(link.parent_path()), link);
    }
    folder.write(repository + "/refs/main", at);
    return snapshot;
  }
};

std::string where(const std::string& name, const hub::Wanted& wanted = hub::model_files(),
                  const std::string& revision = "main") {
  return hub::locate({.kind = hub::Kind::model, .id = name, .revision = revision}, wanted).string();
}

}  // namespace

TEST_CASE("hub: the names of repositories") {
  for (const char* name : {"org/base", "Qwen/Qwen2-0.5B-Instruct", "a/b_c", "gpt2", "1/2", "_a/b_"})
    CHECK(hub::is_id(name));
  for (const char* name : {"", "/base", "org/", "a/b/c", "./base", "../base", "~/base", "a--b/c", "a/b..c", "a/b.git",
                           "-a/b", "a/b-", "a/.b", "a/b c", "a/\xc3\xa4", "a\\b", "data/*"})
    CHECK_FALSE(hub::is_id(name));
  CHECK_FALSE(hub::is_id("a/" + std::string(97, 'x')));
  CHECK(hub::is_full_id("org/base"));
  CHECK_FALSE(hub::is_full_id("gpt2"));
  CHECK(hub::cache_name({.kind = hub::Kind::model, .id = "org/base"}) == "models--org--base");
  CHECK(hub::cache_name({.kind = hub::Kind::dataset, .id = "rows"}) == "datasets--rows");
  for (const char* path : {"a", "a/b.json", "data/train-00000-of-00001.parquet", "a b/..c"})
    CHECK(hub::is_plain_path(path));
  for (const char* path : {"", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\nb"})
    CHECK_FALSE(hub::is_plain_path(path));
}

TEST_CASE("hub: the environment says where the cache and the token are") {
  const Variable cache("HF_HUB_CACHE", nullptr), older("HUGGINGFACE_HUB_CACHE", nullptr), home("HF_HOME", nullptr),
      xdg("XDG_CACHE_HOME", nullptr), user("HOME", "/home/u"), token("HF_TOKEN_PATH", nullptr),
      endpoint("HF_ENDPOINT", nullptr), offline("HF_HUB_OFFLINE", nullptr),
      transformers("TRANSFORMERS_OFFLINE", nullptr), timeout("HF_HUB_DOWNLOAD_TIMEOUT", nullptr);
  const auto now = hub::settings_of_environment;
  CHECK(now().cache == "/home/u/.cache/huggingface/hub");
  CHECK(now().token_file == "/home/u/.cache/huggingface/token");
  CHECK(now().endpoint == hub::public_endpoint);
  CHECK_FALSE(now().offline);
  const Variable with_xdg("XDG_CACHE_HOME", "/x");
  CHECK(now().cache == "/x/huggingface/hub");
  const Variable with_home("HF_HOME", "~/hf");
  CHECK(now().cache == "/home/u/hf/hub");
  CHECK(now().token_file == "/home/u/hf/token");
  for (const auto& [text, expected] : {std::pair("~/$KTO_TEST_A/${KTO_TEST_A}b", "/home/u/x/xb/hub"),
                                       std::pair("/$KTO_NONE/${KTO_NONE}/$/${", "/$KTO_NONE/${KTO_NONE}/$/${/hub")}) {
    const Variable value("KTO_TEST_A", "x"), with_variables("HF_HOME", text);
    CHECK(now().cache == expected);
  }
  const Variable with_older("HUGGINGFACE_HUB_CACHE", "/older");
  CHECK(now().cache == "/older");
  const Variable with_cache("HF_HUB_CACHE", "/c"), with_endpoint("HF_ENDPOINT", "http://h:1/"),
      with_token("HF_TOKEN_PATH", "/t");
  CHECK(now().cache == "/c");
  CHECK(now().token_file == "/t");
  CHECK(now().endpoint == "http://h:1");
  const auto is_offline = [&](const char* text) {
    const Variable set("HF_HUB_OFFLINE", text);
    return now().offline;
  };
  for (const char* yes : {"1", "on", "Yes", "TRUE"}) CHECK(is_offline(yes));
  for (const char* no : {"0", "no", ""}) CHECK_FALSE(is_offline(no));
  const Variable bad("HF_HUB_DOWNLOAD_TIMEOUT", "soon");
  CHECK_THAT(error_of(now), KTO_CONTAINS("HF_HUB_DOWNLOAD_TIMEOUT is soon"));
}

TEST_CASE("hub: tokens come from the environment, or from a file") {
  const Cache cache;
  const Variable none("HF_TOKEN", nullptr), older("HUGGING_FACE_HUB_TOKEN", nullptr);
  hub::Settings settings{.cache = {}, .endpoint = "", .token_file = cache.folder.path() / "token"};
  CHECK(hub::read_token(settings).empty());
  cache.folder.write("token", " hf_file\r\n");
  CHECK(hub::read_token(settings) == "hf_file");
  const Variable given("HF_TOKEN", "hf_given ");
  CHECK(hub::read_token(settings) == "hf_given");
  const Variable bad("HF_TOKEN", "hf\nHost: x");
  CHECK_THAT(error_of([&] { hub::read_token(settings); }), KTO_CONTAINS("HF_TOKEN: is no token"));
}

TEST_CASE("hub: a name is looked up in the cache") {
  const Cache cache;
  const fs::path base = cache.add(
      "models--org--base",
      {{"config.json", "{}"}, {"tokenizer.json", "{}"}, {"model.safetensors", "w"}, {"pytorch_model.bin", "p"}});
  CHECK(where("org/base") == base);
  CHECK(where("org/base", hub::model_files(), commit) == base);
  CHECK(where(cache.folder.path().string()) == cache.folder.path());  // what exists is itself
  for (const char* name : {"./nowhere", "org/base/", "gpt3"})
    CHECK_THAT(error_of([&] { where(name); }), KTO_CONTAINS("is not a folder here") && KTO_CONTAINS("with its owner"));
  CHECK(hub::repository_of(base)->id == "org/base");
  CHECK(hub::repository_of(base / "")->revision == commit);
  CHECK_FALSE(hub::repository_of(cache.folder.path()));
  CHECK_THAT(
      error_of([&] { where("org/base", hub::model_files(), "v1"); }),
      KTO_CONTAINS("org/base (revision v1): is not a folder") && KTO_CONTAINS("hf download org/base --revision v1"));
  CHECK_THAT(error_of([&] { where("org/base", hub::model_files(), "../../x"); }), KTO_CONTAINS("no name of a branch"));
  CHECK_THAT(error_of([&] { where("org/none"); }), KTO_CONTAINS("HF_HUB_OFFLINE"));

  const std::string index = R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})";
  cache.add("models--org--shards",
            {{"config.json", "{}"}, {"model.safetensors.index.json", index}, {"model-1.safetensors", "w"}});
  CHECK_THAT(error_of([&] { where("org/shards"); }), KTO_CONTAINS("not complete in the cache"));
  CHECK_NOTHROW(cache.add("models--org--shards", {{"model-2.safetensors", "w"}}));
  CHECK(where("org/shards").ends_with(commit));
  fs::remove(cache.folder.path() / "models--org--shards/blobs/model-2.safetensors");  // a link to nothing
  CHECK_THAT(error_of([&] { where("org/shards"); }), KTO_CONTAINS("not complete in the cache"));
  fs::remove(cache.folder.path() / "models--org--base/blobs/tokenizer.json");  // the repository has a tokenizer
  CHECK_THAT(error_of([&] { where("org/base"); }), KTO_CONTAINS("not complete in the cache"));
  cache.add("models--org--weights", {{"config.json", "{}"}, {"model.safetensors", "w"}, {"chat_template.jinja", "t"}});
  CHECK(where("org/weights").ends_with(commit));
  CHECK_THAT(error_of([&] { where("org/weights", hub::model_files(/*needs_tokenizer=*/true)); }),
             KTO_CONTAINS("not complete in the cache"));

  const fs::path old = cache.add("models--gpt2", {{"config.json", "{}"}, {"model.safetensors", "w"}});
  CHECK(where("gpt2") == old);

  cache.add("models--org--adapters", {{"b/adapter_config.json", "{}"}, {"b/adapter_model.safetensors", "w"}});
  CHECK_FALSE(where("org/adapters", hub::adapter_files({"b"})).empty());
  CHECK_THAT(error_of([&] { where("org/adapters", hub::adapter_files({"c"})); }), KTO_CONTAINS("not complete"));
}

TEST_CASE("hub: of a data set the cache must have all files of the split") {
  const Cache cache;
  const auto files_of = [&](const std::string& id, const std::string& split, const std::string& config = "") {
    std::vector<std::string> names;
    for (const auto& file : data_files(hub::on_disk({.path = id, .split = split, .config = config})).files)
      names.push_back(file.filename());
    return names;
  };
  using Names = std::vector<std::string>;
  const std::string card =
      "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n";
  cache.add("datasets--org--two", {{"README.md", card}, {"a.jsonl", "{}"}});
  CHECK(files_of("org/two", "train", "a") == Names{"a.jsonl"});
  CHECK_THAT(error_of([&] { files_of("org/two", "train", "b"); }),
             KTO_CONTAINS("org/two: is not a folder here") && KTO_CONTAINS("hf download --repo-type dataset org/two"));
  const Variable online("HF_HUB_OFFLINE", nullptr), no_data("HF_DATASETS_OFFLINE", "1");
  CHECK_THAT(error_of([&] { files_of("org/two", "train", "b"); }),
             KTO_CONTAINS("HF_DATASETS_OFFLINE forbids to download it"));

  cache.add("datasets--org--shards",
            {{"data/train-00000-of-00002.jsonl", "{}"}, {"data/test-00000-of-00001.jsonl", "{}"}});
  CHECK(files_of("org/shards", "test") == Names{"test-00000-of-00001.jsonl"});
  CHECK_THAT(error_of([&] { files_of("org/shards", "train"); }), KTO_CONTAINS("not complete in the cache"));
  cache.add("datasets--org--shards", {{"data/train-00001-of-00002.jsonl", "{}"}});
  CHECK(files_of("org/shards", "train").size() == 2);
  CHECK(hub::on_disk({.path = "org/shards", .split = "train[:10%]+test"}).path.filename() == commit);
  CHECK(hub::on_disk({.path = "org/rows.jsonl"}).path == "org/rows.jsonl");  // a file that is missing, not a name

  // huggingface_hub has listed more than it has downloaded
  cache.add("datasets--org--listed", {{"train-a.jsonl", "{}"}});
  CHECK(files_of("org/listed", "train") == Names{"train-a.jsonl"});
  cache.folder.write("datasets--org--listed/trees/" + commit + ".json",
                     R"({"format_version": 1, "files": {"train-a.jsonl": {"size": 2}, "train-b.jsonl": {"size": 2}}})");
  CHECK_THAT(error_of([&] { files_of("org/listed", "train"); }), KTO_CONTAINS("not complete in the cache"));
}

}  // namespace test_cache
