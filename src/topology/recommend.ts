/** Which topology for which purpose: a decision tree, with its reasons. */

import { RunnerError } from '../errors.ts';
import { WORKERS_MAX } from './topology.ts';
import type { TopologyOption } from './topology.ts';

export interface Situation {
  /** Workers at the most. */
  readonly workers: number;
  /** Is it to be tried out, or does it run for others? Default `production`. */
  readonly purpose?: 'testing' | 'production' | undefined;
  /** Is there a Kubernetes cluster? Default false. */
  readonly kubernetes?: boolean | undefined;
  /** Are engines to be run as a service of their own, apart from the workers? Default false. */
  readonly engineService?: boolean | undefined;
  /** Workers that one shared engine keeps busy, when it was measured (`bpr bench saturate`). Default: 20 in tests, none in production. */
  readonly workersPerEngine?: number | undefined;
}

export interface Recommendation {
  readonly option: TopologyOption;
  /** The answers that led to it. */
  readonly because: readonly string[];
  /** What belongs to it. */
  readonly advice: readonly string[];
  readonly warnings: readonly string[];
  /** How to try it here, with as many workers as one topology has at most. */
  readonly command: string;
}

const FEW = 5;
const SMALL = 20;
const LARGE = 100;
const ENGINES_MIN = 3;
const ENGINES_MAX = 5;

/** Throws `CONFIG_INVALID`. */
export function recommend(situation: Situation): Recommendation {
  const { workers } = situation;
  if (!Number.isSafeInteger(workers) || workers < 1)
    throw new RunnerError('CONFIG_INVALID', `workers is ${workers}; it must be a whole number from 1`);
  const { option, because, advice } = decide(situation);
  const engines = option === '3' ? Math.min(ENGINES_MAX, Math.max(ENGINES_MIN, Math.ceil(workers / SMALL))) : undefined;
  return {
    option,
    because,
    advice,
    warnings: warningsOf(option, situation),
    command: `bpr topology up --option ${option} --workers ${Math.min(workers, WORKERS_MAX)}${engines === undefined ? '' : ` --engines ${engines}`}`,
  };
}

type Decision = Pick<Recommendation, 'option' | 'because' | 'advice'>;

/** From the top; the first answer that is yes decides. */
function decide({ workers, purpose = 'production', kubernetes = false, engineService = false }: Situation): Decision {
  if (purpose === 'testing') {
    if (workers < FEW)
      return {
        option: '2',
        because: [`it is a test with fewer than ${FEW} workers`],
        advice: ['option 4 is as little work, and shows what the network costs'],
      };
    return { option: '4', because: ['it is a test'], advice: ['find out how many workers the engine keeps busy before production'] };
  }
  if (kubernetes && engineService)
    return {
      option: '3',
      because: ['there is Kubernetes', 'engines are to be a service of their own'],
      advice: ['bpr topology render --option 3 --format kubernetes', `from ${ENGINES_MIN} to ${ENGINES_MAX} engines`],
    };
  if (workers < SMALL)
    return {
      option: '4',
      because: [`it is production with fewer than ${SMALL} workers`],
      advice: ['watch the engine: GET /metrics on its port', 'plan for option 1'],
    };
  if (workers <= LARGE)
    return {
      option: '1',
      because: [`it is production with ${SMALL} to ${LARGE} workers`],
      advice: ['each worker in a container: bpr topology render --option 1 --format compose'],
    };
  const orchestration = kubernetes
    ? 'bpr topology render --option 1 --format kubernetes'
    : 'an orchestrator: Kubernetes, or one of your own';
  return { option: '1', because: [`it is production with more than ${LARGE} workers`], advice: [orchestration] };
}

function warningsOf(option: TopologyOption, { workers, purpose = 'production', workersPerEngine }: Situation): readonly string[] {
  if (option !== '2' && option !== '4') return [];
  const most = workersPerEngine ?? (purpose === 'testing' ? SMALL : undefined);
  const warnings = purpose === 'production' ? ['one engine is one point of failure: without it jobs wait'] : [];
  return most === undefined || workers <= most ? warnings : [...warnings, ...engineWarnings(option, { workers, workersPerEngine })];
}

/** Whether one engine has too many workers. `workersPerEngine`: as it was measured; default 20. */
export function engineWarnings(
  option: TopologyOption,
  { workers, workersPerEngine }: Pick<Situation, 'workers' | 'workersPerEngine'>,
): readonly string[] {
  const most = workersPerEngine ?? SMALL;
  if ((option !== '2' && option !== '4') || workers <= most) return [];
  const source = workersPerEngine === undefined ? 'as a rule' : 'as measured';
  return [`one engine keeps ${most} workers busy ${source}; ${workers} will wait for it`];
}
