// SPDX-License-Identifier: Apache-2.0
// The page that shows a run: one file with style, script (html_script.hpp) and data, which loads nothing.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kto/io/json.hpp"
#include "kto/train/callbacks/html_script.hpp"

namespace kto {

namespace detail {

/// The page up to its data.
inline constexpr std::string_view html_page_head = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>kto run</title>
<style>
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2230; --dim: #667085; --rule: #e3e6ec;
  --accent: #2f6fde; --chosen: #16873d; --rejected: #d0342c;
  --set0: #d97706; --set1: #8b3fd9; --set2: #0f8b8d; --set3: #b83280; }
@media (prefers-color-scheme: dark) { :root { --back: #12151b; --card: #1b1f27; --text: #e6e9ef; --dim: #98a2b3;
  --rule: #2d333f; --accent: #6ea8ff; --chosen: #4cc776; --rejected: #ff7b72;
  --set0: #f5a524; --set1: #c08bff; --set2: #3fc9cb; --set3: #f27eb2; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 16px; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header, main { max-width: 1500px; margin: 0 auto; }
h1 { font-size: 20px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0; color: var(--text); }
h3 { font-size: 12px; margin: 0 0 4px; color: var(--dim); font-weight: 600; }
.line { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 16px; margin: 8px 0; color: var(--dim); }
.state { border-radius: 10px; padding: 1px 10px; font-weight: 600; color: #fff; background: #667085; }
.state.running { background: #2f6fde; } .state.finished { background: #16873d; } .state.stopped { background: #b54708; }
progress { width: 100%; height: 8px; accent-color: var(--accent); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px; min-width: 0; }
.grid .card { display: flex; flex-direction: column; }
.section { margin-top: 12px; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; color: var(--dim); font-size: 13px; min-height: 20px;
  font-variant-numeric: tabular-nums; }
.legend b { color: var(--text); font-weight: 600; }
.legend svg { vertical-align: middle; margin-right: 5px; }
.plot { display: block; width: 100%; height: 210px; touch-action: pan-y; margin-top: auto; }
.plot text { fill: var(--dim); font-size: 11px; }
.plot .rule { stroke: var(--rule); } .plot .cursor { stroke: var(--dim); stroke-dasharray: 2 3; }
.plot path { stroke-width: 1.8; stroke-linejoin: round; }
.sample { border-top: 1px solid var(--rule); padding: 12px 0 4px; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 12px; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 10px; max-height: 24em; overflow-y: auto; }
.policy { border-left: 3px solid var(--accent); padding-left: 10px; }
.reference { border-left: 3px solid var(--dim); padding-left: 10px; }
.prompt { color: var(--dim); }
button, select { font: inherit; padding: 2px 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td { border-top: 1px solid var(--rule); padding: 3px 12px 3px 0; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: var(--dim); white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; }
ul { margin: 8px 0 0; padding-left: 20px; } li { overflow-wrap: anywhere; }
</style>
</head>
<body>
<header>
<h1 id="title"></h1>
<div class="line" id="status"></div>
<progress id="progress" max="1" value="0"></progress>
<div class="line">
<label>Smoothing <input type="range" id="smoothing" min="0" max="0.98" step="0.02" value="0"></label>
<label id="following"><input type="checkbox" id="follow" checked> reload while it runs</label>
<label>Compare with a trainer_state.json: <input type="file" id="other" accept=".json,application/json"></label>
</div>
</header>
<main>
<noscript>This page draws its charts with a script.</noscript>
<div class="grid" id="charts"></div>
<div class="card section" id="samples" hidden></div>
<details class="card section" id="notes" hidden><summary>Notes</summary><ul></ul></details>
<details class="card section" id="settings" hidden><summary>Settings</summary><table></table></details>
</main>
<script type="application/json" id="run">
)html";

}  // namespace detail

/// The page of `run`, in the form that detail::HtmlWriter makes. Its text may be anything: no "<" of it reaches the
/// HTML, and bytes that are not UTF-8 are replaced.
inline std::string html_page(const Json& run) {
  std::string data = run.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace), safe;
  safe.reserve(data.size() + detail::html_page_head.size() + detail::html_page_tail.size());
  safe += detail::html_page_head;
  for (const char c : data)
    if (c == '<')
      safe += "\\u003c";  // only strings have it, and there this is the same text
    else
      safe += c;
  return safe.append(detail::html_page_tail);
}

/// The data of a page that html_page() made; nothing if `page` is something else.
inline std::optional<Json> html_page_data(std::string_view page) {
  constexpr std::string_view start = "<script type=\"application/json\" id=\"run\">";
  const std::size_t found = page.find(start);
  if (found == std::string_view::npos) return std::nullopt;
  page.remove_prefix(found + start.size());
  Json data = Json::parse(page.substr(0, page.find("</script>")), nullptr, /*allow_exceptions=*/false);
  return data.is_object() ? std::optional(std::move(data)) : std::nullopt;
}

}  // namespace kto
