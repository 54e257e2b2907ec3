/**
 * Proves the same as workers.ts with a queue on a cluster of three NATS servers, to which the workers speak themselves, and whose servers are
 * killed one after the other.
 *
 * `BPR_NATS=/folder npm run prove:workers-nats -- [--workers n] [--concurrency n] [--jobs n] [--kills n] [--outages n] [--seed n] [--json]`;
 * exit status 1 when something does not hold.
 */

import { proveWorkers } from './workers-command.ts';

await proveWorkers({ outages: 4 });
