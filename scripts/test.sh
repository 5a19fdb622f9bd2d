#!/usr/bin/env bash
# Set-up, release build and all its tests; then the half without LibTorch with its tests under AddressSanitizer
# and UndefinedBehaviorSanitizer. With --full everything runs under the sanitizers.
# Ends with ctest's summary of the last part; the exit code is 0 only if every part passed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

sanitized=asan
case ${1-} in
  '') ;;
  --full) sanitized=asan-full ;;
  *) echo "usage: scripts/test.sh [--full]" >&2; exit 2 ;;
esac

scripts/setup.sh

# Configures, builds and tests one preset.
check() {
  local preset=$1 folder=$2
  cmake --preset "$preset" >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log"; return 1; }
  cmake --build "$folder" -j "$jobs"
  ctest --test-dir "$folder" --output-on-failure --no-label-summary -j "$jobs"
}

started=$SECONDS
failed=0
# In a subshell of its own, so that a failure ends that part and not the next one. (`check || ...` would switch
# off errexit within.)
run_part() {
  set +e
  (set -e; check "$@")
  (($? == 0)) || failed=1
  set -e
}

mkdir -p build "build-$sanitized"
run_part release build
echo "test: release part took $((SECONDS - started)) s"

# LibTorch keeps some memory to the end on purpose, so leaks are judged in the half without it.
# g++ 12's runtime guesses the size of a plugin's thread-local memory from what lies before it (a layout of glibc 2.19),
# now and then wrongly; its search for leaks then crashes ("Tracer caught signal 11"). That memory is reachable anyway.
leaks=1
[[ $sanitized == asan ]] || leaks=0
export ASAN_OPTIONS="intercept_tls_get_addr=0:detect_leaks=$leaks:detect_stack_use_after_return=1:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
run_part "$sanitized" "build-$sanitized"
exit $failed
