// SPDX-License-Identifier: Apache-2.0
// The script of the page that shows a run. It draws what is in the element "run": charts as SVG, sample replies, notes
// and settings. It sets text, never HTML.
#pragma once

#include <string_view>

namespace kto::detail {

/// The page after its data.
inline constexpr std::string_view html_page_tail = R"html(
</script>
<script>
"use strict";
const run = JSON.parse(document.getElementById("run").textContent), at = id => document.getElementById(id);
const kept = key => { try { return sessionStorage.getItem(key); } catch { return null; } };
const keep = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* no storage: nothing kept */ } };
const make = (tag, more = {}, ...parts) => {
  const out = Object.assign(document.createElement(tag), more);
  out.append(...parts);
  return out;
};
const draw = (tag, more = {}, ...parts) => {
  const out = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(more)) out.setAttribute(name, value);
  out.append(...parts);
  return out;
};
const number = value => {
  const size = Math.abs(value);
  if (size >= 1e12 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e");
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= unit) return +(value / (sign === "k" ? 1e3 : unit)).toPrecision(4) + sign;
  return String(+value.toPrecision(4));
};
const bytes = value => value >= 2 ** 30 ? +(value / 2 ** 30).toPrecision(3) + " GiB"
                                        : +(value / 2 ** 20).toPrecision(3) + " MiB";
const clock = seconds => seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min`
                       : seconds < 129600 ? `${+(seconds / 3600).toFixed(1)} h` : `${+(seconds / 86400).toFixed(1)} d`;

// Charts: one for each name of a number. Evaluations are dashed; a slash in some names separates several lines.
const TITLES = {loss: "Loss", "rewards/margins": "Reward margin", kl: "KL", rewards: "Rewards", logps: "Log-probs",
  learning_rate: "Learning rate", grad_norm: "Gradient norm", tokens_per_second: "Tokens per second",
  memory: "Memory", entropy: "Entropy", logits: "Mean logits"};
const HIDDEN = new RegExp("^(epoch|step|num_tokens|num_input_tokens_seen|total_flos|train_.*|count/.*|.*_sum|" +
                          "runtime|(samples|steps)_per_second)$");
function linesOf(series, other) {
  const sets = Object.keys(series).filter(key => /^eval_(.+_)?runtime$/.test(key)).map(key => key.slice(0, -7));
  const byLength = [...sets].sort((a, b) => b.length - a.length), out = [];
  for (const [key, [steps, values, lows, highs, latest]] of Object.entries(series)) {
    const set = byLength.find(prefix => key.startsWith(prefix)) ?? "";
    const name = key.slice(set.length), part = /^(rewards|logps|logits|memory)\/(?!margins)(.+)$/.exec(name);
    if (HIDDEN.test(name)) continue;
    const side = part ? part[2] : "", index = sets.indexOf(set);
    const color = side === "chosen" || side === "rejected" ? side : index >= 0 ? `set${index % 4}`
                                                           : side.startsWith("device") ? "set0" : "accent";
    const label = [other, side, set && (set.slice(5, -1) || "eval")].filter(Boolean).join(", ") || "train";
    const dash = index < 0 ? "" : ["6 4", "2 3", "9 3 2 3", "1 4"][index % 4];
    const points = by => steps.map((step, i) => [step, by[i]]);
    out.push({chart: part ? part[1] : name, label, color: `var(--${color})`, dash, faint: !!other,
              points: points(values), latest: latest ?? values[values.length - 1],
              band: lows ? [points(lows), points(highs)] : null});
  }
  return out.sort((a, b) => !!a.dash - !!b.dash);
}
const columns = log => {  // of the entries of a trainer_state.json
  const out = {};
  for (const entry of log)
    for (const [key, value] of Object.entries(entry))
      if (typeof value === "number" && typeof entry.step === "number") {
        out[key] ??= [[], []];
        out[key][0].push(entry.step);
        out[key][1].push(value);
      }
  return out;
};
const smooth = (points, weight) => {
  let mean = 0, share = 0;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    share = weight * share + 1 - weight;
    return [x, mean / share];
  });
};
const ticks = (low, high, count) => {
  const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(m => m * unit >= rough * 0.999) * unit, out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) out.push(i * step);
  return out;
};

function chart(name, lines) {
  const text = name === "memory" ? bytes : number, weight = Number(at("smoothing").value);
  const legend = make("div", {className: "legend"}), plot = draw("svg", {class: "plot", role: "img"});
  const card = make("div", {className: "card"}, make("h2", {textContent: TITLES[name] ?? name}), legend, plot);
  plot.setAttribute("aria-label", card.firstChild.textContent);
  for (const line of lines) line.shown = weight > 0 && !line.dash ? smooth(line.points, weight) : line.points;
  const tell = step => legend.replaceChildren(...(step === undefined ? [] : [`step ${step}`]), ...lines.map(line => {
    const before = step === undefined ? [] : line.points.filter(([x]) => x <= step);
    const value = step === undefined ? line.latest : before.length ? before[before.length - 1][1] : null;
    const mark = draw("svg", {width: 18, height: 8}, draw("line", {x2: 18, y1: 4, y2: 4, stroke: line.color,
      "stroke-width": 2, "stroke-dasharray": line.dash, opacity: line.faint ? 0.5 : 1}));
    return make("span", {}, mark, line.label + " ", make("b", {textContent: value === null ? "-" : text(value)}));
  }));
  tell();
  card.paint = () => {
    const width = plot.clientWidth || 400, height = 210;
    const all = lines.flatMap(line => [...line.points, ...(line.band ?? []).flat()]);
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [x, y] of all) [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
    if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
    const room = y1 > y0 ? 0.06 * (y1 - y0) : Math.abs(y0) * 0.1 || 0.1;
    if (y0 < 0 || y0 - room >= 0) y0 -= room; else y0 = 0;  // what is never negative begins at 0
    y1 += room;
    const unit = name === "memory" ? (y1 >= 2 ** 30 ? 2 ** 30 : 2 ** 20) : 1;
    const heights = ticks(y0 / unit, y1 / unit, 4).map(y => y * unit);
    const left = 10 + 6.4 * Math.max(...heights.map(y => text(y).length));
    const right = width - 10, top = 8, bottom = height - 20;
    const toX = x => left + (x - x0) / (x1 - x0) * (right - left);
    const toY = y => bottom - (y - y0) / (y1 - y0) * (bottom - top);
    plot.replaceChildren();
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const y of heights)
      plot.append(draw("line", {class: "rule", x1: left, x2: right, y1: toY(y), y2: toY(y)}),
                  draw("text", {x: left - 6, y: toY(y) + 4, "text-anchor": "end"}, text(y)));
    for (const x of ticks(x0, x1, Math.max(3, (right - left) / 90)).filter(Number.isInteger))
      plot.append(draw("text", {x: Math.min(toX(x), width - 3.4 * number(x).length), y: height - 4,
                                "text-anchor": "middle"}, number(x)));
    for (const line of lines) {
      const path = points => "M" + points.map(([x, y]) => `${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("L");
      const look = {fill: "none", stroke: line.color, "stroke-dasharray": line.dash};
      if (line.band)
        plot.append(draw("path", {fill: line.color, opacity: 0.2,
                                  d: path([...line.band[0], ...[...line.band[1]].reverse()])}));
      if (line.shown !== line.points) plot.append(draw("path", {...look, d: path(line.points), opacity: 0.25}));
      plot.append(draw("path", {...look, d: path(line.shown), opacity: line.faint ? 0.5 : 1}));
      if (line.points.length < (right - left) / 14)
        for (const [cx, cy] of line.points.map(([x, y]) => [toX(x), toY(y)]))
          plot.append(draw("circle", {cx, cy, r: 2.2, fill: line.color, opacity: line.faint ? 0.5 : 1}));
    }
    const cursor = draw("line", {class: "cursor", y1: top, y2: bottom, visibility: "hidden"});
    plot.append(cursor);
    plot.onpointermove = event => {
      const x = x0 + (event.clientX - plot.getBoundingClientRect().left - left) / (right - left) * (x1 - x0);
      const nearest = all.reduce((best, [step]) => Math.abs(step - x) < Math.abs(best - x) ? step : best, all[0][0]);
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, toX(nearest));
      cursor.setAttribute("visibility", "visible");
      tell(nearest);
    };
    plot.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); tell(); };
  };
  return card;
}

let compared = null;
function drawCharts() {
  const charts = new Map(Object.keys(TITLES).map(name => [name, []]));
  for (const line of [...linesOf(run.series, ""), ...(compared ? linesOf(compared.series, compared.name) : [])])
    if (line.points.length) charts.set(line.chart, [...(charts.get(line.chart) ?? []), line]);
  const cards = [...charts].filter(([, lines]) => lines.length).map(([name, lines]) => chart(name, lines));
  at("charts").replaceChildren(...cards);
  for (const card of cards) card.paint();
}

function drawStatus() {
  const age = Date.now() / 1000 - run.updated, silent = run.status === "running" && age > 60 + 20 * run.every;
  const word = silent ? "silent" : run.status;
  const parts = [make("span", {className: "state " + word, textContent: word}),
    `step ${run.step} of ${run.num_steps}`, `epoch ${+run.epoch.toFixed(2)}`];
  if (word === "running" && run.seconds_left > 0) parts.push(`about ${clock(run.seconds_left)} left`);
  parts.push(silent ? `last written ${clock(age)} ago: an evaluation is long, or the run was killed`
                    : `written ${new Date(run.updated * 1000).toLocaleString()}`);
  at("status").replaceChildren(...parts.map(part => part.tagName ? part : make("span", {textContent: part})));
  at("title").textContent = run.title;
  document.title = `${Math.floor(100 * run.step / Math.max(1, run.num_steps))}% ${run.title}`;
  at("progress").value = run.step / Math.max(1, run.num_steps);
  at("following").hidden = run.status !== "running";
}

function drawSamples() {
  if (!run.samples.length) return;
  const body = make("div"), choice = make("select", {ariaLabel: "evaluation"});
  run.samples.forEach((of, i) => choice.append(make("option", {value: i,
    textContent: `step ${of.step}` + (of.set ? `, ${of.set}` : "")})));
  const show = () => {
    keep("evaluation", Number(choice.value) === run.samples.length - 1 ? "" : choice.value);
    body.replaceChildren(...run.samples[choice.value].replies.map(reply => {
      const said = name => make("div", {className: name}, make("h3", {textContent: name}),
                                make("p", {className: "said", textContent: reply[name]}));
      const replies = ["policy", "reference"].filter(name => name in reply).map(said);
      return make("div", {className: "sample"}, said("prompt"), make("div", {className: "replies"}, ...replies));
    }));
  };
  const move = by => () => {
    choice.value = Math.min(run.samples.length - 1, Math.max(0, Number(choice.value) + by));
    show();
  };
  choice.value = run.samples.length - 1;
  if (kept("evaluation") && run.samples[kept("evaluation")]) choice.value = kept("evaluation");
  choice.onchange = show;
  at("samples").append(make("div", {className: "line"}, make("h2", {textContent: "Sample replies"}),
    make("span", {}, make("button", {textContent: "<", ariaLabel: "earlier", onclick: move(-1)}), " ", choice, " ",
                  make("button", {textContent: ">", ariaLabel: "later", onclick: move(1)}))), body);
  at("samples").hidden = false;
  show();
}

function drawLists() {
  at("notes").hidden = !run.notes.length;
  at("notes").lastElementChild.append(...run.notes.map(text => make("li", {textContent: text})));
  const rows = Object.entries(run.settings);
  at("settings").hidden = !rows.length;
  at("settings").lastElementChild.append(...rows.map(([name, value]) => make("tr", {}, make("td", {textContent: name}),
    make("td", {textContent: typeof value === "string" ? value : JSON.stringify(value)}))));
}

at("smoothing").value = kept("smoothing") ?? 0;
at("follow").checked = kept("follow") !== "no";
at("smoothing").oninput = () => { keep("smoothing", at("smoothing").value); drawCharts(); };
at("follow").onchange = () => keep("follow", at("follow").checked ? "yes" : "no");
at("other").onchange = async () => {
  const file = at("other").files[0];
  try {
    const series = file && columns(JSON.parse(await file.text()).log_history);
    compared = file ? {name: file.name.replace(/\.json$/, ""), series} : null;
    drawCharts();
  } catch (error) { alert(`${file.name} is not a trainer_state.json: ${error.message}`); }
};
drawStatus();
drawSamples();
drawLists();
drawCharts();
let width = innerWidth;
onresize = () => { if (innerWidth !== width) { width = innerWidth; drawCharts(); } };
scrollTo(0, Number(kept("scroll") ?? 0));
keep("scroll", 0);
setInterval(() => {
  drawStatus();
  const isRead = compared || document.hidden || String(getSelection());
  if (run.status !== "running" || !at("follow").checked || isRead) return;
  keep("scroll", scrollY);
  location.reload();
}, Math.max(5000, 1000 * run.every));
</script>
</body>
</html>
)html";

}  // namespace kto::detail
