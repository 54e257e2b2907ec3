/**
 * Proves that calls of a chain that run on many workers are settled once each, with the right result, whichever of the workers, their control
 * plane and the runner is killed when, and that nothing is left over.
 *
 * `npm run prove:workers -- [--workers n] [--concurrency n] [--jobs n] [--kills n] [--seed n] [--json]`; exit status 1 when something does not
 * hold.
 */

import { proveWorkers } from './workers-command.ts';

await proveWorkers({});
