# setup.sh - what scripts/test, scripts/quickstart and .ci/run share: installing what is
# missing on Debian 12 or 13, building a preset, counting tests. Sourced, not run; the
# caller is one folder below the project's root.
#
# What must hold: with nothing missing no package tool but dpkg-query runs, and a failure
# says what to do.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1

# Names are the same in Debian 12 and 13.
PACKAGES='build-essential cmake ninja-build pkg-config
  libopenblas-openmp-dev libxxhash-dev zlib1g-dev liblua5.4-dev lua5.4 libedit-dev
  lua-argparse lua-filesystem'
DOCS_PACKAGES='cmark-gfm'
TEST_PACKAGES="lua-busted lua-check libmicrohttpd-dev $DOCS_PACKAGES"
LONG_PACKAGES='openmpi-bin libopenmpi-dev mpich libmpich-dev iproute2'
PROTEIN_PACKAGE='mmseqs2-examples'

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$(basename -- "$0"): $*"
  exit 1
}

# ---- packages ----

# Those of the named packages that are not installed.
missing_packages() {
  installed=" $(dpkg-query -W -f '${Package}=${db:Status-Status} ' "$@" 2>/dev/null) "
  for package in "$@"; do
    case $installed in
      *" $package=installed "*) ;;
      *) printf '%s ' "$package" ;;
    esac
  done
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# What apt says that a list of packages takes: "61.3 MB to load, 262 MB on the disk"; nothing if it
# does not say.
size_of_packages() {
  LC_ALL=C apt-get install --assume-no --no-install-recommends "$@" 2>/dev/null | sed -n \
    -e 's/^Need to get \([^/]*\) of archives.*/\1 to load/;s/^Need to get \(.*\)\/.* of archives.*/\1 to load/;t say' \
    -e 's/^After this operation, \(.*\) of additional disk space.*/, \1 on the disk/;t say' \
    -e d -e :say -e p | tr -d '\n'
}

# Installs what is missing of the named packages.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "no Debian: nothing is installed; what is needed, by Debian's names: $*"
    return 0
  fi
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    die "packages are missing, and you are not root, and there is no sudo; as root run:" \
      "apt-get install --no-install-recommends $missing"
  fi
  as_root apt-get update -q >&2 || say "apt-get update failed: trying with the lists that are there"
  # shellcheck disable=SC2086 # a list of words
  size=$(size_of_packages $missing)
  say "installing${size:+ ($size)}: $missing"
  unknown=
  for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 || unknown="$unknown $package"
  done
  [ -z "$unknown" ] || die "apt knows no package$unknown: enable Debian's 'main' in" \
    "/etc/apt/sources.list (Debian 12 and 13 have it), or check the network"
  # shellcheck disable=SC2086 # a list of words
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 $missing >&2 || die "apt-get could not install them: it needs" \
    "the network, or a mirror that is reached; what is missing: $missing"
}

# ---- building ----

# build PRESET [TARGET ...]: configures and builds build/PRESET with all cores.
build() {
  preset=$1 folder=$root/build/$1
  shift
  cache=$folder/CMakeCache.txt
  # A tree that was moved or copied keeps a cache that CMake refuses.
  if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; then
    rm -rf "$folder"
  fi
  say "building $preset"
  mkdir -p "$folder" || return 1
  (cd "$root" && cmake --preset "$preset") >"$folder/configure.log" 2>&1 || {
    cat "$folder/configure.log" >&2
    return 1
  }
  if [ $# -gt 0 ]; then
    cmake --build "$folder" --target "$@" >&2
  else
    cmake --build "$folder" >&2
  fi
}

# ---- counting ----

passed=0
failed=0

# count TEXT: adds the last "N passed, N failed" line of TEXT; without one, one failure.
count() {
  line=$(printf '%s\n' "$1" | grep -E '^[0-9]+ passed, [0-9]+ failed$' | tail -n 1)
  if [ -z "$line" ]; then
    failed=$((failed + 1))
    return 1
  fi
  passed=$((passed + ${line%% passed*}))
  line=${line##*passed, }
  failed=$((failed + ${line%% failed*}))
}

# Ends the run with the one line.
finish() {
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] || exit 1
  exit 0
}

# mawk, Debian's awk, reads ahead unless told otherwise: progress would come late.
AWK=awk
case $(awk -W version 2>/dev/null </dev/null) in mawk*) AWK='mawk -W interactive' ;; esac

# Programs that run at once; more cores help little, and memory would have to hold them all.
lanes=$(nproc 2>/dev/null || echo 1)
[ "$lanes" -le 4 ] || lanes=4

# ctest's verbose output to a line for each program, what failed in full, and the sum. Several run
# at once, each line begins with its program's number. A program that crashed, timed out or counted
# nothing is a failure.
CTEST_SUM='
/^[0-9]+: [0-9]+ passed, [0-9]+ failed$/ { n = $1 + 0; p[n] = $2; f[n] = $4; counted[n] = 1 }
/^[0-9]+: / { n = $1 + 0; sub(/^[0-9]+: /, ""); text[n] = text[n] "    " $0 "\n"; next }
/^ *[0-9]+\/[0-9]+ Test +#/ {
  good = / Passed /; why = ""
  name = $0; sub(/.*Test +#/, "", name); n = name + 0
  if (!good && !f[n]) { f[n] = 1; why = " (" $0 ")" }
  if (good && !counted[n]) { f[n] = 1; why = " (it counted nothing)" }
  sub(/^[0-9]+: */, "", name); sub(/ .*/, "", name)
  printf "  %-28s %d passed, %d failed%s\n", name, p[n], f[n], why
  if (f[n] > 0) printf "%s", text[n]
  passed += p[n]; failed += f[n]; text[n] = ""
  fflush()
}
END { printf "%d passed, %d failed\n", passed, failed }'

# Seconds that a C test or a spec may take, so that one that hangs doesn't hang the run: what is
# given, and with --long half a day.
at_most() {
  if [ -n "${PF_LONG-}" ]; then echo 43200; else echo "$1"; fi
}

# run_c_tests PRESET [OPTION...]: every C test of a build, or those that ctest's options choose.
run_c_tests() {
  say "C tests ($*)"
  tests=$root/build/$1
  shift
  ctest --test-dir "$tests" --parallel "$lanes" --verbose --timeout "$(at_most 900)" "$@" 2>&1 |
    tee "$tests/ctest.log" | $AWK "$CTEST_SUM" | tee "$tests/ctest.sum" >&2
  count "$(cat "$tests/ctest.sum")"
  grep -q '^No tests were found' "$tests/ctest.log" && failed=$((failed + 1))
  return 0
}

# TAP to the failures with their messages, and the sum. No plan line: the run broke off.
TAP_SUM='
/^ok [0-9]+ - # SKIP/ { skipped++; next }
/^ok [0-9]+ / { passed++; shown = 0; next }
/^not ok [0-9]+ / { failed++; shown = 1 }
/^1\.\.[0-9]+$/ {
  planned = 1; shown = code != 0 && !failed # what a sanitizer says at the end
  if ($0 == "1..0") { failed++; print "    no tests in it" }
}
shown { print "    " $0 }
{ last = $0 }
END {
  if (!planned) { failed++; print "    broke off; last line: " last }
  if (code != 0 && !failed) { failed++; print "    exit code " code " though every test passed" }
  if (skipped) print "    " skipped " skipped"
  printf "%d passed, %d failed\n", passed, failed
}'

# What xargs runs: PRESET SPEC. TAP and what it comes to go to files of the build; the sum, and under
# it what failed, is said in one piece as soon as the spec ends.
RUN_SPEC='
lua=$PWD/build/$0/lua name=build/$0/$(basename "$1" .lua)
env PF_BUILD="build/$0" LUA_PATH="$lua/?.lua;$lua/?/init.lua;;" LUA_CPATH="$lua/?.so;;" $SPEC_ENV \
  timeout "$SPEC_SECONDS" lua5.4 "$BUSTED" -o TAP "$1" >"$name.tap" 2>&1
awk -v code=$? "$TAP_SUM" "$name.tap" >"$name.sum"
told=$(sed "\$d" "$name.sum")
printf "  %-28s %s\n%s" "${name##*/}" "$(tail -n 1 "$name.sum")" "${told:+$told
}" >&2'

# run_specs PRESET [LEFT_OUT]: every spec but those whose files match, each file in a process of its
# own, so that a crash costs one file; several at once. Variables in SPEC_ENV (NAME=value ...) are set
# for them.
run_specs() {
  say "specs ($1)"
  cd "$root" || return 1
  BUSTED=$(command -v busted) || {
    say "  busted is missing"
    failed=$((failed + 1))
    return 0
  }
  SPEC_SECONDS=$(at_most 1800)
  export BUSTED SPEC_ENV TAP_SUM SPEC_SECONDS
  rm -f "build/$1"/*_spec.sum
  specs=$(printf '%s\n' spec/*_spec.lua | grep -Ev "^spec/(${2:-none})_spec")
  printf '%s\n' "$specs" | xargs -P "$lanes" -n 1 sh -c "$RUN_SPEC" "$1"
  for spec in $specs; do
    count "$(cat "build/$1/$(basename "$spec" .lua).sum" 2>/dev/null)"
  done
}
