#!/usr/bin/env bash
# Makes what docker/deploy/compose.yaml wants in HPCS_TLS, with an authority of its own whose key is thrown away: for trying out.
# Elsewhere, put certificates of your own authority there under the same names; that of hpcs-agent is what SPIRE knows the agent by.
#   certificates.sh DIR [NAME-OR-ADDRESS-OF-THIS-HOST…]
set -euo pipefail
umask 077
directory=${1:?name a directory for the certificates}
shift
mkdir -p "$directory"
cd "$directory"
# What was there before may be open to all.
chmod 700 .
if [ -e ca.pem ]; then echo "$directory has certificates already" >&2; exit 0; fi
new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc)
more=''
for name; do
  case $name in *[!0-9.]*) more+=",DNS:$name" ;; *) more+=",IP:$name" ;; esac
done
openssl req -x509 "${new[@]}" -days 365 -subj '/CN=HPCS trial authority' -keyout authority.key -out authority.pem \
  -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
for name in hpcs-server openbao oidc hpcs-agent; do
  use=serverAuth
  [ $name != hpcs-agent ] || use=clientAuth
  printf '%s\n' "subjectAltName=DNS:$name,DNS:localhost,IP:127.0.0.1$more" 'keyUsage=critical,digitalSignature' \
    "extendedKeyUsage=$use" 'basicConstraints=critical,CA:FALSE' >extensions
  openssl req -new "${new[@]}" -subj "/CN=$name" -keyout "$name.key" -out request 2>/dev/null
  openssl x509 -req -in request -CA authority.pem -CAkey authority.key -days 365 -extfile extensions -out "$name.crt" 2>/dev/null
done
rm authority.key request extensions
# Each container runs as a user of its own, and sees its own files alone; here the directory keeps others out.
chmod 644 ./*.crt ./*.key
mv authority.pem ca.pem
chmod 644 ca.pem
