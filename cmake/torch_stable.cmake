# The target torch_stable, the headers and libraries of torch only: find_package(Torch) would demand the CUDA toolkit torch was built with.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import torch, os; print(os.path.dirname(torch.__file__), end='')"
  OUTPUT_VARIABLE TORCH_FOLDER RESULT_VARIABLE TORCH_MISSING)
if(TORCH_MISSING)
  message(FATAL_ERROR "${Python_EXECUTABLE} cannot import torch. Install torch >= 2.11 first, then build with "
                      "pip install --no-build-isolation so that the build sees it.")
endif()
find_library(TORCH_LIBRARY torch PATHS "${TORCH_FOLDER}/lib" NO_DEFAULT_PATH REQUIRED)
find_library(TORCH_CPU_LIBRARY torch_cpu PATHS "${TORCH_FOLDER}/lib" NO_DEFAULT_PATH REQUIRED)
add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE "${TORCH_FOLDER}/include")
target_compile_definitions(torch_stable INTERFACE TORCH_STABLE_ONLY TORCH_TARGET_VERSION=0x020b000000000000)
target_link_options(torch_stable INTERFACE "LINKER:-z,lazy" "LINKER:--no-as-needed")
target_link_libraries(torch_stable INTERFACE "${TORCH_LIBRARY}" "${TORCH_CPU_LIBRARY}")

