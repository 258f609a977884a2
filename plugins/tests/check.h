// The least that a test needs: a check that names itself and its line, and a count of those that failed.
#ifndef DEPLOYKIT_CHECK_H
#define DEPLOYKIT_CHECK_H

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      ++failures;                                                                    \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                                \
  } while (false)

#endif
