// SPDX-License-Identifier: Apache-2.0
// Writing files and folders: leftovers of killed programs, folders that cannot be created, and error messages.
#include "catch.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/io/cache_file.hpp"
#include "kto/io/folder.hpp"
#include "kto/io/folder_lock.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_folders {
namespace {

std::vector<std::string> names_in(const kto::fs::path& folder) {
  std::vector<std::string> out;
  for (const auto& entry : kto::fs::directory_iterator(folder)) out.push_back(entry.path().filename().string());
  std::ranges::sort(out);
  return out;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a temporary file is known by the exact form of its name") {
  const auto name = kto::detail::name_of_temporary;
  CHECK(name("config.json.tmp123") == "config.json");
  CHECK(name("config.json.tmp123-4") == "config.json");
  CHECK(name("a.tmp1.tmp2") == "a.tmp1");
  for (const char* other :
       {"config.json", "config.json.tmp", "config.json.tmpfile", "config.json.tmp12a", ".tmp12", "12",
        "config.json.tmp-1", "config.json.tmp1-", "config.json.tmp1-2-3", "config.json.temp1", ""})
    CHECK_FALSE(name(other));
}

TEST_CASE("writing a file removes its leftovers from killed programs, and nothing else") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path file = folder.path() / "a.json";
  folder.write("a.json.tmp999999", "half");
  folder.write("a.json.tmp1", "half");  // a process of this number runs; it does not write here
  folder.write("a.json.tmpfile", "the user's");
  folder.write("b.json.tmp999999", "another's");
  kto::fs::create_directories(folder.path() / "a.json.tmp7");
  kto::AtomicFile first(file);
  first.write("first");
  {
    kto::AtomicFile second(file);  // while the first is being written
    second.write("second");
    second.commit();
  }
  CHECK(kto::read_file(file) == "second");
  first.commit();
  CHECK(kto::read_file(file) == "first");
  CHECK(names_in(folder.path()) == Names{"a.json", "a.json.tmp7", "a.json.tmpfile", "b.json.tmp999999"});

  const kto::AtomicFile writing(file);
  kto::remove_stale_temporaries(folder.path(), [](const std::string&) { return true; });
  CHECK(kto::fs::exists(kto::concat(file.string(), ".tmp", ::getpid())));
  CHECK_FALSE(kto::fs::exists(folder.path() / "b.json.tmp999999"));
}

TEST_CASE("a cache folder is cleared of what killed programs left of its files") {
  const kto_test::TemporaryFolder folder;
  const std::string key(32, 'a'), other(32, 'b');
  folder.write(other + ".safetensors.tmp999999", "half");
  folder.write("mine.safetensors.tmp999999", "the user's");
  kto::write_cache(folder.path(), key, {"test 1", {"x"}}, {{"x", at::ones({2})}});
  CHECK(names_in(folder.path()) == Names{key + ".safetensors", "mine.safetensors.tmp999999"});
}

TEST_CASE("a folder that cannot be created is an Error that names the part of the path in the way") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path& root = folder.path();
  folder.write("file", "x");
  kto::fs::create_symlink(root / "loop", root / "loop");
  kto::fs::create_symlink(root / "nowhere", root / "dangling");
  kto::fs::create_symlink(root / "file", root / "link");
  const std::pair<kto::fs::path, const char*> bad[] = {
      {"file", "file is a file, not a folder"},
      {"file/a/b", "file is a file, not a folder"},
      {"link/a", "link is a link to a file"},
      {"loop", "loop is a link to nothing"},
      {"loop/a/b", "loop is a link to nothing"},
      {"dangling", "dangling is a link to nothing"},
      {"new/" + std::string(300, 'x') + "/b", "x... has 300 bytes"},
  };
  for (const auto& [path, message] : bad) {
    INFO(path);
    CHECK_THAT(kto_test::error_of([&, p = path] { kto::make_folder(root / p); }),
               KTO_CONTAINS(message) && KTO_CONTAINS("the folder cannot be created"));
    CHECK_THAT(kto_test::error_of([&, p = path] { kto::check_folder(root / p, "--cache"); }),
               KTO_CONTAINS(message) && KTO_CONTAINS("--cache") && KTO_CONTAINS("expected a folder"));
  }
  CHECK_FALSE(kto::fs::exists(root / "new"));
  CHECK(kto::folder_problem(root / "new/folder/").empty());
  CHECK(kto::make_folder(root / "new/folder/") == std::vector{root / "new/folder", root / "new"});
  CHECK(kto::make_folder(root / "new").empty());
}

TEST_CASE("an error of the file system names its path, without the library's words") {
  const kto_test::TemporaryFolder folder;
  const kto::fs::path loop = folder.path() / "loop";
  kto::fs::create_symlink(loop, loop);
  try {
    (void)kto::fs::exists(loop / "config.json");
    FAIL("no error");
  } catch (const std::exception& error) {
    CHECK(kto::error_text(error) == (loop / "config.json").string() +
                                        ": Too many levels of symbolic links; a link in it leads to itself: fix it, or "
                                        "name another path");
  }
  try {
    kto::fs::rename(folder.path() / "a", folder.path() / "b");
    FAIL("no error");
  } catch (const std::exception& error) {
    CHECK(kto::error_text(error) == kto::concat((folder.path() / "a").string(), " and ", (folder.path() / "b").string(),
                                                ": No such file or directory"));
  }
}

}  // namespace test_folders
