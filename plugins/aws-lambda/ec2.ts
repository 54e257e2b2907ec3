/** Keeps programs running on EC2: one small instance each, that nobody can connect to. */

import { createHash } from 'node:crypto';
import type { Instance, RunInstancesRequest, _InstanceType } from '@aws-sdk/client-ec2';
import { RunnerError, logFilter } from '../../src/plugin.ts';
import type { DeployOptions, LogEntry, LogQuery, Machine, MachineHost, MachineReport, ProgramSpec } from '../../src/plugin.ts';
import { Changes } from './changes.ts';
import { Aws, Session } from './client.ts';
import { isNotFound, rawOf, readFailure } from './failure.ts';
import { MANAGED, canonical, foreign, isManaged, tagList, tagMap } from './names.ts';
import type { Ec2HostOptions } from './options.ts';
import { readEntry } from './report.ts';
import { DATA_FOLDER, READY_LINE, USER_DATA_BYTES_MAX, fetchingUserData, userDataOf } from './user-data.ts';

const PROGRAM_TAG = 'blueprint-runner:program';
const SPEC_TAG = 'blueprint-runner:spec';
const GROUP_NAME = 'blueprint-runner-no-inbound';
const INSTANCE_TYPE = 't4g.nano';
/** The newest Amazon Linux 2023 for ARM; EC2 looks it up itself. */
const IMAGE = 'resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64';
const LIVING = ['pending', 'running', 'stopping', 'stopped'];
const WAIT_MS_MAX = 600_000;
const POLL_MS = 2_000;
const FOLLOW_MS = 5_000;
const PHASES = 3;

const sha = (text: string): string => createHash('sha256').update(text).digest('hex');

/**
 * A host of programs on EC2.
 *
 * The instance gets its program as user data, or from a bucket when it is larger than 16 KB. Nobody can connect to it: its log is that of the
 * console, its state is known from there. Tags are the only state; the client token keeps an interrupted start from making two.
 * Secrets of programs are in the Parameter Store (`ssm:/name`), which the instance profile must allow to read; the program reads them when it
 * starts, so that another value counts from the next start on.
 * The security group is shared by all programs and stays.
 *
 * @example
 * const host = new Ec2Host({ region: 'eu-central-1', instanceProfile: 'orchestrator', bucket: 'my-bucket' });
 * const { machine } = await host.run(spec);
 */
export class Ec2Host implements MachineHost {
  readonly name = 'ec2';
  readonly #options: Ec2HostOptions;
  readonly #aws: Aws;

  /** Does no I/O. */
  constructor(options: Ec2HostOptions = {}) {
    this.#options = options;
    this.#aws = new Aws(options);
  }

  /**
   * On the disk of the instance: it outlives restarts of the program and of the machine, and ends with the instance, which another specification
   * replaces. A warning says so then; a runner reads from the chain what is settled.
   */
  dataFolder(_name: string): string {
    return DATA_FOLDER;
  }

  async run(spec: ProgramSpec, options: DeployOptions = {}): Promise<MachineReport> {
    const session = this.#telling(spec.name, options);
    const changes = new Changes(session, spec.name, { ...options, phases: PHASES });
    const script = await this.#script(spec);
    const wanted = specSha256(spec, script);
    changes.phase('reading what is there');
    const all = await instances(session, spec.name);
    const own = all.find(isLiving);
    if (own && !isManaged(tagMap(own.Tags))) throw foreign('instance', spec.name);
    if (own && tagMap(own.Tags)[SPEC_TAG] === wanted) return this.#keep(session, changes, own);
    // What can be refused comes before the old one ends.
    const UserData = await this.#userData(session, changes, { script, wanted });
    if (own) {
      changes.warn(`what the program kept is on the disk of instance ${own.InstanceId ?? ''} and ends with it`);
      await this.#end(session, changes, own);
    }
    changes.phase('starting an instance');
    const made = await changes.make({ action: 'create', resource: 'instance', id: spec.name }, async () => {
      const request = await this.#request(session, spec, wanted);
      const ClientToken = sha(canonical([spec.name, wanted, all.map(({ InstanceId = '' }) => InstanceId).toSorted()]));
      const { Instances = [] } = await session.write('ec2', (ec2, signal) =>
        ec2.runInstances({ ...request, UserData: Buffer.from(UserData).toString('base64'), ClientToken }, signal),
      );
      return Instances[0]?.InstanceId ?? '';
    });
    changes.phase('waiting for the instance');
    return machineReport(changes, made === undefined ? undefined : await this.#machine(session, await reaches(changes, made, ['running'])));
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<Machine | undefined> {
    const session = new Session(this.#aws, signal);
    const own = (await instances(session, name)).find(isLiving);
    return own && this.#machine(session, own);
  }

  async *list({ signal }: { readonly signal?: AbortSignal } = {}): AsyncGenerator<Machine, void, void> {
    const session = new Session(this.#aws, signal);
    for (const instance of await instances(session, undefined)) if (isLiving(instance)) yield await this.#machine(session, instance);
  }

  /** The console of the instance: its last 64 KB, which EC2 has a minute or two late. */
  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry, void, void> {
    const session = new Session(this.#aws, query.signal);
    const own = (await instances(session, name)).find(isLiving);
    if (!own) throw new RunnerError('NOT_FOUND', `there is no program ${name}`, { details: { name } });
    const { limit = 100, follow } = query;
    const isWanted = logFilter(query);
    let seen = '';
    for (let isFirst = true; ; isFirst = false) {
      const { text, at } = await consoleOf(session, own.InstanceId ?? '');
      const entries = newText(seen, text)
        .split('\n')
        .filter((line) => line.trim() !== '')
        .map((message) => readEntry({ at, message, stream: own.InstanceId }))
        .filter(isWanted);
      yield* isFirst ? entries.slice(-limit) : entries;
      seen = text;
      if (!follow) return;
      await session.sleep(FOLLOW_MS).catch((error: unknown) => {
        if (!query.signal?.aborted) throw error;
      });
      if (query.signal?.aborted) return;
    }
  }

  async terminate(name: string, options: DeployOptions = {}): Promise<MachineReport> {
    const session = this.#telling(name, options);
    const changes = new Changes(session, name, { ...options, phases: 1 });
    const living = (await instances(session, name)).filter(isLiving);
    for (const instance of living) {
      if (!isManaged(tagMap(instance.Tags))) throw foreign('instance', name);
      await this.#end(session, changes, instance);
    }
    return machineReport(changes, undefined);
  }

  close(): Promise<void> {
    return this.#aws.close();
  }

  #telling(name: string, { signal, onProgress }: DeployOptions): Session {
    return new Session(this.#aws, signal, onProgress && ((step) => onProgress({ step, function: name })));
  }

  async #keep(session: Session, changes: Changes, own: Instance): Promise<MachineReport> {
    const id = own.InstanceId ?? '';
    if (!stateOf(own).startsWith('stop')) return machineReport(changes, await this.#machine(session, own));
    const stopped = changes.isDry ? own : await reaches(changes, id, ['stopped']);
    await changes.make({ action: 'update', resource: 'instance', id, fields: ['state'] }, () =>
      session.write('ec2', (ec2, request) => ec2.startInstances({ InstanceIds: [id] }, request)),
    );
    return machineReport(changes, await this.#machine(session, changes.isDry ? stopped : await reaches(changes, id, ['running'])));
  }

  /** SIGTERM comes with the shutdown; systemd waits for the program. */
  async #end(session: Session, changes: Changes, instance: Instance): Promise<void> {
    const id = instance.InstanceId ?? '';
    changes.phase(`ending instance ${id}`);
    await this.#removeScript(session, changes, tagMap(instance.Tags)[SPEC_TAG]);
    await changes.make({ action: 'delete', resource: 'instance', id }, async () => {
      await session.write('ec2', (ec2, request) => ec2.terminateInstances({ InstanceIds: [id] }, request));
      await reaches(changes, id, ['terminated']);
    });
  }

  #script(spec: ProgramSpec): string | Promise<string> {
    if (Object.keys(spec.secrets ?? {}).length > 0 && this.#options.instanceProfile === undefined)
      throw new RunnerError('CONFIG_INVALID', 'a program with secrets needs the option instanceProfile, whose role may read them');
    return this.#options.userData ? this.#options.userData(spec) : userDataOf(spec);
  }

  async #userData(
    session: Session,
    changes: Changes,
    { script, wanted }: { readonly script: string; readonly wanted: string },
  ): Promise<string> {
    if (Buffer.byteLength(script) <= USER_DATA_BYTES_MAX) return script;
    const { bucket, instanceProfile } = this.#options;
    if (bucket === undefined || instanceProfile === undefined)
      throw new RunnerError(
        'LIMIT_EXCEEDED',
        `the program needs ${Buffer.byteLength(script)} bytes of user data, EC2 takes ${USER_DATA_BYTES_MAX}: set the options bucket and instanceProfile`,
      );
    const where = { Bucket: bucket, Key: this.#keyOf(wanted) };
    await changes.make({ action: 'create', resource: 'package', id: `s3://${where.Bucket}/${where.Key}` }, () =>
      session.write('s3', (s3, request) => s3.putObject({ ...where, Body: script }, request)),
    );
    return fetchingUserData(`s3://${where.Bucket}/${where.Key}`);
  }

  #keyOf(sha256: string): string {
    return `${this.#options.bucketPrefix ?? 'blueprint-runner/'}programs/${sha256}.sh`;
  }

  /** An instance fetches it once, with its first start; it holds the environment of the program. */
  async #removeScript(session: Session, changes: Changes, sha256: string | undefined): Promise<void> {
    const { bucket: Bucket } = this.#options;
    if (Bucket === undefined || sha256 === undefined) return;
    const where = { Bucket, Key: this.#keyOf(sha256) };
    const id = `s3://${Bucket}/${where.Key}`;
    try {
      // A HEAD has no words: its status is all that is said.
      const isAbsent = (thrown: unknown): boolean => readFailure(rawOf(thrown)).status === 404;
      if (!(await session.find('s3', (s3, request) => s3.headObject(where, request), isAbsent))) return;
      await changes.make({ action: 'delete', resource: 'package', id }, () =>
        session.write('s3', (s3, request) => s3.deleteObject(where, request)),
      );
    } catch (error) {
      if (readFailure(rawOf(error)).status !== 403) throw error;
      changes.warn(`${id} may still be there: these credentials may not look at it or remove it`);
    }
  }

  async #request(session: Session, { name, tags }: ProgramSpec, wanted: string): Promise<RunInstancesRequest> {
    const { imageId = IMAGE, instanceType = INSTANCE_TYPE, instanceProfile, subnetId, securityGroupIds } = this.#options;
    const all = tagList({ ...tags, Name: name, [MANAGED.key]: MANAGED.value, [PROGRAM_TAG]: name, [SPEC_TAG]: wanted });
    return {
      ImageId: imageId.startsWith('ssm:') ? `resolve:${imageId}` : imageId,
      // Any type that the user names.
      InstanceType: instanceType as _InstanceType,
      MinCount: 1,
      MaxCount: 1,
      SecurityGroupIds: securityGroupIds ? [...securityGroupIds] : [await securityGroup(session, subnetId)],
      ...(subnetId !== undefined && { SubnetId: subnetId }),
      ...(instanceProfile !== undefined && {
        IamInstanceProfile: instanceProfile.startsWith('arn:') ? { Arn: instanceProfile } : { Name: instanceProfile },
      }),
      InstanceInitiatedShutdownBehavior: 'terminate',
      MetadataOptions: { HttpTokens: 'required', HttpEndpoint: 'enabled', HttpPutResponseHopLimit: 1 },
      TagSpecifications: [
        { ResourceType: 'instance', Tags: all },
        { ResourceType: 'volume', Tags: all },
      ],
    };
  }

  async #machine(session: Session, instance: Instance): Promise<Machine> {
    const tags = tagMap(instance.Tags);
    const id = instance.InstanceId ?? '';
    const status = isManaged(tags) ? await statusOf(session, instance) : 'foreign';
    const startedAt = instance.LaunchTime?.toISOString();
    const reason = instance.StateReason?.Message;
    const spec = tags[SPEC_TAG];
    return {
      name: tags[PROGRAM_TAG] ?? '',
      id,
      status,
      ...(status === 'failed' && reason !== undefined && { reason }),
      ...(spec !== undefined && { specSha256: spec }),
      ...(startedAt !== undefined && { startedAt }),
    };
  }
}

const machineReport = (changes: Changes, machine: Machine | undefined): MachineReport => {
  const { changes: made, warnings } = changes.report();
  return { changes: made, warnings, ...(machine && { machine }) };
};

/** Of all that makes it another program. */
function specSha256(spec: ProgramSpec, script: string): string {
  const files = Object.entries(spec.files).map(([path, bytes]) => `${path} ${createHash('sha256').update(bytes).digest('hex')}`);
  return sha(canonical([{ ...spec, files: files.toSorted() }, script]));
}

const stateOf = (instance: Instance): string => instance.State?.Name ?? '';
const isLiving = (instance: Instance): boolean => LIVING.includes(stateOf(instance));

/** Those of a program, or all of ours. Terminated ones are seen for about an hour. */
async function instances(session: Session, name: string | undefined): Promise<readonly Instance[]> {
  const Filters =
    name === undefined
      ? [
          { Name: `tag:${MANAGED.key}`, Values: [MANAGED.value] },
          { Name: 'tag-key', Values: [PROGRAM_TAG] },
        ]
      : [{ Name: `tag:${PROGRAM_TAG}`, Values: [name] }];
  const found: Instance[] = [];
  let NextToken: string | undefined;
  do {
    const page = await session.read('ec2', (ec2, request) =>
      ec2.describeInstances({ Filters, ...(NextToken !== undefined && { NextToken }) }, request),
    );
    found.push(...(page.Reservations ?? []).flatMap(({ Instances = [] }) => Instances));
    NextToken = page.NextToken;
  } while (NextToken);
  return found.toSorted((a, b) => Number(b.LaunchTime ?? 0) - Number(a.LaunchTime ?? 0));
}

async function reaches(changes: Changes, id: string, states: readonly string[]): Promise<Instance> {
  const { session } = changes;
  const { clock } = session.aws;
  const until = clock.now() + WAIT_MS_MAX;
  for (;;) {
    // What was made a moment ago may not be seen yet.
    const page = await session.find(
      'ec2',
      (ec2, request) => ec2.describeInstances({ InstanceIds: [id] }, request),
      (thrown) => readFailure(rawOf(thrown)).name.startsWith('InvalidInstanceID.NotFound'),
    );
    const instance = page?.Reservations?.[0]?.Instances?.[0];
    const state = instance ? stateOf(instance) : 'unseen';
    if (instance && states.includes(state)) return instance;
    if (state === 'terminated' || clock.now() >= until) {
      const reason = instance?.StateReason?.Message ?? 'no reason is given';
      throw new RunnerError('DEPLOY_FAILED', `instance ${id} is ${state}, not ${states.join(' or ')}: ${reason}`, {
        details: { id, state, reason },
      });
    }
    changes.tell(`waiting for instance ${id} (${state})`);
    await session.sleep(POLL_MS);
  }
}

async function statusOf(session: Session, instance: Instance): Promise<Machine['status']> {
  const state = stateOf(instance);
  if (state === 'pending') return 'starting';
  if (state !== 'running') return 'stopped';
  const { text } = await consoleOf(session, instance.InstanceId ?? '');
  return text.includes(READY_LINE) ? 'running' : 'starting';
}

async function consoleOf(session: Session, InstanceId: string): Promise<{ readonly text: string; readonly at: number }> {
  const { Output = '', Timestamp } = await session.read('ec2', (ec2, request) =>
    ec2.getConsoleOutput({ InstanceId, Latest: true }, request),
  );
  return { text: Buffer.from(Output, 'base64').toString('utf8'), at: Timestamp?.getTime() ?? session.aws.clock.now() };
}

/** What was not there before; the beginning is lost when there is too much. */
function newText(before: string, now: string): string {
  if (before === '') return now;
  const tail = before.slice(-1_024);
  const at = now.lastIndexOf(tail);
  return at < 0 ? now : now.slice(at + tail.length);
}

/** A group without a rule for what comes in, made once per network. */
async function securityGroup(session: Session, subnetId: string | undefined): Promise<string> {
  const vpc = await networkOf(session, subnetId);
  const Filters = [
    { Name: 'group-name', Values: [GROUP_NAME] },
    { Name: 'vpc-id', Values: [vpc] },
  ];
  const { SecurityGroups = [] } = await session.read('ec2', (ec2, request) => ec2.describeSecurityGroups({ Filters }, request));
  const [present] = SecurityGroups;
  if (present?.GroupId !== undefined) {
    if (!isManaged(tagMap(present.Tags)) || (present.IpPermissions ?? []).length > 0) throw foreign('security group', GROUP_NAME);
    return present.GroupId;
  }
  const { GroupId } = await session.write('ec2', (ec2, request) =>
    ec2.createSecurityGroup(
      {
        GroupName: GROUP_NAME,
        Description: 'Nothing comes in',
        VpcId: vpc,
        TagSpecifications: [{ ResourceType: 'security-group', Tags: tagList({ [MANAGED.key]: MANAGED.value }) }],
      },
      request,
    ),
  );
  return GroupId ?? '';
}

async function networkOf(session: Session, subnetId: string | undefined): Promise<string> {
  if (subnetId !== undefined) {
    const { Subnets = [] } = await session.read('ec2', (ec2, request) => ec2.describeSubnets({ SubnetIds: [subnetId] }, request));
    return Subnets[0]?.VpcId ?? '';
  }
  const Filters = [{ Name: 'is-default', Values: ['true'] }];
  const found = await session.find('ec2', (ec2, request) => ec2.describeVpcs({ Filters }, request), isNotFound);
  const vpc = found?.Vpcs?.[0]?.VpcId;
  if (vpc === undefined) throw new RunnerError('CONFIG_INVALID', 'there is no default network in this region: set the option subnetId');
  return vpc;
}
