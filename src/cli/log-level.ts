import { RunnerError } from '../errors.ts';
import type { LogLevel } from '../telemetry/pino.ts';
import type { Io } from './output.ts';

const LOG_LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error', 'silent'];

/** What Rust calls them otherwise. */
const RUST_LEVELS: ReadonlyMap<string, LogLevel> = new Map([
  ['trace', 'debug'],
  ['off', 'silent'],
]);

/** `LOG_LEVEL`, or the level that `RUST_LOG` has for everything, by default `warn`. Throws `CONFIG_INVALID` for a `LOG_LEVEL` that is none. */
export function logLevelOf({ env }: Io): LogLevel {
  const { LOG_LEVEL: given = rustLevelOf(env['RUST_LOG'] ?? '') } = env;
  const found = LOG_LEVELS.find((level) => level === given);
  if (found === undefined) throw new RunnerError('CONFIG_INVALID', `LOG_LEVEL is ${given}; it must be one of ${LOG_LEVELS.join(', ')}`);
  return found;
}

/** Of `info,hyper=debug` that is `info`; what other programs write there besides is theirs. */
function rustLevelOf(directives: string): LogLevel {
  const words = directives.split(',').map((word) => word.trim().toLowerCase());
  const found = words.map((word) => RUST_LEVELS.get(word) ?? LOG_LEVELS.find((level) => level === word));
  return found.find((level) => level !== undefined) ?? 'warn';
}
