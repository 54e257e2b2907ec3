import { expect, it } from 'vitest';
import { calendar, periodic } from './schedule.ts';
import { toKubernetesCronJob, toSystemdUnits } from './units.ts';

it('a timer and a service of systemd', () => {
  const { timer, service, losses } = toSystemdUnits(calendar('Mon-Fri 14:00', { randomizedDelayMs: 90_000, persistent: false }), {
    name: 'data-processor',
    description: 'Processes data',
    command: ['/usr/bin/node', '/srv/my job.js', '100%', '$HOME', 'say "hi"'],
    environment: { MODE: 'a b', PLAIN: 'x' },
    user: 'worker',
  });
  expect(losses).toEqual([]);
  expect(timer).toEqual({
    file: 'data-processor.timer',
    text: [
      '[Unit]',
      'Description=Processes data',
      '',
      '[Timer]',
      'OnCalendar=Mon..Fri *-*-* 14:00:00 UTC',
      'Persistent=false',
      'AccuracySec=1ms',
      'RandomizedDelaySec=90s',
      'FixedRandomDelay=true',
      'Unit=data-processor.service',
      '',
      '[Install]',
      'WantedBy=timers.target',
      '',
    ].join('\n'),
  });
  expect(service.text).toContain('User=worker\n');
  expect(service.text).toContain('Environment="MODE=a b"\nEnvironment=PLAIN=x\n');
  expect(service.text).toContain('ExecStart=/usr/bin/node "/srv/my job.js" "100%%" "$$HOME" "say \\"hi\\""\n');
});

it.each([
  [periodic(300, { startOn: 'boot', relativeTo: 'finish' }), ['OnBootSec=1', 'OnUnitInactiveSec=300s']],
  [periodic(0.5, { startOn: 'login', relativeTo: 'start' }), ['OnStartupSec=1', 'OnUnitActiveSec=500ms']],
  [periodic(60), ['OnActiveSec=60s', 'OnUnitActiveSec=60s']],
  [
    calendar('9:00 Europe/Berlin', { accuracyMs: 60_000 }),
    ['OnCalendar=*-*-* 09:00:00 Europe/Berlin', 'Persistent=true', 'AccuracySec=60s'],
  ],
])('the timer of %j', (schedule, lines) => {
  const { timer } = toSystemdUnits(schedule, { name: 'x', command: ['/bin/true'] });
  expect(timer.text.split('\n')).toEqual(expect.arrayContaining([...lines]));
});

it('units that would say something else are refused', () => {
  const make = (options: Partial<Parameters<typeof toSystemdUnits>[1]>) => () =>
    toSystemdUnits('daily', { name: 'x', command: ['/bin/true'], ...options });
  expect(make({ name: '../x' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(make({ command: ['node'] })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(make({ description: 'a\n[Service]' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(make({ environment: { A: 'b\nExecStart=/bin/false' } })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
});

it('a CronJob of Kubernetes', () => {
  expect(toKubernetesCronJob('Mon 9:00 Europe/Berlin')).toEqual({
    expressions: ['0 9 * * MON'],
    timezone: 'Europe/Berlin',
    losses: [],
    concurrencyPolicy: 'Allow',
  });
  expect(toKubernetesCronJob(periodic(300, { relativeTo: 'finish' }))).toMatchObject({
    concurrencyPolicy: 'Forbid',
    losses: [{ kind: 'relative-to-finish' }],
  });
  expect(toKubernetesCronJob(calendar('9:00', { persistent: false }))).toMatchObject({ startingDeadlineSeconds: 60 });
});
