#!/usr/bin/env bash
# What only a machine with a GPU can do, in one go, without a network and in the order of worth: what is not reached
# in DGDD_SECONDS is left out.
#
#   bench/gpu.sh                               every stage below but the accuracy studies
#   bench/gpu.sh build bench-quick             these stages
#   bench/gpu.sh --without bench-general test  every stage but these
#
#   build               installs the package, built for this GPU only, or the wheel that DGDD_WHEEL names
#   check               small calls of every operator, compared with the CPU, with both kinds of spectral kernels
#   test-operators      the tests of the operators on the GPU
#   bench-quick         a smoke run of the spectral benchmarks
#   bench-loop          the distillation loop: its parts, its synchronisations
#   bench-saturating    spectral operators on as much as the memory's bandwidth is worth
#   bench-distillation  the same, one class and all classes of a data set
#   bench-pipelined     the rows of the last two again, with DGDD_SPECTRAL_KERNELS=pipelined: which kernels are to stay?
#   bench-masking       the masking of channels, the 24 most telling rows
#   bench-normalise     normalisation, ReLU and pooling, the 6 most telling rows
#   bench-augment       the augmentation of a batch, the 6 most telling rows
#   bench-general       spectral operators at sizes of the general tier
#   memcheck            compute-sanitizer over small calls of every operator
#   racecheck           the same
#   test                all other tests that use the GPU
#   synccheck           compute-sanitizer again
#   initcheck           the same
#   bench-compiled      what the benchmarks above left out: torch.compile beside each row, every row
#   accuracy            the grid of bench/studies/accuracy.yaml: Random, DM and DM+SGS at the papers' settings, each
#                       domain held out in turn; goes on where an earlier call stopped. Needs DGDD_ACCURACY_DATA
#   accuracy-cadm       the same for accuracy_cadm.yaml: Random, MMD and CADM, with the training of their experts
#
# A stage that fails or takes too long does not keep the others from running; the exit code is 1 then. All but `build`
# are left out where the card, its driver and the build do not fit together. Environment:
#   OUT                    where the results go (default: bench/results/gpu-TIME), at most eight files: gpu.log,
#                          summary.json, and a JSON file a benchmark, written row by row; each accuracy study adds a
#                          .tar, its grid with the table. Rows of an earlier call that are there are kept and not measured again
#   PYTHON                 the Python to use (default: python3), with torch and pytest, and the build tools to build
#   DGDD_WHEEL             a wheel of the package to install instead of building it, such as `make wheel-sm90` makes
#   DGDD_SECONDS           the time for all stages together (default: 420)
#   DGDD_COMMIT            what is measured, where git cannot tell
#   DGDD_ACCURACY_DATA     a folder of domains
#   DGDD_ACCURACY_OPTIONS  more options of dgdd grid
#   DGDD_ACCURACY_STATE    the archive that the call to go on from left: accuracy.tar or accuracy_cadm.tar
# shellcheck disable=SC2329  # the stages are called by their names
set -euo pipefail
script="$(realpath "${BASH_SOURCE[0]}")"
cd "$(dirname "$script")/.."

readonly DEFAULT_STAGES=(build check test-operators bench-quick bench-loop bench-saturating bench-distillation
  bench-pipelined bench-masking bench-normalise bench-augment bench-general memcheck racecheck test synccheck initcheck
  bench-compiled)
declare -rA LIMIT_SECONDS=([build]=120 [check]=45 [test-operators]=120 [bench-quick]=60 [bench-loop]=90
  [bench-saturating]=90 [bench-distillation]=90 [bench-pipelined]=90 [bench-masking]=60 [bench-normalise]=45
  [bench-augment]=45 [bench-general]=60 [memcheck]=120
  [racecheck]=180 [test]=240 [synccheck]=120 [initcheck]=120 [bench-compiled]=1200 [accuracy]=3600
  [accuracy-cadm]=3600)
readonly LARGEST_LOG=$((8 << 20)) # bytes

export PATH="$PATH:/usr/local/cuda/bin"
export OUT="${OUT:-$PWD/bench/results/gpu-$(date +%Y%m%d-%H%M%S)}"
export PYTHON="${PYTHON:-python3}" PYTHONUNBUFFERED=1
[[ $PYTHON == */* ]] && PYTHON="$(realpath -s "$PYTHON")"

stage_build() {
  local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps)
  if [[ -n ${DGDD_WHEEL:-} ]]; then
    if [[ ! -f $DGDD_WHEEL ]]; then
      echo "DGDD_WHEEL must name a wheel, got '$DGDD_WHEEL'"
      return 1
    fi
    "${pip[@]}" --force-reinstall "$DGDD_WHEEL"
    return
  fi
  # One architecture instead of all saves most of nvcc's time. The folder is not that of the builds for all.
  local here="${CUDAARCHS:-}" options=(--config-settings=build-dir=build/gpu)
  [[ -n $here ]] || here="$("$PYTHON" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())' \
    2>/dev/null)" || true
  if [[ -n $here ]]; then
    options+=("--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$here")
  else
    echo "torch finds no CUDA device: building for every architecture"
  fi
  DGDD_CUDA=ON "${pip[@]}" --no-build-isolation "${options[@]}" --editable .
}

stage_check() {
  local failed=0
  "$PYTHON" csrc/tests/sanitize.py || failed=1
  DGDD_SPECTRAL_KERNELS=pipelined "$PYTHON" csrc/tests/sanitize.py || failed=1
  return "$failed"
}

# Tests with "cuda" in their name, those of a device among them; one that finds no GPU fails.
test_on_gpu() { # options
  local parallel=()
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    parallel=(-n 8)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
  fi
  # From a folder of its own, as in this one the sources would hide the package of a wheel. Interrupted before its limit,
  # so that it tells what has failed so far.
  local here="$PWD" patience=$((STAGE_SECONDS > 20 ? STAGE_SECONDS - 10 : STAGE_SECONDS / 2))
  mkdir -p build/gpu-tests && cd build/gpu-tests
  DGDD_REQUIRE_CUDA=1 timeout --foreground --signal=INT "$patience" "$PYTHON" -m pytest --rootdir "$here" \
    -c "$here/pyproject.toml" -k cuda --continue-on-collection-errors --tb=short --durations=10 "${parallel[@]}" "$@"
}
stage_test-operators() { test_on_gpu "$PWD/python_tests/ops"; }
stage_test() { test_on_gpu --ignore="$PWD/python_tests/ops" "$PWD/python_tests"; }

sanitizer() { # tool, options of the calls
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is missing: install the CUDA toolkit and put its bin folder on the PATH"
    return 1
  fi
  # Each tensor is an allocation of its own, so that one element beyond it is noticed.
  local kernels failed=0
  for kernels in simple pipelined; do
    echo "-- $1, $kernels spectral kernels"
    DGDD_SPECTRAL_KERNELS=$kernels PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" \
      --kernel-name kns=dgdd --error-exitcode 9 --print-limit 20 "$PYTHON" csrc/tests/sanitize.py "${@:2}" || failed=1
  done
  return "$failed"
}
stage_memcheck() { sanitizer memcheck; }
stage_racecheck() { sanitizer racecheck; }
stage_synccheck() { sanitizer synccheck; }
stage_initcheck() { sanitizer initcheck --fused; }

benchmark() { # script, name of the table, options
  "$PYTHON" "bench/bench_$1.py" --device cuda --json "$OUT/$2.json" --resume "${@:3}"
}
spectral() { benchmark spectral spectral_cuda "$@"; }
stage_bench-quick() { "$PYTHON" bench/bench_spectral.py --device cuda --quick; }
stage_bench-loop() { benchmark distill loop_cuda; }
stage_bench-saturating() { spectral --no-compile --regimes saturating; }
stage_bench-distillation() { spectral --no-compile --regimes "all classes" "one class"; }
stage_bench-pipelined() {
  DGDD_SPECTRAL_KERNELS=pipelined benchmark spectral spectral_pipelined_cuda --no-compile \
    --regimes saturating "all classes" "one class"
}
stage_bench-masking() { benchmark masking masking_cuda --no-compile --first 24; }
stage_bench-normalise() { benchmark norm_relu_pool norm_relu_pool_cuda --no-compile --first 6; }
stage_bench-augment() { benchmark augment augment_cuda --no-compile --first 6; }
stage_bench-general() { spectral --no-compile --regimes general; }
stage_bench-compiled() {
  local failed=0
  spectral || failed=1
  benchmark masking masking_cuda || failed=1
  benchmark norm_relu_pool norm_relu_pool_cuda || failed=1
  benchmark augment augment_cuda || failed=1
  return "$failed"
}

# Without the sources on its path, which would hide the package of a wheel.
dgdd() {
  "$PYTHON" -c 'import sys; sys.path[:] = filter(None, sys.path)
from dgdd_command import main; main()' "$@"
}
study() { # name of a file in bench/studies
  if [[ ! -d ${DGDD_ACCURACY_DATA:-} ]]; then
    echo "DGDD_ACCURACY_DATA must name a folder of domains, got '${DGDD_ACCURACY_DATA:-}'"
    return 1
  fi
  local folder="build/$1" options=()
  rm -rf "$folder"
  mkdir -p "$folder"
  [[ -n ${DGDD_ACCURACY_STATE:-} ]] && tar -xf "$DGDD_ACCURACY_STATE" -C "$folder"
  # shellcheck disable=SC2064  # the words are known here, not at the exit
  trap "$(printf '%q ' tar -cf "$OUT/$1.tar" -C "$folder" .)" EXIT
  trap : TERM # at its limit the grid is stopped too, and is to have written its checkpoint before it is packed
  read -ra options <<<"${DGDD_ACCURACY_OPTIONS:-}"
  dgdd grid "bench/studies/$1.yaml" --data "$DGDD_ACCURACY_DATA" --devices cuda --out "$folder" "${options[@]}"
  dgdd table "$folder" --format csv --out "$folder/table.csv" --overwrite
}
stage_accuracy() { study accuracy; }
stage_accuracy-cadm() { study accuracy_cadm; }

if [[ ${1:-} == --inside ]]; then
  "stage_$2"
  exit
fi

chosen=()
without=()
to=chosen
for word in "$@"; do
  if [[ $word == --without ]]; then
    to=without
  elif [[ -z ${LIMIT_SECONDS[$word]:-} ]]; then
    echo "bench/gpu.sh: there is no stage '$word'; the stages are: ${DEFAULT_STAGES[*]} accuracy accuracy-cadm" >&2
    exit 2
  elif [[ $to == chosen ]]; then
    chosen+=("$word")
  else
    without+=("$word")
  fi
done
[[ ${#chosen[@]} == 0 ]] && chosen=("${DEFAULT_STAGES[@]}")
if ! facts="$("$PYTHON" bench/card.py)"; then
  echo "bench/gpu.sh: $PYTHON cannot import torch; name another Python: PYTHON=... bench/gpu.sh" >&2
  exit 2
fi
mkdir -p "$OUT"
log() { tee -a "$OUT/gpu.log"; }
echo "$facts" | log

# A log that a failure made long loses its middle.
trim_log() {
  local size half=$((LARGEST_LOG / 2))
  size=$(stat -c %s "$OUT/gpu.log")
  if ((size > LARGEST_LOG)); then
    { head -c "$half" "$OUT/gpu.log" && printf '\n[...]\n' && tail -c "$half" "$OUT/gpu.log"; } >"$OUT/shorter.log"
    mv "$OUT/shorter.log" "$OUT/gpu.log"
  fi
}

# Each stage is a process of its own, so that it can be stopped, and so that `set -e` holds inside it.
exit_code=0
summary=""
misfit="unknown" # what keeps the stages from the GPU; empty: nothing. Known after the build
table="$(printf '%-20s %8s  %s' stage seconds result)"
for stage in "${chosen[@]}"; do
  [[ " ${without[*]} " == *" $stage "* ]] && continue
  if [[ $stage != build && $misfit == unknown ]]; then
    if misfit="$(timeout 60 "$PYTHON" bench/card.py --fits 2>&1)"; then
      printf '\n%s\n' "$misfit" | log
      misfit=""
    else
      misfit="${misfit:-the GPU did not answer within 60 s}"
      printf '\nnothing can run on the GPU: %s\n' "$misfit" | log
    fi
  fi
  left=$((${DGDD_SECONDS:-420} - SECONDS))
  limit=$((LIMIT_SECONDS[$stage] < left ? LIMIT_SECONDS[$stage] : left))
  began=$SECONDS
  if [[ $stage != build && -n $misfit ]]; then
    result="left out: nothing can run on the GPU"
  elif ((limit < 5)); then
    result="left out: no time left"
  else
    printf '\n== %s (at most %d s)\n' "$stage" "$limit" | log
    code=0
    STAGE_SECONDS=$limit timeout --signal=TERM --kill-after=20 "$limit" bash "$script" --inside "$stage" 2>&1 | log || code=$?
    trim_log
    case $code in
      0) result="passed" ;;
      124 | 137) result="stopped after $((SECONDS - began)) s" ;;
      *) result="failed ($code)" ;;
    esac
  fi
  [[ $result == passed ]] || exit_code=1
  seconds=$((SECONDS - began))
  table+="$(printf '\n%-20s %8d  %s' "$stage" "$seconds" "$result")"
  summary+="${summary:+, }\"$stage\": {\"seconds\": $seconds, \"result\": \"$result\"}"
  printf '{"machine": %s, "stages": {%s}}\n' "$facts" "$summary" >"$OUT/summary.json"
done
printf '\n%s\nresults: %s\n' "$table" "$OUT" | log
exit "$exit_code"
