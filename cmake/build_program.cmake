# Whether there is a program that carries out the build: project() would only say that it found none.
if(NOT CMAKE_MAKE_PROGRAM AND CMAKE_GENERATOR MATCHES "^(Ninja|Unix Makefiles)")
  if(CMAKE_GENERATOR MATCHES "Ninja")
    find_program(FOUND_PROGRAM NAMES ninja-build ninja samu NO_CACHE)
  else()
    find_program(FOUND_PROGRAM NAMES gmake make smake NO_CACHE)
  endif()
  if(NOT FOUND_PROGRAM)
    message(FATAL_ERROR "There is no program on the PATH that builds '${CMAKE_GENERATOR}'. Install ninja (pip install ninja), and with plain "
                        "cmake choose it by -G Ninja.")
  endif()
  unset(FOUND_PROGRAM)
endif()
if(CMAKE_GENERATOR STREQUAL "Unix Makefiles" AND NOT DEFINED ENV{CMAKE_BUILD_PARALLEL_LEVEL})
  message(STATUS "make compiles one file after another, unless CMAKE_BUILD_PARALLEL_LEVEL says how many; ninja (pip install ninja) as many as "
                 "there are processors and memory for")
endif()
