/** `bpr topology recommend` and `bpr topology matrix`: which one. */

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import { makeFolder } from '../../folder.ts';
import type { Measurements } from '../../topology/matrix.ts';
import { TOPOLOGY_OPTIONS } from '../../topology/topology.ts';
import { parseCount } from '../calls.ts';
import { baseFolder } from '../environment.ts';
import { atPath } from '../named-path.ts';
import { print, progress, table, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { interruptible } from '../work.ts';

interface RecommendFlags {
  readonly workers: number;
  readonly purpose: 'testing' | 'production';
  readonly k8s: boolean;
  readonly engineService: boolean;
  readonly workersPerEngine?: number;
  readonly json?: true;
}

const RECOMMEND_EXAMPLES = `
Examples:
  bpr topology recommend --workers 3 --purpose testing
  bpr topology recommend --workers 30 --k8s no
  bpr topology recommend --workers 30 --k8s yes --engine-service yes

Testing: option 4, or 2 with fewer than 5 workers. Production: with Kubernetes and engines as a service of their own option 3; otherwise option 4
with fewer than 20 workers, option 1 with more, beyond 100 with an orchestrator.

Exit status: 0 done; 2 called in a wrong way.`;

export function addRecommend(topology: Command, { io }: Cli): void {
  topology
    .command('recommend')
    .description('say which option fits')
    .requiredOption('--workers <count>', 'workers at the most', parseCount)
    .addOption(new Option('--purpose <name>', 'what it is for').choices(['testing', 'production']).default('production'))
    .addOption(new Option('--k8s <answer>', 'is there a Kubernetes cluster? yes or no').argParser(parseAnswer).default(false, 'no'))
    .addOption(
      new Option('--engine-service <answer>', 'are engines to be a service of their own? yes or no')
        .argParser(parseAnswer)
        .default(false, 'no'),
    )
    .option('--workers-per-engine <count>', 'that one engine keeps busy, as measured', parseCount)
    .option('--json', 'print one JSON document')
    .addHelpText('after', RECOMMEND_EXAMPLES)
    .action(async ({ k8s, json, ...flags }: RecommendFlags) => {
      const { recommend } = await import('../../topology/recommend.ts');
      const document = recommend({ ...flags, kubernetes: k8s });
      const { option, because, advice, warnings, command } = document;
      const text = [
        `option ${option}: ${because.join('; ')}`,
        ...advice.map((one) => `  ${one}`),
        ...warnings.map((one) => `warning: ${one}`),
        command,
      ].join('\n');
      print(io, json, { document, text });
    });
}

interface MatrixFlags {
  readonly file?: string;
  readonly measure?: true;
  readonly json?: true;
}

const MATRIX_EXAMPLES = `
Examples:
  bpr topology matrix
  bpr topology matrix --measure     starts each option here with two workers, one after another, and keeps the figures

Facts follow from how the parts are put together, and are what the tests show; estimates were made before anything was built; measured is
what --measure has found on this machine.

Exit status: 0 done; 1 failed; 2 called in a wrong way; 130 or 143 interrupted by a signal.`;

export function addMatrix(topology: Command, { io }: Cli): void {
  topology
    .command('matrix')
    .description('compare the options')
    .option('--measure', 'measure first')
    .option('--file <file>', 'measurements (default: topology-measured.json in BPR_DATA_DIR, or ~/.blueprint-runner)')
    .option('--json', 'print one JSON document')
    .addHelpText('after', MATRIX_EXAMPLES)
    .action((flags: MatrixFlags) =>
      interruptible(io, systemClock, async ({ signal }) => {
        const { matrix, parseMeasurements } = await import('../../topology/matrix.ts');
        const file = fileOf(io, flags);
        if (flags.measure) {
          const { measureTopologies } = await import('./topology-measure.ts');
          keep(file, await measureTopologies({ signal, tell: (text) => progress(io, text) }));
        }
        const text = existsSync(file) ? atPath({ path: file, flag: '--file', use: 'read' }, () => readFileSync(file, 'utf8')) : undefined;
        const measured = text === undefined ? undefined : parseMeasurements(text, file);
        const rows = matrix(measured);
        const head = ['criterion', '', ...TOPOLOGY_OPTIONS.map((option) => (option === 'hybrid' ? option : `option ${option}`))];
        const footer = measured ? [`measured ${measured.at}, ${measured.workers} workers, ${measured.machine}, node ${measured.node}`] : [];
        const shown = [table([head, ...rows.map(({ criterion, kind, values }) => [criterion, kind, ...values])]), ...footer].join('\n');
        print(io, flags.json, { document: { options: TOPOLOGY_OPTIONS, rows, measured }, text: shown });
      }),
    );
}

function keep(file: string, measured: Measurements): void {
  makeFolder(dirname(file));
  writeFileSync(`${file}.new`, `${toJson(measured)}\n`);
  renameSync(`${file}.new`, file);
}

function fileOf(io: Io, { file }: MatrixFlags): string {
  return file === undefined ? join(baseFolder(io), 'topology-measured.json') : resolve(io.cwd, file);
}

function parseAnswer(text: string): boolean {
  if (text === 'yes' || text === 'no') return text === 'yes';
  throw new InvalidArgumentError('It must be yes or no.');
}
