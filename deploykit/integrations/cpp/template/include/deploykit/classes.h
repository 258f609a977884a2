// From logits to ranked classes with probabilities and names.
#ifndef DEPLOYKIT_CLASSES_H
#define DEPLOYKIT_CLASSES_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/model.h"

namespace deploykit {

struct Prediction {
  int class_index;
  std::string label;  // "class 7" where the classes have no names
  float probability;  // after softmax, 0 to 1
  float logit;        // before
};

// The name of a class.
inline std::string label_of(const Model& model, int class_index) {
  const auto index = static_cast<std::size_t>(class_index);
  return model.labels.empty() ? "class " + std::to_string(class_index) : std::string(model.labels[index]);
}

// Probabilities of one row of logits; they sum to 1. Large logits do not overflow.
inline std::vector<float> softmax(const float* logits, std::size_t count) {
  const float most = *std::max_element(logits, logits + count);
  std::vector<float> powers(count);
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    powers[i] = std::exp(logits[i] - most);
    sum += static_cast<double>(powers[i]);
  }
  for (float& power : powers) power = static_cast<float>(static_cast<double>(power) / sum);
  return powers;
}

// The likeliest classes of one row of logits, best first; ties in class order. Throws Error: NaN or infinity, of which sorting
// would make a class, or top below 1.
inline std::vector<Prediction> rank(const Model& model, const float* logits, int top = 5) {
  const auto count = static_cast<std::size_t>(model.num_classes);
  if (top < 1) throw Error("top is " + std::to_string(top) + ", expected 1 or more");
  if (!std::all_of(logits, logits + count, [](float logit) { return std::isfinite(logit); })) {
    throw Error("the network answers with NaN or infinity", "try --precision fp32; deploykit convert finds what FP16 cannot hold");
  }
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  order.resize(std::min(count, static_cast<std::size_t>(top)));
  const std::vector<float> probabilities = softmax(logits, count);
  std::vector<Prediction> best;
  for (const int index : order)
    best.push_back({index, label_of(model, index), probabilities[static_cast<std::size_t>(index)], logits[index]});
  return best;
}

}  // namespace deploykit

#endif
