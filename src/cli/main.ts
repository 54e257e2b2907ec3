/** The command line `bpr`. Commands import their rooms when they run, so that help is printed at once. */

import { addBench } from './commands/bench.ts';
import { addBuild } from './commands/build.ts';
import { addCloud } from './commands/cloud.ts';
import { addConformance } from './commands/conformance.ts';
import { addControlPlane } from './commands/control-plane.ts';
import { addDev } from './commands/dev.ts';
import { addDoctor } from './commands/doctor.ts';
import { addJobs } from './commands/jobs.ts';
import { addGateway } from './commands/gateway.ts';
import { addInit } from './commands/init.ts';
import { addOperations } from './commands/operations.ts';
import { addPlugin } from './commands/plugin.ts';
import { addProfile } from './commands/profile.ts';
import { addQueue } from './commands/queue.ts';
import { addRun } from './commands/run.ts';
import { addSchedule } from './commands/schedule.ts';
import { addService } from './commands/service.ts';
import { addTicket } from './commands/ticket.ts';
import { addTopology } from './commands/topology.ts';
import { addWasm } from './commands/wasm.ts';
import { addWhy } from './commands/why.ts';
import { addWorker } from './commands/worker.ts';
import { addWorkerBundle } from './commands/worker-bundle.ts';
import { addWorkerImage } from './commands/worker-image.ts';
import type { Io } from './output.ts';
import { run } from './program.ts';
import type { AddCommand } from './program.ts';

const COMMANDS: readonly AddCommand[] = [
  addInit,
  addDev,
  addBuild,
  addRun,
  addService,
  addSchedule,
  addGateway,
  addControlPlane,
  addTicket,
  addQueue,
  addWasm,
  addWorker,
  addWorkerBundle,
  addWorkerImage,
  addTopology,
  addJobs,
  addWhy,
  addDoctor,
  addOperations,
  addBench,
  addProfile,
  addPlugin,
  addCloud,
  addConformance,
];

/**
 * Runs one command and resolves with the exit status: 0 done, 1 failed, 2 called in a wrong way; 3 and 4 of
 * `jobs submit`: refused by the contract, no result in time. Never rejects.
 *
 * @example
 * process.exitCode = await main(['build', 'jobs.ts']);
 */
export function main(args: readonly string[] = process.argv.slice(2), io?: Io): Promise<number> {
  return run(COMMANDS, args, io);
}
