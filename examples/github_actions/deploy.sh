#!/bin/sh
# Stands for a deployment that must not meet another one.
set -e
mkdir deploying # fails if somebody is at it
echo "${GITHUB_REPOSITORY:-somebody} deploys"
sleep 0.2
rmdir deploying
