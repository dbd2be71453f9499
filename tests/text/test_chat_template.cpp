// SPDX-License-Identifier: Apache-2.0
// Chat templates against transformers: tests/golden/chat_templates holds what transformers renders, and the script that
// made it.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "kto/text/chat_template.hpp"

namespace test_chat_template {

using kto::ChatTemplate;
using kto::Json;

namespace {

const kto::fs::path golden = kto::fs::path(KTO_SOURCE_DIR) / "tests/golden/chat_templates";
constexpr std::time_t golden_time = 1720000000;  // 2024-07-03 09:46:40 UTC

/// The local time is UTC while this lives.
struct UtcClock {
  UtcClock() {
    if (const char* zone = std::getenv("TZ")) before = zone;
    ::setenv("TZ", "UTC", 1);
    ::tzset();
  }
  ~UtcClock() {
    before ? ::setenv("TZ", before->c_str(), 1) : ::unsetenv("TZ");
    ::tzset();
  }
  std::optional<std::string> before;
};

/// Nothing where the template is refused or fails.
std::optional<std::string> rendered(const std::string& source, const Json& variables) {
  try {
    return ChatTemplate(source).render(variables, golden_time);
  } catch (const kto::Error&) {
    return std::nullopt;
  }
}

std::string failure(const std::string& source, const Json& variables = Json::object()) {
  try {
    ChatTemplate(source, "t.jinja").render(variables);
  } catch (const kto::Error& error) {
    return error.what();
  }
  return "no error";
}

std::string fnv(std::string_view text) {
  std::uint32_t value = 0x811C9DC5;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x01000193;
  std::string hex;
  for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[(value >> shift) & 15];
  return hex;
}

Json conversations() {
  Json file = kto::read_json(golden / "conversations.json");
  for (Json& conversation : file["conversations"]) {
    Json& variables = conversation["variables"];
    if (variables.contains("tools") && variables["tools"] == "standard") variables["tools"] = file["tools"];
  }
  return file["conversations"];
}

}  // namespace

TEST_CASE("short templates render as in transformers", "[chat_template]") {
  const UtcClock utc;
  const Json snippets = kto::read_json(golden / "snippets.json");
  const Json expected = kto::read_json(golden / "expected_snippets.json");
  REQUIRE(snippets["templates"].size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string source = snippets["templates"][i];
    INFO(source);
    const auto text = rendered(source, snippets["variables"]);
    if (expected[i].is_null())
      CHECK(text.value_or("an error") == "an error");
    else
      CHECK(text.value_or("an error") == expected[i].get<std::string>());
  }
}

TEST_CASE("templates render conversations as in transformers", "[chat_template]") {
  const UtcClock utc;
  const Json all = conversations();
  const Json expected = kto::read_json(golden / "expected_templates.json");
  for (const auto& [file, cases] : expected.items()) {
    const std::string source = kto::read_file(golden / "templates" / file);
    for (const Json& conversation : all) {
      const std::string name = conversation["name"];
      if (!cases.contains(name)) continue;
      INFO(file << " " << name);
      const auto text = rendered(source, conversation["variables"]);
      CHECK(text.value_or("an error") == (cases[name].is_null() ? "an error" : cases[name].get<std::string>()));
    }
  }
}

TEST_CASE("the templates of models render as in transformers", "[chat_template]") {
  const kto::fs::path shared = kto::fs::path(KTO_SHARED_DIR) / "data/chat_templates";
  if (!kto::fs::exists(shared)) {
    WARN("skipped: " << shared.string() << " is not there");
    return;
  }
  const UtcClock utc;
  const Json all = conversations();
  int agree = 0;
  int total = 0;
  for (const std::string folder : {"llama.cpp", "trl"}) {
    const Json expected = kto::read_json(golden / ("expected_" + folder + ".json"));
    for (const auto& [file, hashes] : expected.items()) {
      const kto::fs::path path = shared / folder / file;
      if (!kto::fs::exists(path) || fnv(kto::read_file(path)) != hashes[0].get<std::string>()) {
        WARN("skipped: " << path.string() << " is missing or another version");
        continue;
      }
      const std::string source = kto::read_file(path);
      std::string found;
      std::string differing;
      for (const Json& conversation : all) {
        const auto text = rendered(source, conversation["variables"]);
        const std::string hash = text ? fnv(*text) : "--------";
        if (hash != hashes[1].get_ref<const std::string&>().substr(found.size(), 8))
          differing += " " + conversation["name"].get<std::string>();
        found += hash;
      }
      INFO(folder << "/" << file << " differs on" << differing);
      CHECK(found == hashes[1].get<std::string>());
      agree += differing.empty() ? 1 : 0;
      ++total;
    }
  }
  CHECK(agree == total);
}

TEST_CASE("errors name template, line and cause", "[chat_template]") {
  CHECK(failure("a\n{% if x %}\nb") == "t.jinja: line 3: the template ends inside a block: '{% endif %}' is missing");
  CHECK(failure("\n\n{% include 'x' %}") == "t.jinja: line 3: the tag '{% include %}' is not supported");
  CHECK(failure("{% import 'x' as y %}") == "t.jinja: line 1: the tag '{% import %}' is not supported");
  CHECK(failure("{% extends 'x' %}") == "t.jinja: line 1: the tag '{% extends %}' is not supported");
  CHECK_THAT(failure("{% wat %}"), KTO_CONTAINS("there is no tag '{% wat %}'"));
  CHECK(failure("x\n{{ a b }}") == "t.jinja: line 2: expected '}}', found 'b'");
  CHECK(failure("x\n{{ 'a }}") == "t.jinja: line 2: a string has no closing '");
  CHECK_THAT(failure("{{ 1|nosuch }}"), KTO_CONTAINS("line 1: there is no filter named 'nosuch'"));
  CHECK_THAT(failure("{{ 1 is nosuch }}"), KTO_CONTAINS("line 1: there is no test named 'nosuch'"));
  CHECK(failure("\n{{ nope.x }}") == "t.jinja: line 2: 'nope' is undefined");
  CHECK(failure("{% set d = {} %}\n\n{{ d.x.y }}") ==
        "t.jinja: line 3: a value of type dict has no attribute or key 'x'");
  CHECK(failure("\n{{ raise_exception('Roles must alternate') }}") ==
        "t.jinja: line 2: the template refuses the conversation: Roles must alternate");
  CHECK(failure("{% macro f() %}\n{{ 1 + 'a' }}{% endmacro %}\n\n{{ f() }}") ==
        "t.jinja: line 2: '+' does not work on int and str");
  CHECK_THAT(failure("{{ [].append(1) }}"), KTO_CONTAINS("'append'"));
  CHECK(failure("\xff") == "t.jinja: line 1: the template is not valid UTF-8");
  CHECK_THAT(failure("{{ messages }}", {{"messages", Json::array()}}), KTO_CONTAINS("\"messages\" is empty"));
  CHECK_THAT(failure("{{ messages }}", {{"messages", {"hi"}}}), KTO_CONTAINS("message 1 is string"));
  CHECK_THAT(failure("x", Json::array()), KTO_CONTAINS("expected an object"));
}

TEST_CASE("templates run within limits", "[chat_template]") {
  CHECK_THAT(failure("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"),
             KTO_CONTAINS("takes more than 20000000 steps"));
  CHECK_THAT(failure("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), KTO_CONTAINS("nests deeper"));
  CHECK_THAT(
      failure("{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"),
      KTO_CONTAINS("MiB"));
  CHECK_THAT(failure("{{ 'a' * 10000000000 }}"), KTO_CONTAINS("too long"));
  CHECK_THAT(failure("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}"), KTO_CONTAINS("nests deeper"));
  CHECK_THAT(failure("{{ " + std::string(10000, '(')), KTO_CONTAINS("nests"));
  CHECK_THAT(failure("{{ " + std::string(10000, '-') + "1 }}"), KTO_CONTAINS("nests"));
  const ChatTemplate counts("{% for i in range(50) %}x{% endfor %}");
  CHECK(counts.render(Json::object()) == std::string(50, 'x'));
  CHECK_THROWS_AS(counts.render(Json::object(), {}, {.steps = 49}), kto::Error);
  CHECK_THROWS_AS(counts.render(Json::object(), {}, {.output_bytes = 49}), kto::Error);
}

TEST_CASE("all data that a template processes counts, not only its loops", "[chat_template]") {
  const Json variables = {{"text", std::string(4000000, 'a')}, {"large", Json::object()}};
  const std::string nested =
      "{% set ns = namespace(x=(), y=()) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}"
      "{% set ns.y = (ns.y, ns.y) %}{% endfor %}";
  const std::string turns = "{% for i in range(90000) %}";
  for (const std::string& source : {
           nested + "{{ [ns.x, ns.y]|unique|list|length }}",
           nested + "{{ ns.x in {} }}",
           nested + "{{ ns.x in [ns.y] }}",
           nested + "{{ ns.x == ns.y }}",
           nested + "{{ ns.x < ns.y }}",
           nested + "{{ {}.get(ns.x) }}",
           nested + "{{ [ns.x, ns.y]|groupby(0)|length }}",
           turns + "{{ text.find('b') }}{% endfor %}",
           turns + "{{ text.count('b') }}{% endfor %}",
           turns + "{% if 'b' in text %}{% endif %}{% endfor %}",
           turns + "{% if text ~ 'b' == text ~ 'c' %}{% endif %}{% endfor %}",
           turns + "{{ text[i] }}{% endfor %}",
           turns + "{{ text[i:i + 1] }}{% endfor %}",
           turns + "{{ text|length }}{% endfor %}",
           turns + "{{ text is upper }}{% endfor %}",
           turns + "{{ text|int }}{% endfor %}",
           turns + "{% if [text]|map('length')|list == [] %}{% endif %}{% endfor %}",
           turns + "{{ text.isalpha() }}{% endfor %}",
           turns + "{{ text.strip(text) }}{% endfor %}",
       }) {
    INFO(source);
    CHECK_THROWS_WITH(ChatTemplate(source).render(variables, {}, {.steps = 200'000}), KTO_CONTAINS("200000 steps"));
  }
  // One search takes linear time, whatever is looked for.
  const ChatTemplate searches(
      "{% set p = text[:2000000] ~ 'b' %}{{ text.find(p) }} {{ text.rfind('b' ~ p[:-1]) }} {{ text.count(p) }} "
      "{{ p in text }} {{ text.split(p)|length }} {{ text.rsplit(p)|length }} {{ text.replace(p, '')|length }}");
  CHECK(searches.render(variables) == "-1 -1 0 False 1 1 4000000");
  CHECK(ChatTemplate(
            "{{ s.split(t) }} {{ s.rsplit(t, 1) }} {{ s.rfind(t) }} {{ s.rpartition(t)[2] }} {{ s.rsplit('#', 2) }}")
            .render({{"s", "a#" + std::string(20, '-') + "b" + std::string(20, '-') + "#c"},
                     {"t", std::string(20, '-')}}) == "['a#', 'b', '#c'] ['a#" + std::string(20, '-') +
                                                          "b', '#c'] 23 #c ['a', '" + std::string(20, '-') + "b" +
                                                          std::string(20, '-') + "', 'c']");
  CHECK_THAT(failure("{{ strftime_now('%z' * 1000) }}"), KTO_CONTAINS("strftime_now has 2000 bytes"));
}

TEST_CASE("rubbish is an error or text, never a crash", "[chat_template]") {
  const Json variables = kto::read_json(golden / "snippets.json")["variables"];
  std::vector<std::string> sources;
  for (const auto& file : kto::fs::directory_iterator(golden / "templates")) sources.push_back(kto::read_file(file));
  std::uint32_t state = 1;
  const auto random = [&](std::size_t below) {
    state = state * 1664525 + 1013904223;
    return static_cast<std::size_t>(state >> 8) % below;
  };
  constexpr std::string_view pieces[] = {"{{", "}}",  "{%", "%}", "{#", "(",     ")",   "[",    "]",
                                         "|",  "'",   "~",  "is", "if", "endif", "for", "in",   "-",
                                         "*",  "1e9", ".",  ",",  ":",  "=",     "\\",  "\xC3", "\n"};
  for (int i = 0; i < 2000; ++i) {
    std::string source = sources[random(sources.size())];
    source = source.substr(random(source.size()), 20 + random(600));
    for (std::size_t edits = 1 + random(4); edits > 0; --edits) {
      const std::size_t at = random(source.size());
      if (random(2) == 0)
        source.insert(at, pieces[random(std::size(pieces))]);
      else
        source.erase(at, 1 + random(8));
      if (source.empty()) source = "{";
    }
    rendered(source, variables);
  }
  SUCCEED();
}

TEST_CASE("conversations as templates see them", "[chat_template]") {
  const Json messages = {{{"role", "user"}, {"content", "hi"}, {"name", nullptr}},
                         {{"role", "assistant"}, {"reasoning", "r"}, {"content", "x"}}};
  CHECK(ChatTemplate("{{ messages[0] }}").render({{"messages", messages}}) == "{'role': 'user', 'content': 'hi'}");
  CHECK(
      ChatTemplate("{{ messages[1].thinking }}{{ messages[1].reasoning_content }}").render({{"messages", messages}}) ==
      "rr");
  CHECK(ChatTemplate("{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ bos_token is defined }}")
            .render(Json::object()) == "NoneNoneFalseFalse");
  CHECK(ChatTemplate("{{ x }} {{ x | tojson }}").render({{"x", {{"b", 1.0}, {"a", nullptr}}}}) ==
        "{'b': 1.0, 'a': None} {\"b\": 1.0, \"a\": null}");
}

TEST_CASE("one template serves many threads", "[chat_template]") {
  const ChatTemplate shared(kto::read_file(golden / "templates" / "chatml_tools.jinja"));
  const Json all = conversations();
  const Json& variables = all[3]["variables"];
  const std::string alone = shared.render(variables);
  std::vector<int> equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : equal)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) count += shared.render(variables) == alone ? 1 : 0;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(equal == std::vector<int>(4, 100));
}

}  // namespace test_chat_template
