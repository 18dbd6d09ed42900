#!/bin/sh
# Text protocol, transform, in plain shell: a few thousand tuples a second, but three lines.
# shellcheck disable=SC2034  # the key stays as it is
while IFS= read -r key && IFS= read -r value; do
    printf 'forward\n%s\n' "$value!"
done
