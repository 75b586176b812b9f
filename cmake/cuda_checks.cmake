# What goes wrong with CUDA only after minutes of compiling, or on the GPU, said before. Each sets the variable named first in the
# caller: to a message with its cure, or to nothing where all is well.

# The operators carry the CUDA runtime of nvcc, which asks for a driver as new; torch may run on an older one.
function(cuda_newer_than_torchs fault nvcc_version torch_version)
  string(REGEX MATCH "^[0-9]+" nvcc_major "${nvcc_version}")
  string(REGEX MATCH "^[0-9]+" torch_major "${torch_version}")
  set(${fault} "" PARENT_SCOPE)
  if(torch_major AND nvcc_major GREATER torch_major)
    string(CONCAT message "nvcc is of CUDA ${nvcc_version} and this torch of CUDA ${torch_version}: on a driver that is new enough for torch alone "
                 "the operators would fail. Name an nvcc of CUDA ${torch_major} in the environment variable CUDACXX, install a torch for "
                 "CUDA ${nvcc_major}, or build without CUDA by DGDD_CUDA=OFF.")
    set(${fault} "${message}" PARENT_SCOPE)
  endif()
endfunction()

# Why the nvcc of CUDACXX or of the PATH compiles nothing: mostly a host compiler that is too new for it.
function(nvcc_refusal fault)
  set(${fault} "" PARENT_SCOPE)
  if("$ENV{CUDACXX}" STREQUAL "")
    find_program(nvcc nvcc NO_CACHE)
  else()
    set(nvcc "$ENV{CUDACXX}")
  endif()
  if(NOT nvcc)
    return()
  endif()
  set(host "$ENV{CUDAHOSTCXX}")
  if(host)
    set(named -ccbin "${host}")
  endif()
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/empty.cu" "")
  execute_process(
    COMMAND "${nvcc}" ${named} -c "${CMAKE_CURRENT_BINARY_DIR}/empty.cu" -o "${CMAKE_CURRENT_BINARY_DIR}/empty.o"
    OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE failed)
  if(failed)
    string(REGEX MATCH "[^\n]*(unsupported|[Ee]rror|fatal|No such file)[^\n]*" reason "${output}")
    string(CONCAT message "${nvcc} compiles nothing: ${reason} (${failed}). If it does not know the host compiler, name one that it does in the "
                 "environment variable CUDAHOSTCXX, such as CUDAHOSTCXX=g++-13.")
    set(${fault} "${message}" PARENT_SCOPE)
  endif()
endfunction()

# How many files may be compiled at a time in `available` MiB of memory, at least one, for `usual` that there are processors for.
set(DGDD_NVCC_MEMORY 512)  # MiB; nvcc and GCC were seen to take up to 260 for a file of ours
function(nvcc_jobs jobs available usual)
  math(EXPR fitting "${available} / ${DGDD_NVCC_MEMORY}")
  if(fitting LESS 1)
    set(fitting 1)
  endif()
  if(fitting LESS usual)
    set(${jobs} ${fitting} PARENT_SCOPE)
  else()
    set(${jobs} ${usual} PARENT_SCOPE)
  endif()
endfunction()

# The memory in MiB that is free, and within the limit of the control group where that is less.
function(available_memory variable)
  cmake_host_system_information(RESULT available QUERY AVAILABLE_PHYSICAL_MEMORY)
  foreach(file /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes)
    if(EXISTS ${file})
      file(READ ${file} limit)
      string(STRIP "${limit}" limit)
      if(limit MATCHES "^[0-9]+$")
        math(EXPR limit "${limit} / 1048576")
        if(limit LESS available)
          set(available ${limit})
        endif()
      endif()
    endif()
  endforeach()
  set(${variable} ${available} PARENT_SCOPE)
endfunction()
