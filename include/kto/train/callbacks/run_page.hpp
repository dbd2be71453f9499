// SPDX-License-Identifier: Apache-2.0
// What the page of a run shows: its log as columns of numbers, thinned, and the latest sample replies.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "kto/io/json.hpp"

namespace kto {

/// One number of the log over the steps of a run.
struct MetricSeries {
  std::vector<std::int64_t> steps;
  std::vector<double> values;

  void add(std::int64_t step, double value) {
    steps.push_back(step);
    values.push_back(value);
  }
};

/// `series` in at most `most` points. The points of a longer series are means of stretches, with the least and the
/// greatest value of each in `lows` and `highs`.
struct ThinnedSeries : MetricSeries {
  std::vector<double> lows = {}, highs = {};  ///< empty if nothing was left out

  ThinnedSeries(const MetricSeries& series, std::size_t most) {
    const std::size_t count = series.values.size();
    if (count <= most) {
      static_cast<MetricSeries&>(*this) = series;
      return;
    }
    for (std::size_t i = 0; i < most; ++i) {
      const std::size_t begin = count * i / most, end = count * (i + 1) / most;
      const auto first = series.values.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto last = series.values.begin() + static_cast<std::ptrdiff_t>(end);
      add(series.steps[(begin + end) / 2], std::accumulate(first, last, 0.0) / static_cast<double>(end - begin));
      lows.push_back(*std::min_element(first, last));
      highs.push_back(*std::max_element(first, last));
    }
  }
};

class RunPage {
 public:
  /// Adds the numbers and the sample replies of a log entry.
  void add(std::int64_t step, const Json& entry) {
    for (const auto& [key, value] : entry.items()) {
      if (value.is_number() && std::isfinite(value.get<double>())) series_[key].add(step, value.get<double>());
      if (key.ends_with("samples") && value.is_array()) add_samples(step, key, value);
    }
  }

  /// {"series": {name: [steps, values]}, "samples": [{"step", "set", "replies"}]}. A series of more than `most` points
  /// is [steps, values, lows, highs, the latest value]; see ThinnedSeries.
  Json to_json(std::size_t most = 500) const {
    Json series = Json::object(), samples = Json::array();
    const auto numbers = [](const std::vector<double>& values) {
      Json out = Json::array();
      for (const double value : values) out.push_back(short_number(value));
      return out;
    };
    for (const auto& [name, all] : series_) {
      const ThinnedSeries shown(all, most);
      series[name] = {shown.steps, numbers(shown.values)};
      if (!shown.lows.empty())
        series[name].insert(series[name].end(),
                            {numbers(shown.lows), numbers(shown.highs), short_number(all.values.back())});
    }
    for (const Json& one : samples_) samples.push_back(one);
    return {{"series", std::move(series)}, {"samples", std::move(samples)}};
  }

 private:
  static constexpr std::size_t max_sample_bytes = 1 << 20;  // of all that are shown

  /// `value` with as many digits as a chart can show.
  static double short_number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return std::strtod(text, nullptr);
  }

  /// Adds the replies of an evaluation and drops the oldest ones that are too much; the latest always stay.
  void add_samples(std::int64_t step, const std::string& key, const Json& list) {
    std::string set = key.substr(0, key.size() - std::string_view("samples").size());  // "eval_", "eval_NAME_"
    if (set.starts_with("eval_")) set.erase(0, 5);
    if (set.ends_with('_')) set.pop_back();
    Json replies = Json::array();
    for (const Json& sample : list) {
      Json texts = Json::object();
      for (const char* name : {"prompt", "policy", "reference"})
        if (sample.is_object() && sample.contains(name) && sample[name].is_string()) texts[name] = sample[name];
      replies.push_back(std::move(texts));
    }
    samples_.push_back({{"step", step}, {"set", std::move(set)}, {"replies", std::move(replies)}});
    const auto size = [](const Json& one) {
      std::size_t bytes = 0;
      for (const Json& texts : one["replies"])
        for (const Json& text : texts) bytes += text.get_ref<const std::string&>().size();
      return bytes;
    };
    sample_bytes_ += size(samples_.back());
    for (; samples_.size() > 1 && sample_bytes_ > max_sample_bytes; samples_.pop_front())
      sample_bytes_ -= size(samples_.front());
  }

  std::map<std::string, MetricSeries> series_;
  std::deque<Json> samples_;
  std::size_t sample_bytes_ = 0;
};

}  // namespace kto
