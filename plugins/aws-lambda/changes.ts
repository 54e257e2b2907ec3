/** What one operation of a deployer changes, told while it goes on; a dry run only tells. */

import { RunnerError } from '../../src/plugin.ts';
import type { DeployChange, DeployOptions, DeployReport, FunctionState } from '../../src/plugin.ts';
import type { Session } from './client.ts';

export class Changes {
  readonly session: Session;
  readonly function: string;
  readonly isDry: boolean;
  readonly isStrict: boolean;
  readonly #made: DeployChange[] = [];
  readonly #warnings: string[] = [];
  readonly #onProgress: DeployOptions['onProgress'];
  readonly #total: number;
  #done = 0;

  constructor(session: Session, functionName: string, { phases, ...options }: DeployOptions & { readonly phases: number }) {
    this.session = session;
    this.function = functionName;
    this.isDry = options.dryRun === true;
    this.isStrict = options.strict === true;
    this.#onProgress = options.onProgress;
    this.#total = phases;
  }

  /** The next part of the work begins. */
  phase(step: string): void {
    this.tell(step);
    this.#done = Math.min(this.#done + 1, this.#total);
  }

  tell(step: string): void {
    this.#news(step, false);
  }

  warn(message: string): void {
    if (!this.#warnings.includes(message)) this.#warnings.push(message);
  }

  /** What the platform cannot do as asked: an error when strict. */
  lossy(message: string, details: Readonly<Record<string, unknown>> = {}): void {
    if (this.isStrict) throw new RunnerError('SCHEDULE_LOSSY', message, { details });
    this.warn(message);
  }

  /** One change. Undefined in a dry run. */
  async make<T>(change: DeployChange, write: () => Promise<T>): Promise<T | undefined> {
    const verb = { create: 'creating', update: 'updating', delete: 'deleting' }[change.action];
    this.#news(`${verb} ${change.resource} ${change.id}`, !this.isDry);
    this.#made.push(change);
    return this.isDry ? undefined : await write();
  }

  report(state?: FunctionState): DeployReport {
    return { changes: this.#made, warnings: this.#warnings, ...(state && { state }) };
  }

  #news(step: string, writes: boolean): void {
    this.#onProgress?.({ step, function: this.function, ...(writes && { writes }), done: this.#done, total: this.#total });
  }
}
