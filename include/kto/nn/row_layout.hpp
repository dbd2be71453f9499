// SPDX-License-Identifier: Apache-2.0
// How the segments of a row lie in what an attention kernel for a device takes: index tensors, which are made and sent
// once for all layers of a pass.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/core/torch.hpp"

namespace kto::detail {

/// What a layout is made of.
struct RowSegments {
  std::vector<Segment> segments;
  std::vector<KeyRange> ranges = {};  ///< the keys of each segment; empty: causal
  std::int64_t num_rows = 0;          ///< of keys: the row's, or an encoder's
  bool own_prefix = true;  ///< whether prefixes are tokens of the row itself; else their ids follow the row's
  at::Device device = at::kCPU;
  friend bool operator==(const RowSegments&, const RowSegments&) = default;
};

/// The Layout, which is made from RowSegments and keeps them as `what`. The layers of a pass share one, and so do the
/// policy and its reference: the last few are kept, for as long as the process lives (a destructor would meet a device
/// that is gone).
template <class Layout>
std::shared_ptr<const Layout> row_layout(RowSegments what) {
  struct Memo {
    std::mutex mutex;
    std::array<std::shared_ptr<const Layout>, 4> layouts;  // the newest first
  };
  static Memo& memo = *new Memo;
  const std::lock_guard lock(memo.mutex);
  const auto found = std::ranges::find_if(memo.layouts, [&](const auto& one) { return one && one->what == what; });
  if (found != memo.layouts.end()) return *found;
  std::ranges::rotate(memo.layouts, memo.layouts.end() - 1);
  memo.layouts[0] = std::make_shared<const Layout>(std::move(what));
  return memo.layouts[0];
}

}  // namespace kto::detail
