#!/bin/sh
# Puts Debian's own nats-server 2.15, unmodified, into a folder without installing it; tests find it there through BPR_NATS.
# It is taken from Debian's unstable: the servers of the stable releases are too old. It needs nothing but libc.
#
#   test/scripts/install-nats.sh /tmp/nats && BPR_NATS=/tmp/nats REQUIRE=nats-server npx vitest run --project conformance queue-nats
set -eu

folder=${1:?usage: install-nats.sh FOLDER}

mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/apt/etc"
cd "$folder"
folder=$(pwd)
# From where the machine has its packages, with lists of its own: the machine's stay as they are.
archive=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main" >apt/etc/sources.list
set -- -qq -o "Dir::Etc::sourcelist=$folder/apt/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null \
  -o "Dir::State::lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache" -o APT::Sandbox::User=root
apt-get "$@" update
apt-get "$@" download nats-server
dpkg-deb --extract nats-server_*.deb .
rm -r apt nats-server_*.deb
usr/sbin/nats-server --version
echo "BPR_NATS=$folder"
