// Options of the programs here, and how they end: 0 done, 1 failed, 2 misused; results on stdout, errors and hints on stderr.
#ifndef DEPLOYKIT_COMMAND_LINE_H
#define DEPLOYKIT_COMMAND_LINE_H

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "deploykit/error.h"

namespace deploykit {

// The request itself is wrong: exit code 2.
class Misuse : public Error {
 public:
  using Error::Error;
};

// Takes `--name value` pairs out of the arguments; what is left are the plain ones.
class Arguments {
 public:
  Arguments(int count, char** values) : left_(values + std::min(count, 1), values + count) {}

  std::string option(std::string_view name, const std::string& if_absent) {
    const auto found = std::find(left_.begin(), left_.end(), name);
    if (found == left_.end()) return if_absent;
    if (found + 1 == left_.end()) throw Misuse(std::string(name) + " needs a value");
    const std::string value = *(found + 1);
    left_.erase(found, found + 2);
    return value;
  }
  bool flag(std::string_view name) {
    const auto found = std::find(left_.begin(), left_.end(), name);
    if (found == left_.end()) return false;
    left_.erase(found);
    return true;
  }
  // What is left: no options, and `least` to `most` plain arguments.
  std::vector<std::string> plain(std::size_t least, std::size_t most, const std::string& usage) const {
    for (const std::string& one : left_) {
      if (one.size() > 1 && one[0] == '-') throw Misuse("unknown option " + one, usage);
    }
    if (left_.size() < least || left_.size() > most) throw Misuse(std::to_string(left_.size()) + " arguments", usage);
    return left_;
  }

 private:
  std::vector<std::string> left_;
};

// A whole number from `least` to `most`. Throws Misuse.
inline int number_of(const std::string& text, const std::string& what, int least, int most) {
  const bool is_negative = !text.empty() && text[0] == '-';
  const std::string digits = text.substr(is_negative ? 1 : 0);
  const bool is_number = !digits.empty() && digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string::npos;
  const int value = is_number ? std::stoi(text) : 0;
  if (!is_number || value < least || value > most) {
    throw Misuse(what + " is " + text + ", expected " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

// Run a program's body, with every error told on stderr.
template <class Body>
int run_program(int count, char** values, const Body& body) noexcept {
  try {
    Arguments arguments(count, values);
    return body(arguments);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    if (!error.hint().empty()) std::fprintf(stderr, "hint: %s\n", error.hint().c_str());
    return dynamic_cast<const Misuse*>(&error) != nullptr ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

}  // namespace deploykit

#endif
