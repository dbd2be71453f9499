// SPDX-License-Identifier: Apache-2.0
// The map type of JSON objects: keys in insertion order, found by hash. nlohmann::ordered_map searches linearly: the
// 90,000 tensors in the index of a large model take it 40 s.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace kto::detail {

template <class Key, class T, class Less = std::less<Key>, class Allocator = std::allocator<std::pair<const Key, T>>>
class OrderedMap : public nlohmann::ordered_map<Key, T, Less, Allocator> {
  using Base = nlohmann::ordered_map<Key, T, Less, Allocator>;
  using Items = typename Base::Container;

 public:
  OrderedMap() = default;
  explicit OrderedMap(const Allocator& allocator) : Base(allocator) {}
  template <std::input_iterator It>
  OrderedMap(It first, It last, const Allocator& allocator = Allocator()) : Base(allocator) {
    insert(first, last);
  }
  OrderedMap(std::initializer_list<std::pair<const Key, T>> items, const Allocator& allocator = Allocator())
      : OrderedMap(items.begin(), items.end(), allocator) {}

  using typename Base::const_iterator;
  using typename Base::iterator;
  using typename Base::size_type;
  using typename Base::value_type;

  iterator find(std::string_view key) { return this->begin() + place(key); }
  const_iterator find(std::string_view key) const { return this->begin() + place(key); }
  size_type count(std::string_view key) const { return find(key) == this->end() ? 0 : 1; }

  T& at(std::string_view key) { return const_cast<T&>(std::as_const(*this).at(key)); }
  const T& at(std::string_view key) const {
    const auto found = find(key);
    if (found == this->end()) throw std::out_of_range("key not found");
    return found->second;
  }

  template <class K>
  std::pair<iterator, bool> emplace(K&& key, T&& value) {
    if (const auto found = find(key); found != this->end()) return {found, false};
    Items::emplace_back(std::forward<K>(key), std::move(value));
    index();
    return {std::prev(this->end()), true};
  }
  template <class K>
  T& operator[](K&& key) {
    return emplace(std::forward<K>(key), T{}).first->second;
  }
  const T& operator[](std::string_view key) const { return at(key); }

  std::pair<iterator, bool> insert(value_type&& value) { return emplace(value.first, std::move(value.second)); }
  std::pair<iterator, bool> insert(const value_type& value) { return emplace(value.first, T(value.second)); }
  template <std::input_iterator It>
  void insert(It first, It last) {
    for (; first != last; ++first) insert(*first);
  }

  iterator erase(iterator first, iterator last) {
    const auto after = Base::erase(first, last);
    slots_.clear();
    index();
    return after;
  }
  iterator erase(iterator at) { return erase(at, std::next(at)); }
  size_type erase(std::string_view key) {
    const auto found = find(key);
    if (found == this->end()) return 0;
    erase(found);
    return 1;
  }
  void clear() {
    slots_.clear();
    Items::clear();
  }

  // These would bypass the index and leave items that no key finds.
  void emplace_back() = delete;
  void push_back() = delete;
  void pop_back() = delete;
  void resize() = delete;

 private:
  static constexpr size_type few = 16;  ///< up to here, linear search

  /// The position of `key`, or size() if it is absent.
  std::ptrdiff_t place(std::string_view key) const {
    const size_type size = this->size();
    size_type at = 0;
    if (size <= few) {
      while (at < size && this->data()[at].first != key) ++at;
      return static_cast<std::ptrdiff_t>(at);
    }
    size_type slot = first_slot(key);
    while ((at = slots_[slot]) != 0 && this->data()[at - 1].first != key) slot = next_slot(slot);
    return static_cast<std::ptrdiff_t>(at != 0 ? at - 1 : size);
  }

  /// Adds the items that are not in slots_ yet.
  void index() {
    const size_type size = this->size();
    if (size <= few) return;
    size_type done = size - 1;
    if (slots_.size() < 2 * size) {
      slots_.assign(std::bit_ceil(4 * size), 0);
      done = 0;
    }
    for (; done < size; ++done) {
      size_type slot = first_slot(this->data()[done].first);
      while (slots_[slot] != 0) slot = next_slot(slot);
      slots_[slot] = static_cast<std::uint32_t>(done + 1);
    }
  }

  size_type first_slot(std::string_view key) const { return std::hash<std::string_view>{}(key) & (slots_.size() - 1); }
  size_type next_slot(size_type slot) const { return (slot + 1) & (slots_.size() - 1); }

  /// The hash table: a power of two of slots, each 1 + the position of an item, or 0 if free. Updated when items are
  /// added, never during a look-up, so that threads may look up keys concurrently.
  std::vector<std::uint32_t> slots_;
};

}  // namespace kto::detail
