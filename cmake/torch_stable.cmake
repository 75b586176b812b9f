# The target torch_stable, the headers and libraries of torch only: find_package(Torch) would demand the CUDA toolkit torch was built with.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import torch, os; print(os.path.dirname(torch.__file__), torch.__version__, torch.version.cuda or '', sep=';', end='')"
  OUTPUT_VARIABLE TORCH_FACTS RESULT_VARIABLE TORCH_MISSING)
if(NOT TORCH_MISSING)
  list(GET TORCH_FACTS 0 TORCH_FOLDER)
  list(GET TORCH_FACTS 1 TORCH_VERSION)
  list(GET TORCH_FACTS 2 TORCH_CUDA)
endif()
if(TORCH_MISSING OR TORCH_VERSION VERSION_LESS 2.11)
  set(TORCH_FAULT "cannot import torch")
  if(NOT TORCH_MISSING)
    set(TORCH_FAULT "has torch ${TORCH_VERSION}")
  endif()
  message(FATAL_ERROR "${Python_EXECUTABLE} ${TORCH_FAULT}. Install torch >= 2.11 first, then build with "
                      "pip install --no-build-isolation so that the build sees it.")
endif()
unset(TORCH_LIBRARY CACHE)  # of another environment, which may be gone
unset(TORCH_CPU_LIBRARY CACHE)
find_library(TORCH_LIBRARY torch PATHS "${TORCH_FOLDER}/lib" NO_DEFAULT_PATH REQUIRED)
find_library(TORCH_CPU_LIBRARY torch_cpu PATHS "${TORCH_FOLDER}/lib" NO_DEFAULT_PATH REQUIRED)
add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE "${TORCH_FOLDER}/include")
target_compile_definitions(torch_stable INTERFACE TORCH_STABLE_ONLY TORCH_TARGET_VERSION=0x020b000000000000)
target_link_options(torch_stable INTERFACE "LINKER:-z,lazy" "LINKER:--no-as-needed")
target_link_libraries(torch_stable INTERFACE "${TORCH_LIBRARY}" "${TORCH_CPU_LIBRARY}")

