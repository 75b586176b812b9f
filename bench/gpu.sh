#!/usr/bin/env bash
# What only a machine with a GPU can do, in one go and without a network: build, tests, sanitizer, benchmarks.
#
#   bench/gpu.sh                           every stage below but the quick benchmark and the accuracy studies
#   bench/gpu.sh build bench-quick         these stages
#
#   build               installs the package for this GPU only, editable, into the Python that is used
#   test                all tests; a test that finds no GPU fails. PYTEST_ADDOPTS="-k spectral" chooses some
#   sanitize            compute-sanitizer over small calls of every operator: memcheck, racecheck, synccheck, initcheck
#   bench-distillation  spectral operators, one class and all classes of a data set
#   bench-saturating    the same, on as much as the memory's bandwidth is worth
#   bench-general       the same, at sizes of the general tier
#   bench-masking       the masking of channels
#   bench-quick         a smoke run of the spectral benchmarks, in a minute
#   accuracy            Random, DM and DM+SGS at the papers' settings, each domain held out in turn; goes on where an
#                       earlier call stopped. Needs DGDD_ACCURACY_DATA
#   accuracy-cadm       the same for Random, MMD and CADM, at 64 px; the experts of each held-out domain are trained first
#
# A stage that fails or takes too long does not keep the others from running; the exit code is 1 then. Environment:
#   OUT                    where the results go (default: bench/results/gpu-TIME): gpu.log, summary.json, one JSON file a
#                          benchmark, written row by row
#   PYTHON                 the Python to use (default: python3), with torch, the build tools and pytest installed
#   DGDD_SECONDS           the time for all stages together (default: 540)
#   DGDD_COMMIT            what is measured, where git cannot tell
#   DGDD_ACCURACY_DATA     a folder of domains, and DGDD_ACCURACY_DOMAINS those to use (default: all)
#   DGDD_ACCURACY_OPTIONS  more options of bench/accuracy.py or bench/accuracy_cadm.py
#   DGDD_ACCURACY_STATE    the archive that the call to go on from left: accuracy_state.tar or accuracy-cadm_state.tar
# shellcheck disable=SC2329  # the stages are called by their names
set -euo pipefail
script="$(realpath "${BASH_SOURCE[0]}")"
cd "$(dirname "$script")/.."

readonly DEFAULT_STAGES=(build test sanitize bench-distillation bench-saturating bench-general bench-masking)
declare -rA LIMIT_SECONDS=([build]=240 [test]=300 [sanitize]=200 [bench-distillation]=180 [bench-saturating]=150
  [bench-general]=100 [bench-masking]=180 [bench-quick]=90 [accuracy]=3600
  [accuracy-cadm]=3600)

export PATH="$PATH:/usr/local/cuda/bin"
export OUT="${OUT:-$PWD/bench/results/gpu-$(date +%Y%m%d-%H%M%S)}"
export PYTHON="${PYTHON:-python3}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"

need_gpu() {
  "$PYTHON" -c 'import sys, torch; torch.cuda.is_available() or sys.exit("torch finds no CUDA device")'
}

stage_build() {
  # One architecture instead of all saves most of nvcc's time.
  local here
  here="$("$PYTHON" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())' 2>/dev/null || true)"
  if [[ -n $here ]]; then
    export CUDAARCHS="$here"
  else
    echo "torch finds no CUDA device: building for every architecture"
  fi
  DGDD_CUDA=ON "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
    --editable .
  "$PYTHON" -c 'from dgdd_fast import _C; print(_C.build_info())'
}

stage_test() {
  need_gpu
  local parallel=()
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    parallel=(-n 4 --dist loadfile)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
  fi
  DGDD_REQUIRE_CUDA=1 "$PYTHON" -m pytest --continue-on-collection-errors --durations=10 "${parallel[@]}"
}

stage_sanitize() {
  need_gpu
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is missing: install the CUDA toolkit and put its bin folder on the PATH"
    return 1
  fi
  local tool options failed=0
  for tool in memcheck racecheck synccheck initcheck; do
    options=()
    [[ $tool == initcheck ]] && options=(--fused)
    echo "-- $tool"
    # Each tensor is an allocation of its own, so that one element beyond it is noticed.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --kernel-name kns=dgdd --error-exitcode 9 \
      --print-limit 20 "$PYTHON" csrc/tests/sanitize.py "${options[@]}" || failed=1
  done
  return "$failed"
}

spectral() { # name of the table, options
  need_gpu
  "$PYTHON" bench/bench_spectral.py --device cuda --json "$OUT/$1.json" --resume "${@:2}"
}
stage_bench-distillation() { spectral spectral_cuda_distillation --regimes "one class" "all classes"; }
stage_bench-saturating() { spectral spectral_cuda_saturating --regimes saturating; }
stage_bench-general() { spectral spectral_cuda_general --regimes general; }
stage_bench-masking() {
  need_gpu
  "$PYTHON" bench/bench_masking.py --device cuda --json "$OUT/masking_cuda.json"
}
stage_bench-quick() { spectral quick_spectral_cuda --quick; }

hold_out_each() { # name of the study, what runs it for a domain, what packs its runs
  need_gpu
  if [[ ! -d ${DGDD_ACCURACY_DATA:-} ]]; then
    echo "DGDD_ACCURACY_DATA must name a folder of domains, got '${DGDD_ACCURACY_DATA:-}'"
    return 1
  fi
  local runs="build/$1" domains=() options=() target
  rm -rf "$runs"
  mkdir -p "$runs"
  [[ -n ${DGDD_ACCURACY_STATE:-} ]] && tar -xf "$DGDD_ACCURACY_STATE" -C "$runs"
  # shellcheck disable=SC2064  # the words are known here, not at the exit
  trap "$(printf '%q ' "$3" "$runs" "$OUT/$1_state.tar")" EXIT
  trap : TERM # at its limit the study is stopped too, and is to have written its checkpoint before it is packed
  read -ra domains <<<"${DGDD_ACCURACY_DOMAINS:-}"
  read -ra options <<<"${DGDD_ACCURACY_OPTIONS:-}"
  if [[ ${#domains[@]} == 0 ]]; then
    mapfile -t domains < <("$PYTHON" -c 'import sys; from dgdd_fast.data import load_dataset
print(*load_dataset(sys.argv[1]).domain_names, sep="\n")' "$DGDD_ACCURACY_DATA")
  fi
  for target in "${domains[@]}"; do
    "$2" "$runs" "$target" --device cuda --data "$DGDD_ACCURACY_DATA" --domains "${domains[@]}" --target "$target" \
      --out "$OUT/$1_$(basename "$DGDD_ACCURACY_DATA")_${target}_full.json" "${options[@]}"
  done
}
stage_accuracy() { hold_out_each accuracy study_sgs pack_results; }
stage_accuracy-cadm() { hold_out_each accuracy-cadm study_cadm pack_all; }

study_sgs() { # folder, held-out domain, options
  "$PYTHON" bench/accuracy.py --runs "$1" --ipc 10 --iterations 20000 --seeds 5 "${@:3}"
}
# The experts know the held-out domain by their training data alone, so each has a folder of its own.
study_cadm() { # folder, held-out domain, options
  "$PYTHON" bench/accuracy_cadm.py --runs "$1/$2" --resolution 64 --image-lrs 1e-3 --seeds 5 "${@:3}"
}

# What the next call needs: the results of what is done, and everything of what is not.
pack_results() { # folder, archive
  local folder
  for folder in "$1"/*/; do
    if [[ -f $folder/result.json ]]; then
      echo "$(basename "$folder")/result.json"
    elif [[ -d $folder ]]; then
      basename "$folder"
    fi
  done | tar -cf "$2" -C "$1" -T -
}
# The sets that are done are compared at the end, channel by channel.
pack_all() { tar -cf "$2" -C "$1" .; }

if [[ ${1:-} == --inside ]]; then
  "stage_$2"
  exit
fi

stages=("$@")
[[ ${#stages[@]} == 0 ]] && stages=("${DEFAULT_STAGES[@]}")
for stage in "${stages[@]}"; do
  if [[ -z ${LIMIT_SECONDS[$stage]:-} ]]; then
    echo "bench/gpu.sh: there is no stage '$stage'; the stages are: ${!LIMIT_SECONDS[*]}" >&2
    exit 2
  fi
done
if ! facts="$("$PYTHON" -c 'import json, platform, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps({"device": gpu, "python": platform.python_version(), "torch": torch.__version__}))')"; then
  echo "bench/gpu.sh: $PYTHON cannot import torch; name another Python: PYTHON=... bench/gpu.sh" >&2
  exit 2
fi
echo "$facts" | tee "$OUT/gpu.log"

# Each stage is a process of its own, so that it can be stopped, and so that `set -e` holds inside it.
exit_code=0
summary=""
table="$(printf '%-20s %8s  %s' stage seconds result)"
for stage in "${stages[@]}"; do
  left=$((${DGDD_SECONDS:-540} - SECONDS))
  limit=$((LIMIT_SECONDS[$stage] < left ? LIMIT_SECONDS[$stage] : left))
  began=$SECONDS
  if ((limit < 5)); then
    result="left out: no time left"
  else
    printf '\n== %s (at most %d s)\n' "$stage" "$limit" | tee -a "$OUT/gpu.log"
    code=0
    timeout --signal=TERM --kill-after=20 "$limit" bash "$script" --inside "$stage" 2>&1 | tee -a "$OUT/gpu.log" || code=$?
    case $code in
      0) result="passed" ;;
      124 | 137) result="stopped after $limit s" ;;
      *) result="failed ($code)" ;;
    esac
  fi
  [[ $result == passed ]] || exit_code=1
  seconds=$((SECONDS - began))
  table+="$(printf '\n%-20s %8d  %s' "$stage" "$seconds" "$result")"
  summary+="${summary:+, }\"$stage\": {\"seconds\": $seconds, \"result\": \"$result\"}"
  printf '{"machine": %s, "stages": {%s}}\n' "$facts" "$summary" >"$OUT/summary.json"
done
printf '\n%s\nresults: %s\n' "$table" "$OUT" | tee -a "$OUT/gpu.log"
exit "$exit_code"
