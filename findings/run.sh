#!/usr/bin/env bash
# Runs the findings (all, or those named) and prints a line each: as described, CHANGED, or not tried.
cd "$(dirname "$0")" || exit 2
names=("$@")
[ ${#names[@]} -gt 0 ] || for f in *.sh; do [ "$f" = run.sh ] || names+=("${f%.sh}"); done
worst=0
for name in "${names[@]}"; do
  log=$(mktemp)
  bash "$name.sh" >"$log" 2>&1
  code=$?
  case $code in
    0) echo "as described  $name" ;;
    2) echo "not tried     $name: $(tail -n 1 "$log")" ;;
    *) echo "CHANGED       $name"; tail -n 5 "$log" | sed 's/^/    /'; worst=1 ;;
  esac
  rm -f "$log"
done
exit $worst
