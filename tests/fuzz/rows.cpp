// SPDX-License-Identifier: Apache-2.0
// A data set's file: JSON Lines or an array of rows, or CSV.
#include "kto/data/rows.hpp"

#include "fuzz.hpp"

void fuzz::rows(std::string_view bytes) { kto::read_rows(file("train.jsonl", bytes)); }

void fuzz::csv(std::string_view bytes) { kto::read_rows(file("train.csv", bytes)); }
