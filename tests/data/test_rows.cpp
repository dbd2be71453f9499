// SPDX-License-Identifier: Apache-2.0
// Reading data files: formats, order, and the messages for malformed rows.

#include "catch.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_rows {

using kto::Json;
using kto::read_rows;
using kto::RowFormat;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

const std::string good = R"({"prompt": "a", "completion": "b", "label": true})";
const std::string chat =
    R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], "label": false})";

/// The Error for one bad row after a good one, without the file's name.
std::string complaint(const std::string& bad, const std::string& first = good) {
  const TemporaryFolder folder;
  const auto file = folder.write("rows.jsonl", first + "\n" + bad + "\n");
  std::string message = error_of([&] { read_rows(file); });
  INFO(message);
  REQUIRE(message.find(file.string() + ": ") == 0);
  return message.substr(file.string().size() + 2);
}

std::string chat_row(const std::string& prompt,
                     const std::string& completion = R"([{"role":"assistant","content":"b"}])") {
  return R"({"prompt": )" + prompt + R"(, "completion": )" + completion + R"(, "label": true})";
}

}  // namespace

TEST_CASE("rows: the same rows from lines, an array, CRLF, blank lines and a byte-order mark", "[data]") {
  const TemporaryFolder folder;
  const std::string other = R"({"label": false, "completion": "d\n\u00e9", "prompt": "]},{\"[ \\"})";
  for (const std::string& content :
       {good + "\n" + other, "\xEF\xBB\xBF" + good + "\r\n\r\n  \n" + other + "\r\n", "[" + good + "," + other + "]",
        "\xEF\xBB\xBF\n[\n  " + good + " ,\n\n " + other + "\n]\n"}) {
    const auto set = read_rows(folder.write("rows.json", content));
    REQUIRE(set.rows.size() == 2);
    CHECK(set.kind == kto::RowKind{RowFormat::Unpaired, false});
    CHECK(set.rows[0].prompt == "a");
    CHECK(set.rows[0].label);
    CHECK(set.rows[1].prompt == "]},{\"[ \\");
    CHECK(set.rows[1].completion == "d\n\xC3\xA9");
    CHECK_FALSE(set.rows[1].label);
    CHECK(set.rows[1].source.number == 2);
    CHECK(set.notes.empty());
  }
  const auto set = read_rows(folder.write("rows.json", "[\n" + good + ",\n" + other + "]"));
  CHECK(set.where(set.rows[1].source) == (folder.path() / "rows.json").string() + ": line 3");
}

TEST_CASE("rows: a folder's split is its files in the order of their names", "[data]") {
  const TemporaryFolder folder;
  const auto row = [](const std::string& prompt) {
    return R"({"prompt": ")" + prompt + R"(", "completion": "b", "label": true})";
  };
  folder.write("train-00001.jsonl", row("second"));
  folder.write("train-00000.jsonl", row("first"));
  folder.write("test.json", "[" + row("third") + "]");
  folder.write("train.txt", "not data");
  const auto set = read_rows(folder.path());
  REQUIRE(set.rows.size() == 2);
  CHECK(set.rows[0].prompt == "first");
  CHECK(set.rows[1].prompt == "second");
  CHECK(set.rows[1].source.number == 2);
  CHECK(set.where(set.rows[1].source) == (folder.path() / "train-00001.jsonl").string() + ": line 1");
  CHECK(read_rows(folder.path(), "test").rows[0].prompt == "third");
  CHECK_THAT(error_of([&] { read_rows(folder.path(), "eval"); }), KTO_CONTAINS("no data for the split eval"));

  const TemporaryFolder hub_layout;
  hub_layout.write("data/train-00000-of-00001.jsonl", row("first"));
  CHECK(read_rows(hub_layout.path()).rows.size() == 1);
}

TEST_CASE("rows: files that hold no rows", "[data]") {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& name, const std::string& content) {
    return error_of([&] { read_rows(folder.write(name, content)); });
  };
  CHECK_THAT(message("a.jsonl", ""), KTO_CONTAINS("a.jsonl: no rows; expected one JSON object a line"));
  CHECK_THAT(message("a.jsonl", "\n \r\n"), KTO_CONTAINS("no rows"));
  CHECK_THAT(message("a.json", "[ ]"), KTO_CONTAINS("no rows"));
  CHECK_THAT(message("a.orc", "ORC"), KTO_CONTAINS("unknown kind of data file; expected .jsonl, .json, .csv"));
  CHECK_THAT(message("a.jsonl", "\xFF\xFE{"), KTO_CONTAINS("line 1, byte 1: UTF-16; save the file as UTF-8"));
  CHECK_THAT(message("a.json", "{\n \"data\": []}"),
             KTO_CONTAINS("line 1: \"prompt\" is missing") && KTO_CONTAINS("the row has data"));
  CHECK_THAT(message("a.csv", "prompt,completion,label\n"),
             KTO_CONTAINS("a.csv: no rows; expected a header and one record a line"));
  CHECK_THAT(message("a.csv", "prompt,\"completion,label\na,b,1\n"), KTO_CONTAINS("line 1: the header: a quoted cell"));
  CHECK_THAT(error_of([&] { read_rows(folder.path() / "none.jsonl"); }),
             KTO_CONTAINS("none.jsonl: no such file or folder"));
  CHECK_THAT(error_of([&] { read_rows(folder.write("b.jsonl", good), "test"); }),
             KTO_CONTAINS("a single file holds the split train, not test"));
}

TEST_CASE("rows: broken arrays", "[data]") {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& content) {
    const auto file = folder.write("a.json", content);
    return error_of([&] { read_rows(file); }).substr(file.string().size() + 2);
  };
  CHECK_THAT(message("[\n" + good + ",\n" + good.substr(0, 20)),
             KTO_CONTAINS("line 3, column 1: the row that begins here does not end, or the closing ]"));
  CHECK_THAT(message("[" + good), KTO_CONTAINS("line 1, column 2: the row that begins here does not end"));
  CHECK_THAT(message("["), KTO_CONTAINS("is the file cut off?"));
  CHECK_THAT(message("[" + good + ",\n]"), KTO_CONTAINS("line 2, column 1: expected a row before this \"]\""));
  CHECK_THAT(message("[" + good + "]\n x"), KTO_CONTAINS("line 2, column 2: expected nothing after the array"));
  CHECK(message("[" + good + ", {\"prompt\": tru}]").find("line 1, column 67: not valid JSON: ") == 0);
  CHECK(message("[\n" + good + ",\n  {\"prompt\":\n 1.}]").find("line 4, column 4: not valid JSON: ") == 0);
  CHECK_THAT(message("[1]"), KTO_CONTAINS("line 1: a row is the number 1; expected an object"));
}

TEST_CASE("rows: the message for a malformed row has line, column or key, and what was expected", "[data]") {
  CHECK(complaint("{\"prompt\": }").find("line 2, column 12: not valid JSON: ") == 0);
  CHECK(complaint("{\"prompt\": \"\xE9\"}").find("line 2, byte 13: not UTF-8 (byte 0xE9); save the file as UTF-8") ==
        0);
  CHECK(complaint(std::string(100000, '[')).find("line 2, byte 257: lists and objects are nested more than 256 deep") ==
        0);
  CHECK(complaint(R"({"prompt": 1e999})") == "line 2, column 12: not valid JSON: the number 1e999 is too large");
  CHECK_THAT(
      complaint(R"({"prompt": "a", "completion": "b", "label": true, "tools": ")" + std::string(1000, '[') + "\"}"),
      KTO_CONTAINS("line 2: \"tools\" nests lists and objects more than 256 deep"));
  CHECK(complaint("3") == "line 2: a row is the number 3; expected an object with prompt, completion and label");
  CHECK(complaint(R"({"prompt": "a", "response": "b", "label": true})") ==
        "line 2: \"completion\" is missing; expected prompt, completion and label, or prompt, chosen and rejected; the "
        "row "
        "has prompt, response, label");
  CHECK_THAT(complaint("{}"), KTO_CONTAINS("\"prompt\" is missing") && KTO_CONTAINS("the row has no columns"));
  CHECK_THAT(complaint(R"({"prompt": "a", "completion": "b"})"),
             KTO_CONTAINS("line 2: \"label\" is missing; expected"));
  const auto label = [](const std::string& value) {
    return complaint(R"({"prompt": "a", "completion": "b", "label": )" + value + "}");
  };
  CHECK(label("\"true\"") == "line 2: \"label\" is the string \"true\"; expected true or false without quotes");
  CHECK(label("2") == "line 2: \"label\" is the number 2; expected true or false");
  CHECK(label("-1") == "line 2: \"label\" is the number -1; expected true or false");
  CHECK(label("0.5") == "line 2: \"label\" is the number 0.5; expected true or false");
  CHECK(label("null") == "line 2: \"label\" is null; expected true or false");
  CHECK(label("[true]") == "line 2: \"label\" is a list; expected true or false");
  CHECK(complaint(R"({"prompt": 5, "completion": "b", "label": true})") ==
        "line 2: \"prompt\" is the number 5; expected a string, or a list of messages");
  CHECK(complaint(R"({"prompt": null, "completion": "b", "label": true})") ==
        "line 2: \"prompt\" is null; expected a string, or a list of messages");
  CHECK(complaint(R"({"prompt": "a", "chosen": "b"})") ==
        "line 2: \"rejected\" is missing; expected a string, or a list of messages");
  CHECK_THAT(complaint(R"({"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"})"),
             KTO_CONTAINS("must not have the column \"completion\" too"));
  CHECK_THAT(complaint(R"({"prompt": "a", "completion": "b", "label": true, "images": ["x.png"]})"),
             KTO_CONTAINS("\"images\" holds media; only text is supported"));
}

TEST_CASE("rows: a sequence of objects that span lines", "[data]") {
  const TemporaryFolder folder;
  const std::string pretty = Json::parse(good).dump(2) + "\n" +
                             R"({"prompt": "}{\"[", "completion": "d", "label": false})" + "\n\n" +
                             Json::parse(good).dump(4);
  for (const std::string& content : {pretty, "\xEF\xBB\xBF\n" + pretty + "\n", good + good + "\r" + good}) {
    const auto set = read_rows(folder.write("rows.jsonl", content));
    CHECK(set.rows.size() == 3);
    CHECK(kto::detail::count_rows(folder.path() / "rows.jsonl") == 3);
  }
  const auto set = read_rows(folder.write("rows.json", pretty));
  CHECK(set.rows[1].prompt == "}{\"[");
  CHECK(set.where(set.rows[2].source) == (folder.path() / "rows.json").string() + ": line 8");
  const auto message = [&](const std::string& content) {
    const auto file = folder.write("rows.json", content);
    return error_of([&] { read_rows(file); }).substr(file.string().size() + 2);
  };
  CHECK_THAT(message("{\n\"prompt\": tru\n}\n" + good), KTO_CONTAINS("line 2, column 14: not valid JSON: "));
  CHECK_THAT(message(pretty + "\n{\n\"prompt\": 3"),
             KTO_CONTAINS("line 13, column 1: the row that begins here does not end"));
  CHECK_THAT(message(pretty + "\n, {}"), KTO_CONTAINS("line 13, column 1: expected the { of a row"));
}

TEST_CASE("rows: NaN and infinities are accepted in unused columns", "[data]") {
  const TemporaryFolder folder;
  const auto row = [](const std::string& more) {
    return R"({"prompt": [{"role": "user", "content": "NaN, Infinity"}], "completion": [{"role": "assistant", "content": )"
           R"("b\"NaN"}], "label": true)" +
           more + "}";
  };
  const std::string others = R"(, "score": NaN, "low": -Infinity,"list":[Infinity,1,{"a": NaN}])";
  for (const std::string& content : {row(others) + "\n" + row(""), "[" + row(others) + "]"}) {
    const auto set = read_rows(folder.write("rows.json", content));
    CHECK(set.rows[0].prompt[0]["content"] == "NaN, Infinity");
    CHECK(set.rows[0].completion[0]["content"] == "b\"NaN");
    CHECK(set.notes == std::vector<std::string>{"unused columns: list, low, score"});
  }
  const auto used = [&](const std::string& more) { return complaint(row(more), chat); };
  const std::string expected = " is NaN or an infinity, which is not JSON; expected a value";
  CHECK(complaint(R"({"prompt": "a", "completion": "b", "label": NaN})") == "line 2: label" + expected);
  CHECK(
      complaint(
          R"({"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": -Infinity}], "completion": 1})",
          chat) == "line 2: prompt[1].content" + expected);
  CHECK(used(R"(, "tools": NaN)") == "line 2: tools" + expected);
  CHECK(used(R"(, "chat_template_kwargs": {"x": [1, Infinity]})") == "line 2: chat_template_kwargs.x[1]" + expected);
  for (const std::string bad : {"nan", "NaNs", "1NaN", "+Infinity", "--Infinity", "NaN NaN"})
    CHECK_THAT(used(R"(, "score": )" + bad), KTO_CONTAINS("not valid JSON"));
  const auto pair = R"({"prompt": "a", "chosen": "b", "rejected": "c", "label": NaN})";
  CHECK(read_rows(folder.write("pairs.jsonl", pair)).rows.size() == 2);
  CHECK(read_rows({{.files = {folder.write("taken.jsonl", row(R"(, "tools": NaN)"))},
                    .columns = {"prompt", "completion", "label"}}},
                  "taken")
            .rows.size() == 1);
}

TEST_CASE("rows: a label beside a pair is ignored", "[data]") {
  const TemporaryFolder folder;
  const auto set = read_rows(
      folder.write("rows.jsonl", R"({"prompt": "a", "chosen": "b", "rejected": "c", "label": false, "n": 1})"));
  REQUIRE(set.rows.size() == 2);
  CHECK(set.rows[0].label);
  CHECK_FALSE(set.rows[1].label);
  CHECK(set.notes == std::vector<std::string>{
                         "pairs have a column \"label\", which is ignored: chosen is desirable, rejected is not",
                         "unused columns: n"});
}

TEST_CASE("rows: a message quotes little of a row", "[data]") {
  const std::string much(1'000'000, 'a');
  for (const std::string& bad :
       {R"({"prompt": ")" + much, R"({"prompt": 1)" + std::string(1'000'000, '0') + "}", R"({"prompt": )" + much + "}",
        R"({")" + much + R"(": 1})", R"({"prompt": [{"role": "user", "content": [{"type": ")" + much + R"("}]}]})",
        R"({"prompt": ")" + much + R"(", "completion": "b", "label": ")" + much + "\"}"})
    CHECK(complaint(bad).size() < 700);
  const TemporaryFolder folder;
  std::string wide = good.substr(0, good.size() - 1);
  for (int i = 0; i < 300; ++i) wide += kto::concat(R"(, "column_)", i, R"(": 1)");
  const auto set = read_rows(folder.write("wide.jsonl", wide + R"(, ")" + much + R"(": 1})"));
  CHECK(set.notes.at(0).size() < 700);
  CHECK_THAT(set.notes[0], KTO_CONTAINS("and 281 more"));
  CHECK_THAT(error_of([&] { read_rows(folder.write("a.csv", "prompt,completion," + much + "\na,b,\xFF\n")); }),
             KTO_CONTAINS("line 2: the cell aaa") && KTO_CONTAINS("... is not UTF-8"));
}

TEST_CASE("rows: the numbers 1 and 0 are labels", "[data]") {
  const TemporaryFolder folder;
  std::string lines, csv = "prompt,completion,label\n";
  for (const std::string label : {"1", "0", "1.0", "0.0"}) {
    lines += R"({"prompt": "a", "completion": "b", "label": )" + label + "}\n";
    csv += "a,b," + label + "\n";
  }
  for (const auto& file : {folder.write("a.jsonl", lines), folder.write("a.csv", csv)}) {
    const auto rows = read_rows(file).rows;
    REQUIRE(rows.size() == 4);
    for (std::size_t i = 0; i < rows.size(); ++i) CHECK(rows[i].label == (i % 2 == 0));
  }
  const auto ids = R"({"completion_input_ids": [1, 2], "completion_labels": [-100, 2], "label": 0})";
  CHECK_FALSE(read_rows(folder.write("ids.jsonl", ids)).rows.at(0).label);
}

TEST_CASE("rows: a tool's result may be any list or object", "[data]") {
  const TemporaryFolder folder;
  const auto turns = [](const std::string& role, const std::string& content) {
    return R"([{"role":"user","content":"a"},{"role":")" + role + R"(","content":)" + content + "}]";
  };
  for (const std::string role : {"tool", "ipython", "function"})
    for (const std::string content : {R"({"temp":22})", "{}", R"(["a",1])", R"([{"id":3},{"type":"x"}])", "[]",
                                      R"([{"type":"text","text":"t"}])", R"([{"type":"image_search","hits":2}])",
                                      R"([{"type":"text","text":5}])", R"([{"type":"city","text":{"a":1}}])"}) {
      const auto file = folder.write("rows.jsonl", chat_row(turns(role, content)));
      CHECK(read_rows(file).rows.at(0).prompt[1]["content"] == Json::parse(content));
    }
  for (const std::string content : {R"({"temp":22})", R"(["a",1])"})
    CHECK_THAT(complaint(chat_row(turns("assistant", content)), chat), KTO_CONTAINS("prompt[1].content"));
  CHECK_THAT(complaint(chat_row(turns("tool", "7")), chat), KTO_CONTAINS("prompt[1].content is the number 7"));
  CHECK_THAT(complaint(chat_row(turns("tool", R"([{"type":"image","image":"x"}])")), chat),
             KTO_CONTAINS("is of type image; only text is supported"));
}

TEST_CASE("rows: malformed messages", "[data]") {
  const auto message = [](const std::string& turns) { return complaint(chat_row(turns), chat); };
  CHECK(message("[]") == "line 2: \"prompt\" is an empty list; expected at least one message");
  CHECK(message("[\"a\"]") == "line 2: prompt[0] is the string \"a\"; expected a message with role and content");
  CHECK(message(R"([{"role":"user","content":"a"},{"content":"x"}])") ==
        "line 2: prompt[1].role is missing; expected a string such as user");
  CHECK(message(R"([{"role":"user"}])") == "line 2: prompt[0].content is missing; expected a string");
  CHECK(message(R"([{"role":"user","content":null}])") == "line 2: prompt[0].content is null; expected a string");
  CHECK_THAT(message(R"([{"role":"user","content":7}])"), KTO_CONTAINS("prompt[0].content is the number 7"));
  CHECK_THAT(message(R"([{"role":"user","content":["a"]}])"), KTO_CONTAINS("prompt[0].content[0] is the string \"a\""));
  CHECK_THAT(message(R"([{"role":"user","content":[{"type":"text"}]}])"), KTO_CONTAINS("content[0].text is missing"));
  CHECK_THAT(message(R"([{"role":"user","content":[{"type":"image_url","image_url":"x"}]}])"),
             KTO_CONTAINS("is of type image_url; only text is supported"));
  CHECK_THAT(message(R"([{"from":"human","value":"a"}])"),
             KTO_CONTAINS("expected the keys role and content instead of from and value"));
  CHECK_THAT(complaint(chat_row(R"([{"role":"user","content":"a"}])", "\"b\""), chat),
             KTO_CONTAINS("\"prompt\" is a list of messages but \"completion\" is a string"));
  const auto extra = [](const std::string& text) {
    return complaint(chat.substr(0, chat.size() - 1) + text + "}", chat);
  };
  CHECK_THAT(extra(R"(, "tools": "[{")"), KTO_CONTAINS("\"tools\" is the string \"[{\", which is not JSON"));
  CHECK_THAT(extra(R"(, "tools": [3])"), KTO_CONTAINS("\"tools\" holds the number 3"));
  CHECK_THAT(extra(R"(, "chat_template_kwargs": "x")"), KTO_CONTAINS("expected an object of variables"));
  CHECK_THAT(extra(R"(, "chat_template_kwargs": {"add_generation_prompt": false})"),
             KTO_CONTAINS("chat_template_kwargs.add_generation_prompt cannot be set by a row"));
}

TEST_CASE("rows: all malformed rows are reported together, ten in full", "[data]") {
  const TemporaryFolder folder;
  std::string content = good + "\n";
  for (int i = 0; i < 12; ++i) content += "{\"prompt\": \"x\"}\n" + good + "\n";
  const auto file = folder.write("rows.jsonl", content);
  const std::string message = error_of([&] { read_rows(file); });
  CHECK(message.find("12 malformed rows of 25 in " + file.string() + " (the first 10):\n  " + file.string() +
                     ": line 2: ") == 0);
  CHECK_THAT(message, KTO_CONTAINS(": line 20: ") && KTO_CONTAINS("\n  and 2 more"));
  CHECK_THAT(message, !KTO_CONTAINS(": line 22: "));
}

TEST_CASE("rows: the first row sets the format", "[data]") {
  CHECK_THAT(complaint(chat), KTO_CONTAINS("line 2: expected plain text rows (prompt, completion, label), as ") &&
                                  KTO_CONTAINS("line 1; this row is one of conversational rows"));
  CHECK_THAT(complaint(R"({"prompt": "a", "chosen": "b", "rejected": "c"})"),
             KTO_CONTAINS("this row is one of plain text rows (prompt, chosen, rejected)"));
  CHECK_THAT(complaint(R"({"chosen": "ab", "rejected": "ac"})", R"({"prompt": "a", "chosen": "b", "rejected": "c"})"),
             KTO_CONTAINS("expected plain text rows (prompt, chosen, rejected)"));
}

TEST_CASE("rows: columns that templates take are kept, others are named", "[data]") {
  const TemporaryFolder folder;
  const auto set = read_rows(folder.write(
      "rows.jsonl",
      R"({"prompt": [{"role": "user", "content": "a", "name": "Ann"}], "completion": [{"role": "assistant", "content": null, )"
      R"("tool_calls": [{"function": {"name": "f", "arguments": {}}}]}], "label": true, "tools": "[{\"name\": \"f\"}]", )"
      R"("chat_template_kwargs": {"enable_thinking": false}, "score": 3, "id": "x", "empty": null})"));
  CHECK(set.rows[0].tools == Json::parse(R"([{"name": "f"}])"));
  CHECK(set.rows[0].chat_template_kwargs == Json::parse(R"({"enable_thinking": false})"));
  CHECK(set.rows[0].prompt[0]["name"] == "Ann");
  CHECK(set.rows[0].completion[0].contains("tool_calls"));
  REQUIRE(set.notes.size() == 1);
  CHECK(set.notes[0] == "unused columns: id, score");
}

TEST_CASE("rows: CSV, quoted cells, and what is wrong with each record", "[data]") {
  const TemporaryFolder folder;
  const auto rows = kto::read_rows(folder.write(
      "a.csv", "prompt,completion,label\r\n\"say \"\"hi\"\", please\",\"two\nlines\",True\r\nb,c,0\r\n\r\nd,,false\n"));
  REQUIRE(rows.rows.size() == 3);
  CHECK(rows.rows[0].prompt == "say \"hi\", please");
  CHECK(rows.rows[0].completion == "two\nlines");
  CHECK(rows.rows[0].label);
  CHECK_FALSE(rows.rows[1].label);
  CHECK(rows.rows[1].source.line == 4);
  CHECK(rows.rows[2].completion == "");
  const std::string message = error_of(
      [&] { kto::read_rows(folder.write("b.csv", "prompt,completion,label\na,b\na,b,yes\na,\"b\"x,1\n\"a,b,1\n")); });
  CHECK_THAT(message, KTO_CONTAINS("line 2: has 2 cells, the header has 3") && KTO_CONTAINS("line 3: \"label\"") &&
                          KTO_CONTAINS("line 4: text follows the closing quote") &&
                          KTO_CONTAINS("line 5: a quoted cell"));
  CHECK(kto::read_rows(folder.write("c.csv", "prompt,label,prompt,completion\na,1,b,c\n")).rows[0].prompt == "a");
  CHECK(kto::read_rows(folder.write("d.tsv", "prompt\tcompletion\tlabel\na,b\tc\t1\n")).rows[0].prompt == "a,b");
  const auto cr = kto::read_rows(folder.write("e.csv", "prompt,completion,label\ra,\"b\rc\",1\r\rd,e,0\r\nf,g,1"));
  REQUIRE(cr.rows.size() == 3);
  CHECK(cr.rows[0].completion == "b\rc");
  CHECK(cr.rows[1].prompt == "d");
  CHECK(cr.rows[1].source.line == 5);
  CHECK(cr.rows[2].label);
}

TEST_CASE("rows: CSV of many columns", "[data]") {
  std::string header = "prompt,completion,label", cells = "a,b,1";
  for (int i = 0; i < 20000; ++i) header += kto::concat(",c", i), cells += ",x";
  std::string content = header + "\n";
  for (int i = 0; i < 20; ++i) content += cells + "\n";
  const TemporaryFolder folder;
  CHECK(kto::read_rows(folder.write("wide.csv", content)).rows.size() == 20);
}

TEST_CASE("rows: files that a pattern matches, in the order of their names", "[data]") {
  const TemporaryFolder folder;
  const auto row = [](const char* prompt) {
    return std::string(R"({"prompt": ")") + prompt + R"(", "completion": "c", "label": true})" + "\n";
  };
  folder.write("part-2.jsonl", row("second"));
  folder.write("part-1.jsonl", row("first"));
  folder.write("other.txt", "x");
  const auto rows = kto::read_rows(folder.path() / "part-*.jsonl");
  REQUIRE(rows.rows.size() == 2);
  CHECK(rows.rows[0].prompt == "first");
  CHECK(rows.files.size() == 2);
  CHECK_THAT(error_of([&] { kto::read_rows(folder.path() / "none-*.jsonl"); }), KTO_CONTAINS("no file matches"));
  CHECK_THAT(error_of([&] { kto::read_rows(folder.path() / "*"); }), KTO_CONTAINS("unknown kind of data file"));
}

namespace {
/// {"prompt": "p", "completion": "c", "label": true} and a line break, as gzip -n and zstd write it.
const std::string row_gz(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x28\xca\xcf\x2d\x28\x51\xb2\x52\x50\x2a\x50\xd2"
    "\x51\x50\x4a\x06\xf2\x72\x52\x4b\x32\xf3\xf3\x40\x42\xc9\x20\xa1\x9c\xc4\xa4\xd4\x1c\x20\xaf\xa4\xa8"
    "\x34\xb5\x96\x0b\x00\xe1\x2d\xf4\x56\x32\x00\x00\x00",
    63);
const std::string row_zst(
    "\x28\xb5\x2f\xfd\x00\x68\x91\x01\x00\x7b\x22\x70\x72\x6f\x6d\x70\x74\x22\x3a\x20\x22\x70\x22\x2c\x20"
    "\x22\x63\x6f\x6d\x70\x6c\x65\x74\x69\x6f\x6e\x22\x3a\x20\x22\x63\x22\x2c\x20\x22\x6c\x61\x62\x65\x6c"
    "\x22\x3a\x20\x74\x72\x75\x65\x7d\x0a",
    59);
}  // namespace

TEST_CASE("rows: compressed files, several members in one, and damaged ones", "[data]") {
  const TemporaryFolder folder;
  const std::string lines = good + "\n" + good + "\n";
  [[maybe_unused]] const auto unpacks = [&](const std::string& name, const std::string& packed) {
    CHECK(kto::read_rows(folder.write(name, packed)).rows.size() == 2);
    CHECK(kto::read_rows(folder.write(name, packed + packed)).rows.size() == 4);
    for (const std::string& bad :
         {packed.substr(0, packed.size() - 9), packed + "x", std::string("none"), std::string()})
      CHECK_THAT(error_of([&] { kto::read_rows(folder.write(name, bad)); }), KTO_CONTAINS("is not a whole"));
  };
  [[maybe_unused]] const auto missing = [&](const std::string& name, const std::string& library) {
    CHECK_THAT(error_of([&] { kto::read_rows(folder.write(name, "x")); }), KTO_CONTAINS("built without " + library));
  };
#if defined(KTO_HAS_BZIP2)
  std::string bz2(lines.size() + 700, '\0');
  auto size = static_cast<unsigned>(bz2.size());
  REQUIRE(BZ2_bzBuffToBuffCompress(bz2.data(), &size, const_cast<char*>(lines.data()),
                                   static_cast<unsigned>(lines.size()), 9, 0, 0) == BZ_OK);
  unpacks("a.jsonl.bz2", bz2.substr(0, size));
#else
  missing("a.jsonl.bz2", "bzip2");
#endif
#if defined(KTO_HAS_LZMA)
  std::string xz(lines.size() + 700, '\0');
  std::size_t end = 0;
  REQUIRE(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const std::uint8_t*>(lines.data()),
                                  lines.size(), reinterpret_cast<std::uint8_t*>(xz.data()), &end,
                                  xz.size()) == LZMA_OK);
  unpacks("a.jsonl.xz", xz.substr(0, end));
#else
  missing("a.jsonl.xz", "xz");
#endif
#if defined(KTO_HAS_ZLIB)
  CHECK(kto::read_rows(folder.write("a.jsonl.gz", row_gz)).rows.size() == 1);
  CHECK(kto::read_rows(folder.write("b.jsonl.gz", row_gz + row_gz)).rows.size() == 2);
  const std::string zeros(700, '\0');  // padding, as a tape leaves it
  CHECK(kto::read_rows(folder.write("d.jsonl.gz", row_gz + zeros)).rows.size() == 1);
  CHECK(kto::read_rows(folder.write("e.jsonl.gz", row_gz + zeros + row_gz)).rows.size() == 2);
  for (const std::string& bad : {row_gz.substr(0, row_gz.size() - 9), std::string("no gzip at all"), std::string()})
    CHECK_THAT(error_of([&] { kto::read_rows(folder.write("c.jsonl.gz", bad)); }),
               KTO_CONTAINS("is not a whole gzip file"));
#else
  CHECK_THAT(error_of([&] { kto::read_rows(folder.write("a.jsonl.gz", row_gz)); }), KTO_CONTAINS("built without zlib"));
#endif
#if defined(KTO_HAS_ZSTD)
  CHECK(kto::read_rows(folder.write("a.jsonl.zst", row_zst)).rows.size() == 1);
  CHECK(kto::read_rows(folder.write("b.jsonl.zst", row_zst + row_zst)).rows.size() == 2);
  for (const std::string& bad : {row_zst.substr(0, row_zst.size() - 4), std::string("no zstd at all"), std::string()})
    CHECK_THAT(error_of([&] { kto::read_rows(folder.write("c.jsonl.zst", bad)); }),
               KTO_CONTAINS("is not a whole zstd file"));
#else
  CHECK_THAT(error_of([&] { kto::read_rows(folder.write("a.jsonl.zst", row_zst)); }),
             KTO_CONTAINS("built without zstd"));
#endif
  const auto files = [&] {
    folder.write("set/train-1.jsonl.gz", row_gz);
    folder.write("set/train-0.json", "[]");
    return kto::data_files({.path = folder.path() / "set"}).files;
  }();
  CHECK(files.size() == 2);
}

}  // namespace test_rows
