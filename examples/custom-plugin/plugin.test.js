import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runExecutorConformance } from 'blueprint-runner/conformance';
import { CommandExecutor } from './plugin.js';

const jobs = fileURLToPath(new URL('jobs.js', import.meta.url));

runExecutorConformance({ describe, it }, { name: 'command', create: () => new CommandExecutor([process.execPath, jobs]) });
