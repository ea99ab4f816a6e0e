#!/bin/sh
# What the leader does: says so, each second, until it is told to stop.
trap 'echo "stopping"; exit 0' TERM
while :; do
    echo "leading"
    sleep 1 &
    wait $!
done
