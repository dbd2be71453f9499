// SPDX-License-Identifier: Apache-2.0
// The page of a run: what it holds of a log, and that no text of a run gets out of its place. (e2e.watching opens one.)
#include "catch.hpp"
#include "kto/train/callbacks/html_page.hpp"
#include "kto/train/callbacks/run_page.hpp"

namespace test_run_page {

using kto::Json;

TEST_CASE("a page holds the numbers and the latest samples of a log") {
  kto::RunPage page;
  page.add(1, {{"loss", 0.5}, {"kl", 0}, {"note", "text"}, {"broken", std::nan("")}, {"step", 1}});
  page.add(2, {{"loss", 1.0 / 3}});
  page.add(2, {{"eval_chat_samples", {{{"prompt", "p"}, {"policy", "a"}, {"reference", "b"}, {"more", 1}}}}});
  page.add(2, {{"eval_samples", {{{"prompt", "p"}, {"policy", 3}}, "no object"}}});
  const Json data = page.to_json();
  CHECK(data["series"]["loss"] == Json::parse("[[1, 2], [0.5, 0.333333]]"));
  CHECK(data["series"]["kl"] == Json::parse("[[1], [0]]"));
  CHECK_FALSE(data["series"].contains("note"));
  CHECK_FALSE(data["series"].contains("broken"));
  CHECK(data["samples"] == Json::parse(R"([
    {"step": 2, "set": "chat", "replies": [{"prompt": "p", "policy": "a", "reference": "b"}]},
    {"step": 2, "set": "", "replies": [{"prompt": "p"}, {}]}])"));
}

TEST_CASE("a long log takes no more room than a short one, and keeps its peaks") {
  kto::RunPage page;
  for (int step = 1; step <= 100003; ++step) page.add(step, {{"loss", step == 77777 ? 9.0 : 0.1 * (step % 3)}});
  const Json loss = page.to_json(100)["series"]["loss"];
  REQUIRE(loss.size() == 5);
  for (std::size_t i = 0; i < 4; ++i) CHECK(loss[i].size() == 100);
  CHECK(std::is_sorted(loss[0].begin(), loss[0].end()));
  CHECK(loss[1][0].get<double>() == Approx(0.1).margin(0.001));
  CHECK(*std::max_element(loss[3].begin(), loss[3].end()) == 9);
  CHECK(loss[4].get<double>() == Approx(0.1));

  const std::string reply(300000, 'x');
  for (int step = 1; step <= 20; ++step) page.add(step, {{"eval_samples", {{{"prompt", ""}, {"policy", reply}}}}});
  const Json samples = page.to_json()["samples"];
  CHECK(samples.size() == 3);  // of 1 MiB
  CHECK(samples.back()["step"] == 20);
  page.add(21, {{"eval_samples", {{{"prompt", ""}, {"policy", std::string(5000000, 'x')}}}}});
  CHECK(page.to_json()["samples"].size() == 1);
}

TEST_CASE("text of a run stays text in its page") {
  const std::string bad = "</script><script>alert(1)</script><!-- \xff \xe2\x80\xa8 \" \\ &lt; caf\xc3\xa9";
  const std::string page = kto::html_page({{"title", bad}, {"series", Json::object()}});
  const auto count = [&](std::string_view what) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = page.find(what, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  CHECK(count("<script") == 2);
  CHECK(count("</script>") == 2);
  CHECK(count("<!--") == 0);
  CHECK(count("http://") + count("https://") == 1);  // the name space of SVG
  const auto data = kto::html_page_data(page);
  REQUIRE(data);
  CHECK((*data)["title"] == "</script><script>alert(1)</script><!-- \xef\xbf\xbd \xe2\x80\xa8 \" \\ &lt; caf\xc3\xa9");
  CHECK_FALSE(kto::html_page_data("<html></html>"));
  CHECK_FALSE(kto::html_page_data(page.substr(0, page.find("\"title\"") + 3)));
}

}  // namespace test_run_page
