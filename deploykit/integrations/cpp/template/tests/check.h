// Checks that say what failed; a test program returns how many did.
#ifndef DEPLOYKIT_CHECK_H
#define DEPLOYKIT_CHECK_H

#include <cstdio>
#include <exception>
#include <string>

#include "deploykit/error.h"

namespace check {

inline int failures = 0;

inline void that(bool is_true, const char* text, int line) {
  if (is_true) return;
  ++failures;
  std::fprintf(stderr, "line %d: %s does not hold\n", line, text);
}

// The call throws deploykit::Error, and its message has these words.
template <class Call>
void refused(const Call& call, const std::string& words, int line) {
  std::string seen = "nothing was refused";
  try {
    call();
  } catch (const deploykit::Error& error) {
    seen = error.what();
    if (seen.find(words) != std::string::npos) return;
  }
  ++failures;
  std::fprintf(stderr, "line %d: expected \"%s\", got \"%s\"\n", line, words.c_str(), seen.c_str());
}

// Run a test program's body; what escapes is a failure.
template <class Body>
int run(const Body& body) noexcept {
  try {
    body();
  } catch (const std::exception& error) {
    ++failures;
    std::fprintf(stderr, "%s\n", error.what());
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(condition) check::that((condition), #condition, __LINE__)
#define REFUSED(expression, words) check::refused([&] { static_cast<void>(expression); }, words, __LINE__)

#endif
