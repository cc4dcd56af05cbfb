#!/bin/sh
# For trying out: initialises OpenBao and unseals it with a key that is kept beside it.
set -eu
umask 077
until bao status >/dev/null 2>&1 || [ $? = 2 ]; do sleep 0.5; done
if ! bao operator init -status >/dev/null 2>&1; then
  bao operator init -key-shares=1 -key-threshold=1 >/keys/init
  sed -n 's/^Unseal Key 1: //p' /keys/init | tr -d '\n' >/keys/unseal-key
  sed -n 's/^Initial Root Token: //p' /keys/init | tr -d '\n' >/keys/root-token
  rm /keys/init
fi
# From a file: what stands in a command line others can see.
bao write sys/unseal key=@/keys/unseal-key >/dev/null
until bao status >/dev/null 2>&1; do sleep 0.5; done
