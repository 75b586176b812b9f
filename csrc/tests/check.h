// What the C++ tests need of a test framework: conditions that are counted and told, not thrown.
#pragma once

#include <iostream>
#include <sstream>
#include <string>

namespace dgdd::tests {

inline int failures = 0;

// Tells where a condition does not hold, with whatever explains it; the first few times.
template <class... Values>
void check(bool holds, const char* condition, const char* file, int line, const Values&... values) {
  if (holds || ++failures > 20) return;
  std::ostringstream text;
  text << file << ":" << line << ": not true: " << condition;
  ((text << "\n  " << values), ...);
  std::cerr << text.str() << std::endl;
}

// The exit status of a test program.
inline int result() {
  if (failures == 0)
    std::cout << "passed" << std::endl;
  else
    std::cerr << failures << " failures" << std::endl;
  return failures == 0 ? 0 : 1;
}

}  // namespace dgdd::tests

#define CHECK(condition, ...) \
  dgdd::tests::check((condition), #condition, __FILE__, __LINE__ __VA_OPT__(, ) __VA_ARGS__)
