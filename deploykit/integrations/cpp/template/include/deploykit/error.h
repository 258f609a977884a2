// The one exception of these headers: what was seen and what is allowed in what(), what to do about it in hint().
#ifndef DEPLOYKIT_ERROR_H
#define DEPLOYKIT_ERROR_H

#include <stdexcept>
#include <string>
#include <utility>

namespace deploykit {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = {}) : std::runtime_error(message), hint_(std::move(hint)) {}

  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

}  // namespace deploykit

#endif
