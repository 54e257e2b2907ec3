/** What the commands share that work on services: their records, and the operator of them. */

import { systemClock } from '../clock.ts';
import type { ServiceRecords } from '../deploy/record.ts';
import type { ServiceOperator } from '../deploy/service.ts';
import type { Io } from './output.ts';
import { interruptible } from './work.ts';
import type { Work } from './work.ts';

export interface OperatorWork extends Work {
  readonly operator: ServiceOperator;
  readonly records: ServiceRecords;
}

/** Makes the operator, and closes it afterwards. */
export async function withOperator(io: Io, action: (work: OperatorWork) => Promise<void>): Promise<void> {
  const records = await recordsOf(io);
  const [{ ServiceOperator: Operator }, { createPluginRegistry }, { silentTelemetry }] = await Promise.all([
    import('../deploy/service.ts'),
    import('../plugin/registry.ts'),
    import('../telemetry/telemetry.ts'),
  ]);
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const operator = new Operator({ plugins, records, clock: systemClock });
  await interruptible(io, systemClock, async (work) => {
    try {
      await action({ ...work, operator, records });
    } finally {
      await operator.close();
    }
  });
}

export async function recordsOf({ env }: Io): Promise<ServiceRecords> {
  const { ServiceRecords: Records, defaultRecordFolder } = await import('../deploy/record.ts');
  return new Records(defaultRecordFolder({ ...env }));
}
