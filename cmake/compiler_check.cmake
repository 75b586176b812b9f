# Whether the compiler is new enough: one that knows some of C++20 would fail within minutes, in words about a line of ours.
if(cxx_std_20 IN_LIST CMAKE_CXX_COMPILE_FEATURES)
  include(CheckCXXSourceCompiles)
  check_cxx_source_compiles("#include <bit>\nint main() { return std::bit_cast<int>(1.0f) == 0; }" DGDD_CXX_IS_NEW)
endif()
if(NOT DGDD_CXX_IS_NEW)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) knows no C++20, or not all that is "
                      "needed of it. Name a newer compiler in the environment variable CXX: GCC from 11 on, Clang from 14 on.")
endif()
