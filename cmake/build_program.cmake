# Whether there is a program that carries out the build: project() would only say that it found none, or that its version is odd.
cmake_path(GET CMAKE_MAKE_PROGRAM FILENAME PROGRAM_NAME)
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
elseif((CMAKE_GENERATOR MATCHES "Ninja" AND PROGRAM_NAME MATCHES "make")
       OR (CMAKE_GENERATOR MATCHES "Makefiles" AND PROGRAM_NAME MATCHES "ninja|samu"))
  # What a folder was begun with cannot be changed from here.
  message(FATAL_ERROR "${CMAKE_BINARY_DIR} was begun with '${CMAKE_GENERATOR}', and now it is ${PROGRAM_NAME} that is there to build: delete that "
                      "folder and try again. With ninja (pip install ninja) as many files are compiled at a time as there is room for.")
endif()
if(CMAKE_GENERATOR STREQUAL "Unix Makefiles" AND NOT DEFINED ENV{CMAKE_BUILD_PARALLEL_LEVEL})
  message(STATUS "make compiles one file after another, unless CMAKE_BUILD_PARALLEL_LEVEL says how many; ninja (pip install ninja) as many as "
                 "there are processors and memory for")
endif()
