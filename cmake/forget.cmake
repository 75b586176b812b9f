# CMake keeps in the build folder what it found at the first try. Where a later try would find another compiler, nvcc or torch, or an
# earlier try failed, that is forgotten here, before project(): nobody who installs with pip knows of the folder to delete it.
# What is named on the command line (-D) stays.
cmake_path(CONVERT "$ENV{PATH}" TO_CMAKE_PATH_LIST SEARCHED)
set(FINGERPRINT "")
foreach(variable CXX CXXFLAGS CUDACXX CUDAFLAGS CUDAHOSTCXX)
  string(APPEND FINGERPRINT "${variable}=$ENV{${variable}};")
endforeach()
foreach(program c++ g++ clang++ nvcc)
  find_program(FOUND_PROGRAM ${program} PATHS ${SEARCHED} NO_DEFAULT_PATH NO_CACHE)
  string(APPEND FINGERPRINT "${program}=${FOUND_PROGRAM};")
  unset(FOUND_PROGRAM)
endforeach()
# The Python is named by scikit-build-core and make; its torch may be another than before.
string(APPEND FINGERPRINT "Python=${Python_EXECUTABLE};")

foreach(variable CMAKE_CXX_COMPILER CMAKE_CUDA_COMPILER CMAKE_MAKE_PROGRAM)
  if(${variable} AND IS_ABSOLUTE "${${variable}}" AND NOT EXISTS "${${variable}}")
    set(DGDD_FINGERPRINT "" CACHE INTERNAL "")
  endif()
endforeach()

if(EXISTS "${CMAKE_BINARY_DIR}/CMakeFiles/${CMAKE_VERSION}" AND NOT DGDD_FINGERPRINT STREQUAL FINGERPRINT)
  message(STATUS "Looking for the compilers, Python and torch anew")
  file(REMOVE_RECURSE "${CMAKE_BINARY_DIR}/CMakeFiles/${CMAKE_VERSION}")
  get_cmake_property(CACHED CACHE_VARIABLES)
  foreach(variable ${CACHED})
    get_property(origin CACHE ${variable} PROPERTY HELPSTRING)
    if(variable MATCHES "^(CMAKE_(CXX|CUDA)_|CMAKE_(AR|NM|LINKER|RANLIB|STRIP|OBJCOPY|OBJDUMP|MAKE_PROGRAM)$|_?Python_|pybind11_DIR|TORCH_|DGDD_CXX_)"
       AND NOT origin MATCHES "command line" AND NOT variable STREQUAL "Python_EXECUTABLE")
      unset(${variable} CACHE)
    endif()
  endforeach()
endif()
include("${CMAKE_BINARY_DIR}/CMakeInit.txt" OPTIONAL)  # what scikit-build-core sets
set(DGDD_FINGERPRINT "" CACHE INTERNAL "What the build found last, once it was configured")
