/** The script with which a machine becomes the host of one program. Pure. */

import { RunnerError } from '../../src/plugin.ts';
import type { ProgramSpec } from '../../src/plugin.ts';

/** EC2 takes so much; what is larger is fetched from a bucket. */
export const USER_DATA_BYTES_MAX = 16_384;
/** Written to the console when the program answers that it is ready. */
export const READY_LINE = 'blueprint-runner: ready';

const FOLDER = '/opt/blueprint-runner';
const UNIT = 'blueprint-runner';
export const DATA_FOLDER = `/var/lib/${UNIT}`;
const PATH = /^(?!.*(?:^|\/)\.\.?(?:\/|$))[\w@./-]+$/;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const PARAMETER = /^ssm:(\/[\w./-]+)$/;

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
/** A value in a file that systemd reads. */
const environmentLine = ([name, value]: readonly [string, string]): string =>
  `${name}="${value.replaceAll(/["\\]/g, '\\$&').replaceAll('\n', '\\n')}"`;

function heredoc(path: string, bytes: Uint8Array, mode: string): string {
  const lines =
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      .toString('base64')
      .match(/.{1,76}/g) ?? [];
  return `install -D -m ${mode} /dev/null ${quoted(path)}\nbase64 -d > ${quoted(path)} <<'END'\n${lines.join('\n')}\nEND`;
}

/**
 * A shell script for Amazon Linux: node, the files, a systemd unit that restarts the program and writes to the console. Secrets are read from
 * the Parameter Store when the program starts and are on no disk. Throws `CONFIG_INVALID` for names that a shell would misread, and for
 * secrets that would have to be sent in the clear.
 */
export function userDataOf(spec: ProgramSpec): string {
  check(spec);
  const secrets = Object.entries(spec.secrets ?? {}).map(([name, reference]) => {
    const parameter = PARAMETER.exec(reference)?.[1] ?? '';
    const value = `"$(aws ssm get-parameter --with-decryption --name ${quoted(parameter)} --query Parameter.Value --output text)"`;
    return `export ${name}=${value}`;
  });
  const start = ['#!/bin/bash', 'set -euo pipefail', ...secrets, `cd ${FOLDER}`, `exec node ${spec.args.map(quoted).join(' ')}`, ''].join(
    '\n',
  );
  const unit = [
    '[Unit]',
    `Description=blueprint-runner ${spec.name}`,
    'After=network-online.target',
    'Wants=network-online.target',
    '[Service]',
    `EnvironmentFile=${FOLDER}/.environment`,
    `ExecStart=${FOLDER}/.start`,
    'DynamicUser=yes',
    `StateDirectory=${UNIT}`,
    'Restart=always',
    'RestartSec=2',
    'StandardOutput=journal+console',
    'StandardError=journal+console',
    ...(spec.memoryMb === undefined ? [] : [`MemoryMax=${spec.memoryMb}M`]),
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ].join('\n');
  return [
    '#!/bin/bash',
    'set -euo pipefail',
    'command -v node > /dev/null || dnf install -y -q nodejs24 || dnf install -y -q nodejs22',
    ...Object.entries(spec.files).map(([path, bytes]) => heredoc(`${FOLDER}/${path}`, bytes, '0644')),
    heredoc(`${FOLDER}/.environment`, Buffer.from(`${Object.entries(spec.environment).map(environmentLine).join('\n')}\n`), '0600'),
    heredoc(`${FOLDER}/.start`, Buffer.from(start), '0755'),
    heredoc(`/etc/systemd/system/${UNIT}.service`, Buffer.from(unit), '0644'),
    'systemctl daemon-reload',
    `systemctl enable --now ${UNIT}`,
    `until curl -fsS -o /dev/null http://127.0.0.1:${spec.healthPort}/readyz; do sleep 1; done`,
    `echo '${READY_LINE}' > /dev/console`,
    '',
  ].join('\n');
}

/** Fetches the script from a bucket and runs it. */
export function fetchingUserData(url: string): string {
  return [
    '#!/bin/bash',
    'set -euo pipefail',
    `aws s3 cp ${quoted(url)} /opt/blueprint-runner.sh`,
    'exec bash /opt/blueprint-runner.sh',
    '',
  ].join('\n');
}

function check({ files, args, environment, secrets = {}, healthPort }: ProgramSpec): void {
  const invalid = (message: string): RunnerError => new RunnerError('CONFIG_INVALID', message);
  for (const path of Object.keys(files))
    if (!PATH.test(path) || path.startsWith('/')) throw invalid(`the path ${JSON.stringify(path)} of a file is not a plain relative path`);
  for (const name of [...Object.keys(environment), ...Object.keys(secrets)])
    if (!NAME.test(name)) throw invalid(`${JSON.stringify(name)} is no name of an environment variable`);
  for (const [name, reference] of Object.entries(secrets))
    if (!PARAMETER.test(reference))
      throw invalid(
        `the secret ${name} of a program on EC2 must be in the Parameter Store, written ssm:/its/name: user data can be read by others`,
      );
  if (args.length === 0) throw invalid('a program needs arguments for node');
  if (!Number.isInteger(healthPort) || healthPort < 1 || healthPort > 65_535) throw invalid(`${healthPort} is no port`);
}
