#!/bin/sh
# Option 4 in containers of this machine: a control plane with an engine at http://control-plane:27288, and workers on the same network.
# The images are built of the node and the package that lie here; run npm run build first in a clone. WORKERS is how many (default 5),
# OUT where the files go. End it with stop-cluster.sh there; --purge removes the data, too.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
out="${OUT:-$PWD/option4}"
PATH="$here/../../node_modules/.bin:$PATH" # the node of the clone, when there is one
node "$here/../../bin/bpr.mjs" topology render --option 4 --workers "${WORKERS:-5}" --format script --out "$out"
exec "$out/start-cluster.sh"
