/** The contract of a plugin: what a package has to offer to add executors, deployers and backends. */

import type { Clock } from '../clock.ts';
import type { FaasDeployer } from '../executor/deployer.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import type { MachineHost } from '../executor/machine.ts';
import type { WorkQueue } from '../queue/queue.ts';
import type { InstanceBackend } from '../runtime/runtime.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';

/** What every factory gets besides the user's options. */
export interface PluginContext {
  readonly clock: Clock;
  readonly telemetry: Telemetry;
}

/** Makes one executor from options that the user wrote; checks them, and throws `CONFIG_INVALID`. Does no I/O. */
export type ExecutorFactory = (options: unknown, context: PluginContext) => FaasExecutor;

/** Makes one deployer from options that the user wrote; checks them, and throws `CONFIG_INVALID`. Does no I/O. */
export type DeployerFactory = (options: unknown, context: PluginContext) => FaasDeployer;

/** Makes one backend of the function runtime from options that the user wrote; checks them, and throws `CONFIG_INVALID`. Does no I/O. */
export type BackendFactory = (options: unknown, context: PluginContext) => InstanceBackend;

/** Makes one host of long-running programs from options that the user wrote; checks them, and throws `CONFIG_INVALID`. Does no I/O. */
export type HostFactory = (options: unknown, context: PluginContext) => MachineHost;

/** Makes one work queue from options that the user wrote; checks them, and throws `CONFIG_INVALID`. Does no I/O: it connects on first use. */
export type QueueFactory = (options: unknown, context: PluginContext) => WorkQueue;

/** What a plugin may add, under its own name. Each at most once. */
export interface PluginRegistration {
  executor(factory: ExecutorFactory): void;
  deployer(factory: DeployerFactory): void;
  backend(factory: BackendFactory): void;
  host(factory: HostFactory): void;
  queue(factory: QueueFactory): void;
}

/** A package that a plugin loads on first use. */
export interface Peer {
  readonly name: string;
  /** Versions that work, as npm writes them. */
  readonly range: string;
}

/**
 * Adds a platform.
 *
 * Loading and registering a plugin does no I/O and loads no SDK: peers are loaded with `importPeer` on first use.
 *
 * @example
 * export const plugin: Plugin = {
 *   name: 'my-cloud',
 *   peers: [{ name: 'my-cloud-sdk', range: '^2.0.0' }],
 *   register: (registry) => registry.executor((options) => new MyExecutor(parse(options))),
 * };
 */
export interface Plugin {
  /** Lower-case letters, digits and dashes. */
  readonly name: string;
  readonly peers?: readonly Peer[];
  register(registry: PluginRegistration): void;
}
