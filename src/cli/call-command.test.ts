import { describe, expect, it } from 'vitest';
import { callCommand } from './call-command.ts';

const TARGET = { key: '0x01', rpcUrl: 'http://127.0.0.1:8545', contract: '0x02', serviceId: 3n };
const JOB = { id: '0', name: 'job', params: '', result: '', raw: false, idempotent: false };

describe('the command that calls a job', () => {
  it('shows the values of the result', () => {
    const command = callCommand({ ...JOB, params: 'uint64 x, (bool, string) y', result: 'uint64' }, TARGET);
    expect(command).toMatch(/ --types 'uint64 x, \(bool, string\) y' --args '\[1,\[true,"text"\]\]' --result 'uint64'$/);
  });

  it('does not wait for a result that never comes', () => {
    expect(callCommand(JOB, TARGET)).toMatch(/ --args '\[\]' --no-wait$/);
  });
});
