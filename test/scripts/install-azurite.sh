#!/bin/sh
# Installs Microsoft's own emulator of Azure Storage, unmodified, into a folder; tests find it there through BPR_AZURITE.
#
#   test/scripts/install-azurite.sh /tmp/azurite && BPR_AZURITE=/tmp/azurite REQUIRE=azurite npx vitest run --project integration azure-storage
set -eu

folder=${1:?usage: install-azurite.sh FOLDER}
azurite=3.36.0

mkdir -p "$folder"
cd "$folder"
[ -f package.json ] || echo '{"private":true}' >package.json
npm install --no-audit --no-fund --no-save "azurite@$azurite"
test -f node_modules/azurite/dist/src/blob/main.js
echo "BPR_AZURITE=$folder"
